# SPDX-License-Identifier: Apache-2.0
"""Runs Core ML packages on this Mac and compares their outputs with those of the PyTorch model.

A part of the runner, which lies in every kit as runner.pyz. It needs Python 3.8 or newer, coremltools and numpy (and
pillow where a package takes an image). Everything it reads lies beside it; it writes result.npz.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

try:
    import numpy as np
except ImportError:
    print("runner.pyz: numpy is not installed; type: python -m pip install coremltools numpy", file=sys.stderr)
    sys.exit(3)

UNITS = ("ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")
CPU_ONLY = UNITS[1]
WARM_UP = 5
"""Predictions that are not timed."""
SCORES = "logits"
"""The output that holds class scores, of which the top-1 class is compared."""
TIE = 1e-6
"""Scores of one image nearer than this, relative to its largest magnitude, are a tie that float32 cannot decide."""


class Stop(Exception):  # noqa: N818 - as the errors of vitedge
    """One sentence and the exit code: 2 no kit, 3 wrong machine, 4 a check failed, 5 Core ML failed."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def main(arguments: list[str] | None = None) -> int:
    """Runs the kit; returns the exit code, 0 if every output is within the tolerance."""
    options = parse(arguments)
    try:
        return verify(options)
    except Stop as stop:
        print(f"runner.pyz: {stop}", file=sys.stderr)
        return stop.code


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description="Run this kit's Core ML packages, compare and time them.")
    parser.add_argument("--compute-units", default="ALL", choices=UNITS, help="what Core ML may use (ALL)")
    parser.add_argument("--compare-cpu", action="store_true", help="run a second time with CPU_ONLY")
    parser.add_argument("--repeat", type=int, default=50, metavar="N", help="timed predictions (50)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write (result.npz beside this file)")
    parser.add_argument("--kit", type=Path, default=Path(__file__).resolve().parent, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def verify(options: argparse.Namespace) -> int:
    """Checks the files, runs every package, prints the table and writes the result; returns the exit code."""
    if platform.system() != "Darwin":
        raise Stop(3, f"Core ML runs on macOS only, and this is {platform.system()}: copy the folder to a Mac.")
    folder, units = options.kit, [options.compute_units]
    if options.compare_cpu and CPU_ONLY not in units:
        units.append(CPU_ONLY)
    try:
        kit = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Stop(2, f"{folder} is not a kit: its kit.json cannot be read ({error}).") from error
    files = check_files(folder, kit)
    need_packages(kit)
    inputs, expected = arrays(folder / "inputs.npz"), arrays(folder / "expected.npz")
    runs, outputs, passed = [], {}, True
    print(f"{'package':20} {'units':12} {'output':8} {'relative':>10} {'SQNR dB':>9} {'top-1':>7} {'median ms':>10}")
    for artifact in kit["artifacts"]:
        for unit in units:
            run, found = run_package(folder, artifact, unit, inputs[artifact["path"]], options.repeat)
            runs.append(run)
            for name in artifact["outputs"]:
                outputs[f"{unit}/{artifact['path']}/{name}"] = found[name]
                passed = (
                    show(run, name, compare(expected[name], found[name], scores=name == SCORES), kit["tolerance"])
                    and passed
                )
    about = {
        "format": 1,
        "bundle": kit["bundle"],
        "machine": machine(),
        "files": files,
        "inputs": {name: content_hash(values) for name, values in inputs.items()},
        "runs": runs,
    }
    target = options.output or folder / "result.npz"
    write(target, about, outputs)
    print("Every output is within the tolerance." if passed else "NOT every output is within the tolerance.")
    print(f"Take {target} back and type: vitedge kit import BUNDLE {target.name}")
    return 0 if passed else 4


def check_files(folder: Path, kit: dict[str, Any]) -> dict[str, str]:
    """Returns the SHA-256 of every file of the packages; stops if a file of the kit is not the one that was written."""
    listed = dict(kit["files"])
    packages: dict[str, str] = {}
    for artifact in kit["artifacts"]:
        packages.update(artifact["files"])
    for name, digest in sorted({**listed, **packages}.items()):
        path = folder / name
        if not path.is_file() or hash_file(path) != digest:
            raise Stop(4, f"{name} is not the file that was written into the kit: copy the folder again.")
    return {name: hash_file(folder / name) for name in packages}


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def content_hash(values: Any) -> str:
    """Returns the SHA-256 of an array's type, shape and numbers, whatever file they lie in."""
    head = f"{values.dtype.str} {'x'.join(str(edge) for edge in values.shape)}\n"
    return hashlib.sha256(head.encode() + values.tobytes()).hexdigest()


def need_packages(kit: dict[str, Any]) -> None:
    """Stops where a package is not installed, with the command that installs it."""
    wanted = ["coremltools", "numpy"]
    if any(artifact["image"] for artifact in kit["artifacts"]):
        wanted.append("pillow")
    missing = []
    for name in wanted:
        try:
            __import__("PIL" if name == "pillow" else name)
        except ImportError:
            missing.append(name)
    if missing:
        raise Stop(3, f"{missing[0]} is not installed; type: python -m pip install {' '.join(wanted)}")


def arrays(path: Path) -> dict[str, Any]:
    """Returns every array of an .npz by name."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def load(path: Path, units: str) -> Any:
    """Returns the package as a Core ML model, compiled for this machine. Needs macOS."""
    import coremltools

    return coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit[units])


def predict(model: Any, feeds: dict[str, Any]) -> dict[str, Any]:
    """Returns the outputs of Core ML for one batch. Needs macOS."""
    outputs: dict[str, Any] = model.predict(feeds)
    return outputs


def feed(artifact: dict[str, Any], batch: Any) -> dict[str, Any]:
    """Returns one batch as the package takes it: predict wants an image input as an image of pillow."""
    if not artifact["image"]:
        return {artifact["input"]: batch}
    from PIL import Image

    pixels = batch[0].transpose(1, 2, 0)
    return {artifact["input"]: Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])}


def run_package(
    folder: Path, artifact: dict[str, Any], units: str, images: Any, repeat: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs one package over all images, then times it; returns the times, and the outputs for all images."""
    size = artifact["batch"]
    feeds = [feed(artifact, images[start : start + size]) for start in range(0, len(images), size)]
    try:
        begin = time.perf_counter()
        model = load(folder / artifact["path"], units)
        loaded = time.perf_counter() - begin
        parts = [predict(model, one) for one in feeds]
        milliseconds = timed(model, feeds, repeat)
    except Exception as error:  # coremltools raises whatever its parts raise
        raise Stop(5, f"Core ML failed to run {artifact['path']} with {units}: {error}.") from error
    missing = [name for name in artifact["outputs"] if name not in parts[0]]
    if missing:
        raise Stop(5, f"Core ML returned no {missing[0]} from {artifact['path']}.")
    found = {
        name: np.concatenate([np.asarray(part[name], np.float32) for part in parts]) for name in artifact["outputs"]
    }
    run = {"artifact": artifact["path"], "compute_units": units, "load_seconds": loaded, "median_ms": milliseconds}
    return run, found


def timed(model: Any, feeds: list[Any], repeat: int) -> float:
    """Returns the median time of a prediction in milliseconds, after a warm-up."""
    samples = []
    for index in range(WARM_UP + max(repeat, 1)):
        begin = time.perf_counter()
        predict(model, feeds[index % len(feeds)])
        samples.append(time.perf_counter() - begin)
    return float(np.median(samples[WARM_UP:]) * 1000)


def show(run: dict[str, Any], name: str, figures: tuple[float, float, float | None], tolerance: dict[str, Any]) -> bool:
    """Prints one line of the table; returns whether the output is within the tolerance."""
    relative, decibels, agreement = figures
    top1 = "-" if agreement is None else f"{agreement:.1%}"
    print(
        f"{run['artifact']:20} {run['compute_units']:12} {name:8} {relative:10.2g} {decibels:9.1f} {top1:>7} "
        f"{run['median_ms']:10.2f}"
    )
    return (
        relative < float("inf")  # NaN and infinity never pass
        and (tolerance["relative_error"] is None or relative <= tolerance["relative_error"])
        and (tolerance["centred_sqnr_db"] is None or decibels >= tolerance["centred_sqnr_db"])
        and (tolerance["agreement"] is None or agreement is None or agreement >= tolerance["agreement"])
    )


def compare(expected: Any, found: Any, *, scores: bool = True) -> tuple[float, float, float | None]:
    """Returns relative error, centred SQNR in dB and share of the same top-1; None where there are no class scores.

    The relative error is max |found - expected| / max |expected|. The SQNR is 10 log10 of the power of the expected
    values, less each one's mean over the images, over the power of the error.
    """
    wanted, got = expected.astype(np.float64), found[: len(expected)].astype(np.float64)
    if wanted.shape != got.shape:
        return float("nan"), float("nan"), None
    with np.errstate(all="ignore"):
        error = got - wanted
        relative = float(np.abs(error).max() / np.abs(wanted).max())
        signal, noise = np.sum((wanted - wanted.mean(0)) ** 2), np.sum(error**2)
        decibels = float(10 * np.log10(signal / noise)) if noise else float("inf")
    if not scores or wanted.ndim != 2 or not decides(wanted).any():
        return relative, decibels, None
    return relative, decibels, float(np.mean(agrees(wanted, got)))


def decides(scores: Any) -> Any:
    """Returns for each image whether some class is told from the best by more than a tie; NaN and infinity tell too."""
    with np.errstate(invalid="ignore"):
        return ~(scores.min(axis=1) >= scores.max(axis=1) - TIE * np.abs(scores).max(axis=1))


def agrees(expected: Any, found: Any) -> Any:
    """Returns for each image whether the top-1 class is the expected one, as ``vitedge.parity.metrics.agrees`` does.

    Either class of a tie among the expected scores counts; scores with NaN or infinity agree with nothing.
    """
    chosen = np.take_along_axis(expected, found.argmax(axis=1)[:, None], axis=1)[:, 0]
    with np.errstate(invalid="ignore"):
        within = chosen >= expected.max(axis=1) - TIE * np.abs(expected).max(axis=1)
    return within & np.isfinite(expected).all(axis=1) & np.isfinite(found).all(axis=1)


def machine() -> dict[str, str]:
    """Returns the facts of this Mac: machine, system and versions."""
    import coremltools

    return {
        "name": platform.node(),
        "model": sysctl("hw.model"),
        "chip": sysctl("machdep.cpu.brand_string"),
        "macos": platform.mac_ver()[0],
        "python": platform.python_version(),
        "coremltools": coremltools.__version__,
        "numpy": np.__version__,
    }


def sysctl(name: str) -> str:
    """Returns what macOS says of its hardware under a name; empty where it says nothing."""
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], stdout=subprocess.PIPE, check=False)
    except OSError:
        return ""
    return done.stdout.decode(errors="replace").strip()


def write(target: Path, about: dict[str, Any], outputs: dict[str, Any]) -> None:
    """Writes the result: one array an output, and the facts about the run as JSON."""
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with target.open("wb") as file:
        np.savez(file, about=text, **outputs)


if __name__ == "__main__":
    sys.exit(main())
