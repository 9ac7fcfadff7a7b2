# SPDX-License-Identifier: Apache-2.0
"""An engine that is already there: whether it is the file of its record. Needs no TensorRT.

An engine is read by the release of the builder that wrote it, on a GPU that it was built for. Here it is not opened,
and no more is said of it than its hash and its record show.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitedge.errors import UnreadableArtifact
from vitedge.export.tensorrt.records import EngineRecord
from vitedge.files.digest import hash_file
from vitedge.files.plain import from_dict
from vitedge.records import Artifact, ModelSpec, StructureReport

UNOPENED = "not opened here"


def describe(path: Path) -> Artifact:
    """Returns what can be told of an engine without its builder: size and hash; inputs and outputs stay empty.

    Raises:
        UnreadableArtifact: there is no such file, or it is empty.
    """
    if not path.is_file() or not path.stat().st_size:
        raise UnreadableArtifact(f"{path} is not an engine: it is {'empty' if path.is_file() else 'not there'}.")
    digest = hash_file(path)
    return Artifact(
        format="tensorrt",
        path=path.name,
        sha256=digest,
        size=path.stat().st_size,
        precision="",
        target="",
        inputs=(),
        outputs=(),
        files={path.name: digest},
    )


def carried_spec(path: Path) -> ModelSpec | None:
    """Returns None: an engine does not say what model it is."""
    del path
    return None


def check(path: Path, artifact: Artifact, weights: Mapping[str, Any] | None = None) -> StructureReport:
    """Checks that an engine is the file of its record, and that an ONNX file beside it is the one it was built from.

    Args:
        path: the engine.
        artifact: the record that it should agree with.
        weights: not looked at; an engine is opaque.
    """
    del weights
    try:
        found = describe(path)
    except UnreadableArtifact as error:
        return StructureReport(artifact.path, (), passed=False, reason=str(error).rstrip("."))
    if found.sha256 != artifact.sha256:
        reason = "the hash of the engine is another than that of its record"
        return StructureReport(artifact.path, (), passed=False, reason=reason)
    checks = ["hash right"]
    sources = {file.name: hash_file(file) for file in sorted(path.parent.glob("*.onnx"))}
    if artifact.engine is not None and sources:
        record = from_dict(EngineRecord, artifact.engine)
        source = next((name for name, digest in sources.items() if digest == record.onnx_sha256), "")
        if not source:
            reason = f"it was built from another ONNX file than {', '.join(sources)} beside it"
            return StructureReport(artifact.path, tuple(checks), passed=False, reason=reason)
        checks.append(f"built from {source}")
    return StructureReport(artifact.path, (*checks, UNOPENED), passed=True)
