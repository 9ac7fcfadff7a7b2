# SPDX-License-Identifier: Apache-2.0
"""Reads the results of a verify kit from a Mac. The file is somebody else's, and nothing in it is trusted."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitedge.devices.mac_kit.verify import UNITS
from vitedge.errors import UnreadableArtifact
from vitedge.files.npy import read_header

FORMAT_VERSION = 1
MACHINE = ("name", "model", "chip", "macos", "python", "coremltools", "numpy")
"""Facts about the Mac that are kept of a result."""
_ABOUT = "about"
_ABOUT_LIMIT = 1 << 20
_HEADER_LIMIT = 1 << 14
"""Largest sizes in bytes of the JSON text, and of an array's header in the file."""
_TEXT_LIMIT = 200

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Path of an artifact to the shapes of its outputs by name, with all images in the first axis."""


@dataclass(frozen=True)
class Run:
    """One package on one choice of compute units."""

    artifact: str
    """Path of the package in the bundle."""
    compute_units: str
    """Name of a member of ``coremltools.ComputeUnit``."""
    load_seconds: float
    median_ms: float
    outputs: Mapping[str, npt.NDArray[np.float32]]
    """Output name to its values for all images, those of the last batch's padding included."""


@dataclass(frozen=True)
class Result:
    """The content of a ``result.npz``."""

    bundle: str
    """SHA-256 of the ``reference.npz`` of the bundle that the kit was written from."""
    machine: Mapping[str, str]
    """Facts about the Mac; the names are those of `MACHINE`."""
    files: Mapping[str, str]
    """File of a package to its SHA-256 on that machine."""
    inputs: Mapping[str, str]
    """Path of an artifact to the hash of its inputs."""
    runs: tuple[Run, ...]


def read_result(path: Path, shapes: Shapes) -> Result:
    """Reads ``result.npz``; never more bytes of it than a result of these shapes can have.

    Args:
        path: the file.
        shapes: of the outputs that every run has to have.

    Raises:
        UnreadableArtifact: it is not such a file, or outputs are missing or have other shapes.
    """
    try:
        if path.stat().st_size > _limit(shapes):
            raise ValueError("it is larger than a result of this bundle's kit")
        with zipfile.ZipFile(path) as archive:
            return _result(archive, shapes)
    except FileNotFoundError:
        raise UnreadableArtifact(f"There is no {path}; python runner.pyz, in the kit on a Mac, writes it.") from None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UnreadableArtifact(f"{path} cannot be read as a kit's result: {_said(error)}.") from error
    except (ValueError, TypeError, RuntimeError, SyntaxError, MemoryError) as error:
        raise UnreadableArtifact(f"{path} is not the result of this bundle's kit: {_said(error)}.") from error


def _said(error: BaseException) -> str:
    """Returns a library's message, short and printable, or the error's type where it has none."""
    said = "".join(letter if letter.isprintable() else " " for letter in str(error)[:_TEXT_LIMIT])
    return said.rstrip(". ") or type(error).__name__


def _limit(shapes: Shapes) -> int:
    """Returns the largest size in bytes of a result with these outputs."""
    sizes = [_size(shape) + _HEADER_LIMIT for outputs in shapes.values() for shape in outputs.values()]
    return 2 * _ABOUT_LIMIT + len(UNITS) * sum(sizes)


def _size(shape: tuple[int, ...]) -> int:
    return math.prod(shape) * np.dtype(np.float32).itemsize


def _result(archive: zipfile.ZipFile, shapes: Shapes) -> Result:
    text = _array(archive, _ABOUT, np.dtype(np.uint8), _ABOUT_LIMIT)
    about = json.loads(text.tobytes().decode())
    if not isinstance(about, dict) or about.get("format") != FORMAT_VERSION:
        raise ValueError(f"it has another format than {FORMAT_VERSION}")
    runs = [_run(entry, archive, shapes) for entry in _taken(about, "runs", list)[: len(UNITS) * len(shapes)]]
    pairs = {(run.artifact, run.compute_units) for run in runs}
    if len(pairs) < len(runs):
        raise ValueError("it has a package on the same compute units twice")
    missing = shapes.keys() - {artifact for artifact, _ in pairs}
    if missing:
        raise ValueError(f"it lacks the outputs of {min(missing)}")
    machine = _taken(about, "machine", dict)
    return Result(
        bundle=_text(about.get("bundle")),
        machine={name: _text(machine.get(name)) for name in MACHINE},
        files={_text(name): _text(digest) for name, digest in _taken(about, "files", dict).items()},
        inputs={_text(name): _text(digest) for name, digest in _taken(about, "inputs", dict).items()},
        runs=tuple(runs),
    )


def _run(entry: Any, archive: zipfile.ZipFile, shapes: Shapes) -> Run:
    if not isinstance(entry, dict):
        raise ValueError("a run is no object")
    artifact, units = _taken(entry, "artifact", str), _taken(entry, "compute_units", str)
    if artifact not in shapes or units not in UNITS:
        raise ValueError(f"it has a run of {_text(artifact)} on {_text(units)}, which the kit does not have")
    outputs = {}
    for name, shape in shapes[artifact].items():
        values = _array(archive, f"{units}/{artifact}/{name}", np.dtype(np.float32), _size(shape))
        if values.shape != shape:
            raise ValueError(f"{name} of {artifact} has shape {values.shape} instead of {shape}")
        outputs[name] = values
    return Run(artifact, units, _number(entry, "load_seconds"), _number(entry, "median_ms"), outputs)


def _array(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], limit: int) -> npt.NDArray[Any]:
    """Returns one array of at most ``limit`` bytes; NumPy's own reader would allocate whatever the header says."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise ValueError(f"it lacks {name}") from None
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit + _HEADER_LIMIT:
        raise ValueError(f"{name} is compressed, or larger than it can be")
    content = archive.read(info)
    try:
        header = read_header(io.BytesIO(content))
    except ValueError as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    if header.dtype != dtype or header.fortran_order:
        raise ValueError(f"{name} is not of {dtype} in C order")
    if header.file_size != len(content):
        raise ValueError(f"{name} does not hold what its header says")
    values: npt.NDArray[Any] = np.frombuffer(content, dtype, offset=header.start).reshape(header.shape)
    return values


def _taken(mapping: dict[str, Any], key: str, kind: type) -> Any:
    value = mapping.get(key)
    if not isinstance(value, kind):
        raise ValueError(f"its {key} is missing or no {kind.__name__}")
    return value


def _number(mapping: dict[str, Any], key: str) -> float:
    value = mapping.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"its {key} is no positive number")
    return float(value)


def _text(value: Any) -> str:
    """Returns a string in a form that a terminal can show and a manifest can keep; empty for anything else."""
    return "".join(letter for letter in value[:_TEXT_LIMIT] if letter.isprintable()) if isinstance(value, str) else ""
