# SPDX-License-Identifier: Apache-2.0
"""Writes and reads a quantized program: ``torch.export``'s own format, with vitedge's records beside the program."""

from __future__ import annotations

import base64
import io
import json
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators that a program consists of
from torch.export import ExportedProgram

from vitedge.errors import UnreadableArtifact, UserError
from vitedge.files.bundle import ReferenceData
from vitedge.files.npy import write_npz
from vitedge.files.plain import from_dict, to_dict
from vitedge.program.program import Program
from vitedge.quantization.file.archive import refuse_code
from vitedge.quantization.file.header import ENTRY, FORMAT_VERSION, SUFFIX, check_entries, is_readable
from vitedge.quantization.records import QuantizationRecord
from vitedge.records import CheckpointIdentity, ModelSpec, Step, TensorSpec

_REFERENCE_OUTPUTS = "reference.npz.base64"


@dataclass(frozen=True)
class Model:
    """The content of a ``.pt2`` file."""

    program: Program
    record: QuantizationRecord
    checkpoint: CheckpointIdentity
    reference_outputs: ReferenceData
    """Images and the float reference's outputs for them, so that an export can be compared without the reference."""
    steps: tuple[Step, ...] = ()
    """What was done to the weights before they were quantized, oldest first."""


def write_model(path: Path, model: Model) -> None:
    """Writes a program with its record.

    Args:
        path: a temporary name; the caller renames the file.
        model: the content.
    """
    program = model.program
    content = {
        "format_version": FORMAT_VERSION,
        "spec": to_dict(program.spec),
        "inputs": [to_dict(spec) for spec in program.inputs],
        "outputs": [to_dict(spec) for spec in program.outputs],
        "blocks": list(program.blocks),
        "record": to_dict(model.record),
        "checkpoint": to_dict(model.checkpoint),
        "steps": [to_dict(step) for step in model.steps],
    }
    extra = {
        ENTRY: json.dumps(content, ensure_ascii=True, allow_nan=False),
        _REFERENCE_OUTPUTS: _packed(model.reference_outputs),
    }
    with path.open("wb") as file:
        torch.export.save(program.exported, file, extra_files=extra)


def read_model(path: Path) -> Model:
    """Reads a file of `write_model`.

    Raises:
        UnreadableArtifact: it is no such file, or of another version.
        RefusedPickle: loading it could run code.
    """
    extra: dict[str, Any] = {ENTRY: "", _REFERENCE_OUTPUTS: ""}
    if not path.is_file():
        raise UnreadableArtifact(f"There is no {path}.")
    try:
        if not zipfile.is_zipfile(path):
            raise UnreadableArtifact(f"{path} is not a {SUFFIX} file, or is cut short.")
        with zipfile.ZipFile(path) as archive:
            check_entries(archive)
        refuse_code(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch 2.11 warns of a buffer of its own
            exported = torch.export.load(path, extra_files=extra)
        if not extra[ENTRY]:
            raise UnreadableArtifact(f"{path} was not written by vitedge quantize: it has no description of the model.")
        return _model(path, exported, json.loads(extra[ENTRY]), _unpacked(extra[_REFERENCE_OUTPUTS]))
    except UserError:
        raise
    except Exception as error:  # PyTorch and NumPy raise whatever their parts raise on a damaged archive
        said = str(error).partition("\n")[0].rstrip(".")
        raise UnreadableArtifact(f"{path} cannot be read as a quantized program: {said}.") from error


def _model(path: Path, exported: ExportedProgram, content: dict[str, Any], reference_outputs: ReferenceData) -> Model:
    """Builds the model from a file's content.

    Raises:
        UnreadableArtifact: it is of another version of the format.
    """
    version = content.get("format_version")
    if not is_readable(version):
        raise UnreadableArtifact(f"{path} has format {version}; this vitedge reads {FORMAT_VERSION} and older.")
    if version == 1:  # it had a place for how fast an export is, which was always empty here
        content["record"].pop("verdict", None)
    program = Program(
        exported,
        from_dict(ModelSpec, content["spec"]),
        tuple(from_dict(TensorSpec, entry) for entry in content["inputs"]),
        tuple(from_dict(TensorSpec, entry) for entry in content["outputs"]),
        tuple(content["blocks"]),
    )
    record = from_dict(QuantizationRecord, content["record"])
    identity = from_dict(CheckpointIdentity, content["checkpoint"])
    steps = tuple(from_dict(Step, entry) for entry in content.get("steps", ()))
    return Model(program, record, identity, reference_outputs, steps)


def _packed(data: ReferenceData) -> str:
    """Encodes reference outputs as text, because PyTorch returns extra files as text."""
    buffer = io.BytesIO()
    outputs = {f"output.{name}": values for name, values in data.outputs.items()}
    write_npz(buffer, {"images": data.images, **outputs}, compressed=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _unpacked(text: str) -> ReferenceData:
    with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as file:
        outputs = {name.removeprefix("output."): file[name] for name in file.files if name.startswith("output.")}
        return ReferenceData(file["images"], outputs)
