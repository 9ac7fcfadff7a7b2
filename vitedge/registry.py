# SPDX-License-Identifier: Apache-2.0
"""The tables of runtimes and devices, and the only lazy import of the package.

A part is a module with the same public names as every other part of its table. Nothing is imported until it is asked
for, so that a bundle can be validated where PyTorch is not installed and ``--help`` stays quick.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import sys
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from vitedge.errors import BadRecipe, MissingBackend
from vitedge.sentences import nearest


@dataclass(frozen=True)
class Part:
    """A module that is imported when it is asked for, and what it needs."""

    title: str
    """Name in messages, such as ``Core ML``."""
    module: str
    """Dotted name of the module; empty for a part that is announced but not built."""
    needs: tuple[str, ...] = ()
    """Import names of the third-party packages without which the module cannot be imported."""
    install: str = "pip install vitedge"
    """The command that installs them."""
    systems: tuple[str, ...] = ()
    """Values of ``platform.system()`` where it works; empty is everywhere."""
    otherwise: str = ""
    """Advice for a system where it does not work or is not built."""
    hardware: str = ""
    """Function, as ``package.module:name``, that raises `MissingBackend` where the hardware is missing; empty where any
    will do."""


Table = typing.Mapping[str, Part]

RUNTIMES: Table = {
    "torch": Part("PyTorch", "vitedge.runtimes.torch_eager", ("torch",)),
    "onnxruntime": Part("ONNX Runtime", "vitedge.runtimes.onnxruntime", ("onnxruntime",)),
    "onnxruntime-cuda": Part(
        "ONNX Runtime on CUDA", "vitedge.runtimes.onnxruntime_cuda", ("onnxruntime",), "pip install onnxruntime-gpu"
    ),
    "onnxruntime-tensorrt": Part(
        "ONNX Runtime on TensorRT",
        "vitedge.runtimes.onnxruntime_tensorrt",
        ("onnxruntime",),
        "pip install onnxruntime-gpu",
    ),
    "openvino": Part("OpenVINO", "vitedge.runtimes.openvino", ("openvino",), "pip install 'vitedge[openvino]'"),
    "mlprogram": Part(
        "ML Program", "vitedge.runtimes.mlprogram", ("torch", "coremltools"), "pip install 'coremltools>=9.0'"
    ),
    "mlprogram-fp32": Part(
        "ML Program in float32",
        "vitedge.runtimes.mlprogram_fp32",
        ("torch", "coremltools"),
        "pip install 'coremltools>=9.0'",
    ),
    "coreml": Part(
        "Core ML",
        "vitedge.runtimes.coreml",
        ("coremltools",),
        "pip install 'coremltools>=9.0'",
        systems=("Darwin",),
        otherwise="it runs on a Mac, for which vitedge kit write BUNDLE DIR makes a kit of a bundle; here vitedge "
        "validate BUNDLE computes it op by op",
    ),
    # The engine says which of two packages it needs; the module asks for that one when it has read the file.
    "tensorrt": Part(
        "TensorRT",
        "vitedge.runtimes.tensorrt",
        install="pip install 'vitedge[tensorrt]'",
        systems=("Linux", "Windows"),
        otherwise="there is no NVIDIA GPU; the ONNX file beside the engine is run by: vitedge validate",
        hardware="vitedge.runtimes.cuda:gpu",
    ),
}

LOCAL = "local"
"""The device that this machine is."""
DEVICES: Table = {
    LOCAL: Part("this machine", "vitedge.devices.local"),
    "ssh": Part("a machine that ssh reaches", "vitedge.devices.ssh"),
    "adb": Part("an Android device", "vitedge.devices.adb"),
}


RENDERING = Part("what shows a record", "vitedge.render.showing", ("rich",), "pip install rich")
"""What shows a record that a verb returned, in rich, in a notebook or as text; found here when it is looked at."""
RENDERERS: Table = {
    "BenchReport": Part("latency", "vitedge.render.bench"),
    "Checkup": Part("a check-up", "vitedge.render.doctor"),
    "Comparison": Part("candidates", "vitedge.render.compare"),
    "Evaluation": Part("accuracy", "vitedge.render.evaluate"),
    "ExportResult": Part("a bundle", "vitedge.render.export"),
    "Inspection": Part("a checkpoint", "vitedge.render.inspect"),
    "PruningResult": Part("a pruned model", "vitedge.render.prune"),
    "QuantizationResult": Part("a quantized program", "vitedge.render.quantize"),
    "Reference": Part("a model", "vitedge.render.reference"),
    "Validation": Part("reports", "vitedge.render.validate"),
}
"""Class of a record to what prints it; see `vitedge.records.showing`."""


def check_device(name: str) -> None:
    """Refuses a name that no device can have, before any work is done for it.

    Raises:
        BadRecipe: there is no such kind of device, or it has no address where it needs one, or one where it has none.
    """
    kind, _, address = name.partition(":")
    if kind not in DEVICES or (kind == "ssh" and not address) or (kind == LOCAL and name != LOCAL):
        raise BadRecipe(f"There is no device {name!r}; choose from local, ssh:HOST, adb and adb:SERIAL.")


def load(table: Table, name: str) -> ModuleType:
    """Imports the part of that name.

    Raises:
        BadRecipe: the table has no such name.
        MissingBackend: see `imported`.
    """
    return imported(_part(table, name))


def usable(table: Table, name: str) -> Part:
    """Returns the part of that name, which can be used on this machine; imports nothing.

    Raises:
        BadRecipe: the table has no such name.
        MissingBackend: a package is not installed, or the part does not work on this machine.
    """
    part = _part(table, name)
    _check_usable(part)
    return part


def imported(part: Part) -> ModuleType:
    """Imports a part.

    Raises:
        MissingBackend: a package is not installed, or the part does not work on this machine.
    """
    _check_usable(part)
    try:
        return importlib.import_module(part.module)
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "vitedge":
            raise  # a module of ours is at fault, not the installation
        raise MissingBackend(
            f"{part.title} is installed but cannot be imported ({error}); type: {part.install}"
        ) from error


def generated(package: str, folder: str, module: str) -> ModuleType:
    """Imports a module of generated code from a folder of a package, without importing the package itself.

    coremltools takes seconds to import, and its generated classes are all that reading needs.

    Raises:
        MissingBackend: the package is not installed, or what it is generated for is not.
    """
    name = f"{package}_{folder}"
    if f"{name}.{module}" in sys.modules:
        return sys.modules[f"{name}.{module}"]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingBackend(f"{package} is not installed; type: pip install '{package}'")
    if name not in sys.modules:
        stand_in = ModuleType(name)
        stand_in.__path__ = [str(Path(place) / folder) for place in spec.submodule_search_locations]
        sys.modules[name] = stand_in
    try:
        return importlib.import_module(f"{name}.{module}")
    except ImportError as error:
        raise MissingBackend(f"{package} cannot be used ({error}); type: pip install '{package}'") from error


def refusal(table: Table, name: str, system: str | None = None) -> str:
    """Returns why a part does not work on a system, whatever is installed; empty where it does.

    Args:
        table: a table of this module.
        name: a key of it.
        system: a value of ``platform.system()``; None is this machine, whose hardware counts too.
    """
    return refusal_of(_part(table, name), system)


def refusal_of(part: Part, system: str | None = None) -> str:
    """Returns why a part does not work on a system; see `refusal`."""
    here = system or platform.system()
    if not part.module:
        return f"{part.title} is not reached from here: {part.otherwise}."
    if part.systems and here not in part.systems:
        return f"{part.title} does not run on {here}: {part.otherwise}."
    if part.hardware and system is None:
        try:
            function(part.hardware)()
        except MissingBackend as missing:
            return str(missing)
    return ""


def works_here(table: Table, name: str) -> bool:
    """Returns whether the part runs on this system and its hardware, whatever is installed."""
    return not refusal(table, name)


def missing(table: Table, name: str) -> tuple[str, ...]:
    """Returns the packages that the part needs and that are not installed."""
    return absent_packages(_part(table, name))


def absent_packages(part: Part) -> tuple[str, ...]:
    """Returns the packages that a part needs and that are not installed."""
    return tuple(package for package in part.needs if _is_absent(package))


def _is_absent(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is None
    except (ImportError, ValueError):  # a package without a spec, as one that is half removed
        return True


def backend_of(error: ImportError) -> MissingBackend | None:
    """Returns the error for the user whose installation lacks a package; None where a module of ours is at fault."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "vitedge") or package in sys.stdlib_module_names:
        return None
    install = f"pip install {_DISTRIBUTIONS.get(package, package)}"
    if isinstance(error, ModuleNotFoundError):
        return MissingBackend(f"This command needs {package}, which is not installed; type: {install}")
    return MissingBackend(f"{package} is installed but cannot be imported ({error}); type: {install} --force-reinstall")


def in_background(module: str) -> Callable[[], ModuleType]:
    """Starts importing a module of ours in a thread; the result waits for it, and raises what it raised."""
    pool = ThreadPoolExecutor(max_workers=1)
    future = pool.submit(importlib.import_module, module)
    pool.shutdown(wait=False)
    return future.result


def function(dotted: str) -> Callable[..., Any]:
    """Returns the function written ``package.module:name``, the form in which a worker process is told what to call.

    Raises:
        ValueError: there is no such module or function.
    """
    module, _, name = dotted.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{dotted!r} is not a function written package.module:name ({error})") from error
    if not callable(found):
        raise ValueError(f"{dotted!r} is not a function")
    return found  # type: ignore[no-any-return]


_PACKAGES = ("vitedge", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "coremltools", "numpy", "pillow")
"""Packages that decide what an export writes; their versions go into its manifest."""
_DISTRIBUTIONS = {"PIL": "pillow", "coremltools": "'coremltools>=9.0'", "onnx_ir": "onnx-ir"}
"""Import names to what pip installs, where the two differ."""
UNINSTALLED = "uninstalled"
"""The version of vitedge when it runs from its sources without being installed."""


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Returns the installed versions of packages by their names on the package index; absent ones are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, str]:
    """Returns the versions of the packages that an export uses, of Python, and the platform, for a manifest."""
    return {
        **versions(_PACKAGES),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _check_usable(part: Part) -> None:
    refused = refusal_of(part)
    if refused:
        raise MissingBackend(refused)
    absent = absent_packages(part)
    if absent:
        raise MissingBackend(f"{part.title} needs {', '.join(absent)}, which is not installed; type: {part.install}")


def _part(table: Table, name: str) -> Part:
    try:
        return table[name]
    except KeyError:
        raise BadRecipe(f"There is no {name!r}; choose from {', '.join(table)}{nearest(name, table)}") from None
