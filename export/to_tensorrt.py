# SPDX-License-Identifier: Apache-2.0
"""Building of TensorRT engines: an ONNX file that was written for a GPU becomes an engine, whose kernels are read."""

from __future__ import annotations

from vitedge.export.tensorrt import building
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
    record = building.build(request, builder)
    digest = hash_file(request.out)
    return Artifact(
        format="tensorrt",
        path=request.out.name,
        sha256=digest,
        size=request.out.stat().st_size,
        precision=source.precision,
        target=" ".join(record.targets),
        inputs=source.inputs,
        outputs=source.outputs,
        files={request.out.name: digest},
        notes=(f"{record.builder} {record.version}: {summary(record)}",),
        engine=to_dict(record),
    )
