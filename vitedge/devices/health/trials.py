# SPDX-License-Identifier: Apache-2.0
"""Tries what runs models on a device: one JSON line a trial. A part of the runner.

A trial imports a library and computes something tiny whose result is known, so that what is believed was seen. It runs
in a process of its own, which a library may end as it likes: the parent knows from the lines how far it came.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from vitedge.devices.about import installed
from vitedge.devices.health.names import ABSENT, BEGINS, BROKEN, ELSEWHERE, GPU_PROVIDERS, PROVIDERS, WORKS
from vitedge.errors import MissingBackend

_TOLERANCE = 1e-2
"""Largest difference that a sound runtime may have: some compute in half precision."""


class ElsewhereError(Exception):
    """This machine is none where it could work."""


def _room() -> dict[str, Any]:
    """Returns what is free on the disks that vitedge writes to, and in memory, in units of 10^6 bytes."""
    cache = os.environ.get("VITEDGE_CACHE") or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    while not os.path.isdir(cache) and os.path.dirname(cache) != cache:
        cache = os.path.dirname(cache)
    places = {"cache": cache, "temporary files": tempfile.gettempdir()}
    return {
        "folders": places,
        "free_mb": {name: shutil.disk_usage(place).free // 10**6 for name, place in places.items()},
        "memory_mb": _available_mb(),
    }


def _available_mb() -> int | None:
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            told = [line.split() for line in file if line.startswith("MemAvailable:")]
        return int(told[0][1]) * 1024 // 10**6
    except (OSError, IndexError, ValueError):
        return None


def _onnxruntime(provider: str = "CPUExecutionProvider") -> dict[str, Any]:
    """Computes on one execution provider, which ONNX Runtime has to take."""
    tiny, onnxruntime = _tiny(), imported("onnxruntime")
    listed = list(onnxruntime.get_available_providers())
    chosen = list(dict.fromkeys((provider, "CPUExecutionProvider")))
    problem = ""
    try:
        session = onnxruntime.InferenceSession(tiny.model(), providers=chosen)
        if provider not in session.get_providers():
            problem = f"asked for {provider}, ONNX Runtime took {', '.join(session.get_providers())}"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        if provider in GPU_PROVIDERS:
            need_gpu()
        raise RuntimeError(problem)
    _check(session.run(None, {tiny.INPUT: tiny.example()})[0])
    return {"version": onnxruntime.__version__, "providers": listed}


def _openvino() -> dict[str, Any]:
    tiny, openvino = _tiny(), imported("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(tiny.model()), "CPU")
    _check(compiled({tiny.INPUT: tiny.example()})[0])
    return {"version": openvino.__version__.partition("-")[0], "devices": list(core.available_devices)}


def _tensorrt(package: str = "tensorrt") -> dict[str, Any]:
    """Starts TensorRT's runtime, which takes a GPU."""
    try:
        library = imported(package)
    except ModuleNotFoundError as error:
        if error.name == package:
            need_gpu()  # without one nobody should install it
        raise
    name = need_gpu()
    if library.Runtime(library.Logger(library.Logger.ERROR)) is None:
        raise RuntimeError("it gives no runtime")
    return {"version": library.__version__, "gpu": name}


def _coreml() -> dict[str, Any]:
    if platform.system() != "Darwin":
        raise ElsewhereError("Core ML computes on macOS alone")
    version = imported("coremltools").__version__
    imported("coremltools.libcoremlpython")
    return {"version": version}


def imported(package: str) -> Any:
    """Returns a package, which a device need not have.

    Raises:
        ModuleNotFoundError: it is not installed.
        RuntimeError: it is, and its import fails; the cause says why.
    """
    try:
        return __import__(package)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise
        raise RuntimeError(f"{package} cannot be imported") from error


def _tiny() -> Any:
    imported("numpy")
    from vitedge.devices.health import tiny  # noqa: PLC0415 - whose NumPy may be broken, which is told of it alone

    return tiny


def need_gpu() -> str:
    """Returns the name of the GPU; raises `ElsewhereError` where there is no NVIDIA GPU."""
    imported("numpy")
    from vitedge.runtimes.cuda import gpu  # noqa: PLC0415 - likewise

    try:
        return gpu().name
    except MissingBackend as missing:
        raise ElsewhereError(str(missing).partition(":")[0]) from None


def _check(found: Any) -> None:
    tiny = _tiny()
    expected = tiny.example() @ tiny.weight()
    error = float(abs(expected - found).max() / abs(expected).max())
    if not error <= _TOLERANCE:
        raise RuntimeError(f"a product of two matrices is {error:.1%} off")


TRIALS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "python": installed,
    "room": _room,
    "onnxruntime": _onnxruntime,
    **{f"onnxruntime {name}": partial(_onnxruntime, name) for name in PROVIDERS},
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "tensorrt-rtx": partial(_tensorrt, "tensorrt_rtx"),
    "coreml": _coreml,
}
"""Name to what is tried."""
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "tensorrt-rtx": ("tensorrt_rtx",),
    "coreml": ("coremltools",),
}
"""Trial to the packages that are not installed where it finds none; its own name where it is not here."""


def run(
    names: Iterable[str],
    trials: Mapping[str, Callable[[], dict[str, Any]]] = TRIALS,
    libraries: Mapping[str, tuple[str, ...]] = LIBRARIES,
) -> None:
    """Tries one after another and writes a line of each; whatever the libraries print goes to the standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in names:
        sys.stderr.write(f"\n{BEGINS}{name}\n")
        sys.stderr.flush()
        own = libraries.get(name, (name.partition(" ")[0],))
        out.write(json.dumps({"trial": name, **_outcome(trials[name], own)}) + "\n")
        out.flush()


def _outcome(trial: Callable[[], dict[str, Any]], own: tuple[str, ...]) -> dict[str, Any]:
    try:
        return {"state": WORKS, "told": trial()}
    except ElsewhereError as error:
        return {"state": ELSEWHERE, "error": str(error)}
    except ModuleNotFoundError as error:
        if error.name in own:
            return {"state": ABSENT, "error": str(error.name)}
        return {"state": BROKEN, "error": _told(error)}
    except (Exception, SystemExit) as error:
        return {"state": BROKEN, "error": _told(error)}


def _told(error: BaseException) -> str:
    """Returns the type and message of an error and of those that it came from, a line each."""
    lines: list[str] = []
    at: BaseException | None = error
    while at is not None and len(lines) < 8:
        text = " ".join(str(at).split())[:600]
        lines.append(f"{type(at).__name__}: {text}" if text else type(at).__name__)
        at = at.__cause__ or at.__context__
    return "\n".join(lines)


if __name__ == "__main__":
    run(sys.argv[1:])
