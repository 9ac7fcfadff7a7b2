# SPDX-License-Identifier: Apache-2.0
"""A quantized program as a file: ``torch.export``'s own format, with what vitedge knows of it beside the program."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators that a program consists of

from vitedge.bundle import ReferenceData
from vitedge.errors import RefusedPickle, UnreadableArtifact
from vitedge.export.program import Program
from vitedge.quantize.records import QuantizationRecord
from vitedge.records import CheckpointIdentity, ModelSpec, TensorSpec
from vitedge.serialization import from_dict, to_dict

SUFFIX = ".pt2"
FORMAT_VERSION = 1
_DATA = "data/"
_PAYLOADS = ("weights_config.json", "constants_config.json")
_KNOWN = (
    "data/weights/weight_",
    "data/weights/model_",
    "data/constants/tensor_",
    "data/constants/model_",
    "data/sample_inputs/",
)
"""Entries of an archive that hold tensors, as bytes, and what is said of them."""
_ENTRY, _EVIDENCE = "vitedge.json", "reference.npz.base64"


@dataclass(frozen=True)
class Model:
    """What a ``.pt2`` file holds."""

    program: Program
    record: QuantizationRecord
    checkpoint: CheckpointIdentity
    evidence: ReferenceData
    """What the float reference computes, so that an export can be judged without it."""


def write_model(path: Path, model: Model) -> None:
    """Writes a program with its record; the caller gives the file its final name."""
    program = model.program
    content = {
        "format_version": FORMAT_VERSION,
        "spec": to_dict(program.spec),
        "inputs": [to_dict(spec) for spec in program.inputs],
        "outputs": [to_dict(spec) for spec in program.outputs],
        "blocks": list(program.blocks),
        "record": to_dict(model.record),
        "checkpoint": to_dict(model.checkpoint),
    }
    extra = {
        _ENTRY: json.dumps(content, ensure_ascii=True, allow_nan=False),
        _EVIDENCE: _packed(model.evidence),
    }
    with path.open("wb") as file:
        torch.export.save(program.exported, file, extra_files=extra)


def read_model(path: Path) -> Model:
    """Reads what `write_model` wrote.

    Raises:
        UnreadableArtifact: it is no such file, or of another version.
    """
    extra: dict[str, Any] = {_ENTRY: "", _EVIDENCE: ""}
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise UnreadableArtifact(f"{path} is not a {SUFFIX} file, or is cut short.")
            _refuse_pickles(path, file)
            file.seek(0)
            exported = torch.export.load(file, extra_files=extra)
    except FileNotFoundError:
        raise UnreadableArtifact(f"There is no {path}.") from None
    except (UnreadableArtifact, RefusedPickle):
        raise
    except Exception as error:  # PyTorch raises whatever its parts raise on a damaged archive
        raise UnreadableArtifact(f"{path} cannot be read as a program of torch.export: {error}.") from error
    if not extra[_ENTRY]:
        raise UnreadableArtifact(f"{path} was not written by vitedge quantize: nothing in it says what the model is.")
    content = json.loads(extra[_ENTRY])
    if content.get("format_version") != FORMAT_VERSION:
        raise UnreadableArtifact(
            f"{path} has format {content.get('format_version')}; this vitedge reads {FORMAT_VERSION}."
        )
    program = Program(
        exported,
        from_dict(ModelSpec, content["spec"]),
        tuple(from_dict(TensorSpec, entry) for entry in content["inputs"]),
        tuple(from_dict(TensorSpec, entry) for entry in content["outputs"]),
        tuple(content["blocks"]),
    )
    record = from_dict(QuantizationRecord, content["record"])
    identity = from_dict(CheckpointIdentity, content["checkpoint"])
    return Model(program, record, identity, _unpacked(extra[_EVIDENCE]))


def _refuse_pickles(path: Path, file: BinaryIO) -> None:
    """Refuses an archive from which PyTorch would unpickle objects: that could run code.

    Tensors are stored as bytes, but an archive may say of any of them that it is pickled, or hold objects of other
    types, which nothing that vitedge writes does.

    Raises:
        RefusedPickle: names the entry.
    """
    with zipfile.ZipFile(file) as archive:
        for entry in archive.namelist():
            name = entry.partition("/")[2]
            if name.endswith(_PAYLOADS):
                held = json.loads(archive.read(entry))["config"]
                odd = [key for key, payload in held.items() if payload.get("use_pickle")]
                if odd:
                    raise RefusedPickle(f"{path} holds {odd[0]} as a pickle, which could run code; it was not read.")
            elif name.startswith(_DATA) and not name.startswith(_KNOWN):
                raise RefusedPickle(
                    f"{path} holds {name}, which is more than tensors and could run code; it was not read."
                )
            elif name.endswith(".pt"):
                _refuse_pickle(path, name, archive.read(entry))


def _refuse_pickle(path: Path, name: str, content: bytes) -> None:
    """PyTorch reads the sample inputs safely at first, and otherwise if that fails; here a failure is the end."""
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise RefusedPickle(
            f"{path} holds {name}, which cannot be read without running code; it was not read."
        ) from error


def _packed(data: ReferenceData) -> str:
    """As text: PyTorch hands extra files back as such."""
    buffer = io.BytesIO()
    outputs = {f"output.{name}": values for name, values in data.outputs.items()}
    np.savez_compressed(buffer, allow_pickle=False, images=data.images, **outputs)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _unpacked(text: str) -> ReferenceData:
    with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as file:
        outputs = {name.removeprefix("output."): file[name] for name in file.files if name.startswith("output.")}
        return ReferenceData(file["images"], outputs)
