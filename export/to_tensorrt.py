# SPDX-License-Identifier: Apache-2.0
"""Building of TensorRT engines: an ONNX file that was written for a GPU becomes an engine, whose kernels are read."""

from __future__ import annotations

from pathlib import Path

from vitedge.export.tensorrt import building
from vitedge.export.tensorrt.records import EngineRecord
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.export.tensorrt.summary import summary
from vitedge.files.digest import hash_file
from vitedge.files.plain import to_dict
from vitedge.records import Artifact


def build(source: Artifact, request: EngineRequest, builder: str) -> Artifact:
    """Builds an engine.

    Args:
        source: the ONNX file that the request names.
        request: targets, shapes and options; its progress is called with the phases of the build.
        builder: a key of `vitedge.export.tensorrt.building.BUILDERS`.

    Returns:
        The engine, whose record lists its kernels; a note says what they compute of what was asked.

    Raises:
        MissingBackend: the builder's package is not installed, or it needs a GPU that is not here.
        BadRecipe: a target, a shape or an option that the builder does not take.
        UnreadableArtifact: the builder does not read the file.
        CheckFailed: the file cannot be built for a target, or the builder crashed or took too long.
    """
    return as_artifact(source, request.out, building.build(request, builder))


def as_artifact(source: Artifact, engine: Path, record: EngineRecord, warnings: tuple[str, ...] = ()) -> Artifact:
    """Returns an engine that was built as an artifact of its bundle.

    Args:
        source: the ONNX file that it was built from.
        engine: its file.
        record: of the build.
        warnings: of the builder, in its words.
    """
    digest = hash_file(engine)
    return Artifact(
        format="tensorrt",
        path=engine.name,
        sha256=digest,
        size=engine.stat().st_size,
        precision=source.precision,
        target=" ".join(record.targets),
        inputs=source.inputs,
        outputs=source.outputs,
        files={engine.name: digest},
        notes=(f"{record.builder} {record.version}: {summary(record)}", *warnings),
        engine=to_dict(record),
    )
