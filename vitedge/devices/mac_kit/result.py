# SPDX-License-Identifier: Apache-2.0
"""Reads what a verify kit brought back from a Mac: a file of somebody else's machine, and believed in nothing."""

from __future__ import annotations

import ast
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

FORMAT_VERSION = 1
MACHINE = ("name", "model", "chip", "macos", "python", "coremltools", "numpy")
"""What is kept of what the result says of its machine."""
_ABOUT = "about"
_ABOUT_LIMIT = 1 << 20
_HEADER_LIMIT = 1 << 14
"""Bytes of the JSON text, and of what stands around an array in the file."""
_TEXT_LIMIT = 200
_MAGIC = b"\x93NUMPY\x01\x00"
_START = len(_MAGIC) + 2
"""Bytes before the header of version 1.0: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html."""

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Path of an artifact to the shapes of its outputs, all images together."""


@dataclass(frozen=True)
class Run:
    """One package on one choice of compute units."""

    artifact: str
    compute_units: str
    load_seconds: float
    median_ms: float
    outputs: Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Result:
    """What a kit's script found."""

    bundle: str
    """SHA-256 of the ``reference.npz`` that the kit was made of."""
    machine: Mapping[str, str]
    files: Mapping[str, str]
    """File of a package to its SHA-256 on that machine."""
    inputs: Mapping[str, str]
    """Path of an artifact to the hash of what it was fed."""
    runs: tuple[Run, ...]


def read_result(path: Path, shapes: Shapes) -> Result:
    """Reads ``result.npz``; at no time more of it than what a result of these shapes can hold.

    Args:
        path: the file.
        shapes: of the outputs that every run has to have.

    Raises:
        UnreadableArtifact: it is not such a file, or outputs are missing or have other shapes.
    """
    try:
        if path.stat().st_size > _limit(shapes):
            raise ValueError("it is larger than what the kit of this bundle brings back")
        with zipfile.ZipFile(path) as archive:
            return _result(archive, shapes)
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UnreadableArtifact(f"{path} cannot be read as a kit's result: {_said(error)}.") from error
    except (ValueError, TypeError, RuntimeError, SyntaxError, MemoryError) as error:
        raise UnreadableArtifact(f"{path} is not the result of this bundle's kit: {_said(error)}.") from error


def _said(error: BaseException) -> str:
    said = "".join(letter if letter.isprintable() else " " for letter in str(error)[:_TEXT_LIMIT])
    return said.rstrip(". ") or type(error).__name__


def _limit(shapes: Shapes) -> int:
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
    """One array of at most ``limit`` bytes; NumPy's own reader would allocate whatever the header says."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise ValueError(f"it lacks {name}") from None
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit + _HEADER_LIMIT:
        raise ValueError(f"{name} is compressed, or larger than it can be")
    content = archive.read(info)
    if content[: len(_MAGIC)] != _MAGIC or len(content) < _START:
        raise ValueError(f"{name} is in another format than version 1.0 of NumPy's")
    start = _START + int.from_bytes(content[len(_MAGIC) : _START], "little")
    header = ast.literal_eval(content[_START:start].decode("latin1"))
    shape = _shape(header, dtype)
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise ValueError(f"{name} does not hold what its header says")
    values: npt.NDArray[Any] = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return values


def _shape(header: Any, dtype: np.dtype[Any]) -> tuple[int, ...]:
    if not isinstance(header, dict) or header.get("descr") != dtype.str or header.get("fortran_order") is not False:
        raise ValueError(f"an array is not of {dtype} in C order")
    shape = header.get("shape")
    if not isinstance(shape, tuple) or not all(type(edge) is int and edge >= 0 for edge in shape):
        raise ValueError("an array has no shape")
    return shape


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
    """What can be shown in a terminal and kept in a manifest."""
    return "".join(letter for letter in value[:_TEXT_LIMIT] if letter.isprintable()) if isinstance(value, str) else ""
