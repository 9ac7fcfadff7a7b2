# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from vitedge.errors import UnreadableArtifact
from vitedge.export.onnx import artifact as onnx_artifact
from vitedge.export.tensorrt import artifact as engine_artifact
from vitedge.export.tensorrt.artifact import carried_spec, check, describe
from vitedge.export.tensorrt.records import EngineRecord
from vitedge.files.plain import to_dict
from vitedge.records import Artifact

SOURCE = b"an ONNX file"


def engine(folder: Path) -> tuple[Path, Artifact]:
    """Bytes that stand for an engine, with the record of one that was built from `SOURCE`."""
    path = folder / "model.engine"
    path.write_bytes(b"ptrt and further bytes")
    record = EngineRecord("tensorrt-rtx", "1.7.1.116", ("SM86",), {}, {}, hashlib.sha256(SOURCE).hexdigest(), 1.0, None)
    return path, replace(describe(path), engine=to_dict(record))


def test_little_is_told_of_an_engine_and_nothing_is_guessed(tmp_path: Path) -> None:
    path, _ = engine(tmp_path)
    found = describe(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.format, found.path, found.sha256, found.size) == ("tensorrt", "model.engine", digest, 22)
    assert found.files == {"model.engine": digest}
    assert found.inputs == found.outputs == ()
    assert found.precision == found.target == ""
    assert carried_spec(path) is None
    for name in ("none.engine", "empty.engine"):
        if name.startswith("empty"):
            (tmp_path / name).touch()
        with pytest.raises(UnreadableArtifact, match="is not an engine: it is"):
            describe(tmp_path / name)


def test_an_engine_passes_by_its_hash_and_says_that_it_was_not_opened(tmp_path: Path) -> None:
    path, artifact = engine(tmp_path)
    assert check(path, artifact).checks == ("hash right", "not opened here")
    (tmp_path / "model.onnx").write_bytes(SOURCE)
    report = check(path, artifact)
    assert report.passed
    assert report.checks == ("hash right", "built from model.onnx", "not opened here")


def test_another_engine_and_another_source_are_found(tmp_path: Path) -> None:
    path, artifact = engine(tmp_path)
    (tmp_path / "model.onnx").write_bytes(SOURCE + b" of a later export")
    assert check(path, artifact).reason == "it was built from another ONNX file than model.onnx beside it"
    path.write_bytes(b"ptrt and other bytes")
    assert check(path, artifact).reason == "the hash of the engine is another than that of its record"
    path.unlink()
    assert "is not an engine: it is not there" in check(path, artifact).reason


def test_it_has_the_names_of_the_other_checkers() -> None:
    for name in ("describe", "carried_spec", "check"):
        assert callable(getattr(onnx_artifact, name))
        assert callable(getattr(engine_artifact, name))
