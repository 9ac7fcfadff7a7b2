# SPDX-License-Identifier: Apache-2.0
"""Engines in an export, with the real builder of TensorRT for RTX, which needs no GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bad_files import VIT
from tests.releases import older
from vitedge import registry
from vitedge.errors import CheckFailed
from vitedge.export import to_onnx
from vitedge.export.onnx.passes.split_projections import split_projections
from vitedge.export.tensorrt.records import EngineRecord
from vitedge.export.tensorrt.summary import summary
from vitedge.files.bundle import read_manifest
from vitedge.files.plain import from_dict
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.records import Artifact
from vitedge.verbs.export import export
from vitedge.verbs.subjects import find
from vitedge.verbs.validate import validate

pytest.importorskip("tensorrt_rtx", reason="pip install 'vitedge[tensorrt-rtx]'")
INT8 = ExportRecipe(
    formats=("tensorrt",),
    profiles=("rtx-ampere",),
    image_count=8,
    quantization=QuantizationRecipe(images="synthetic", image_count=16),
)


def record(artifact: Artifact) -> EngineRecord:
    return from_dict(EngineRecord, artifact.engine or {})


in_half = pytest.mark.skipif(older("onnxruntime", 1, 30), reason="ONNX Runtime divides in float16 where it rounds")


@in_half
def test_an_engine_lies_beside_its_file_and_says_what_it_computes(tmp_path: Path) -> None:
    manifest = export(str(VIT), tmp_path / "out", INT8).manifest
    source, engine = manifest.artifacts
    assert (source.path, engine.path, engine.target) == ("model.onnx", "model.engine", "SM86")
    assert summary(record(engine)).startswith("32 of 32 quantized products in int8, ")
    assert summary(record(engine)).endswith("4 of 4 attentions fused")
    assert record(engine).onnx_sha256 == source.sha256
    report = validate(tmp_path / "out")
    assert report.passed
    assert report.engines["model.engine"] == engine.engine
    (structure,) = (one for one in report.structure if one.artifact == "model.engine")
    assert structure.checks == ("hash right", "built from model.onnx", "not opened here")
    here = registry.works_here(registry.RUNTIMES, "tensorrt")
    assert [one.label for one in find([str(tmp_path / "out")])] == ["out/model.onnx", *["out/model.engine"] * here]
    again = export(str(VIT), tmp_path / "again", INT8).manifest
    assert [artifact.sha256 for artifact in again.artifacts] == [source.sha256, engine.sha256]


def test_a_bundle_with_an_engine_is_validated_where_the_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(str(VIT), tmp_path / "out", replace(INT8, quantization=None, precision="fp16"))
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    assert validate(tmp_path / "out").passed
    (tmp_path / "out" / "model.engine").write_bytes(b"another")
    with pytest.raises(CheckFailed, match=r"model\.engine"):
        validate(tmp_path / "out")


def test_kernels_that_disagree_with_the_request_fail_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        layout = [one for one in to_onnx.FOR_TENSORRT.passes if one is not split_projections]
        patched.setattr(to_onnx.FOR_TENSORRT, "passes", layout)
        with pytest.raises(CheckFailed, match=r"of 24 quantized products run in int8 \(not blocks\.0\.attn\.qkv"):
            export(str(VIT), tmp_path / "joint", INT8)
    monkeypatch.setattr(to_onnx, "to_half", lambda _graph, _modules, _operators: None)
    with pytest.raises(CheckFailed, match="products run in less than float32"):
        export(str(VIT), tmp_path / "float32", replace(INT8, rest="fp16"))
    assert not (tmp_path / "joint").exists()
    assert not (tmp_path / "float32").exists()


def test_what_a_gpu_cannot_compute_is_refused_before_the_build(tmp_path: Path) -> None:
    recipe = replace(INT8, profiles=("rtx-turing",), rest="fp32")
    with pytest.raises(CheckFailed, match=r"cannot be built for SM75: .*blocks\.0\.attn\.qkv"):
        export(str(VIT), tmp_path / "out", recipe)


@in_half
def test_a_dynamic_batch_has_one_range_of_shapes(tmp_path: Path) -> None:
    export(str(VIT), tmp_path / "out", replace(INT8, batch="dynamic", engine_batch=(2, 4)))
    (engine,) = (one for one in read_manifest(tmp_path / "out").artifacts if one.format == "tensorrt")
    assert record(engine).shapes == {"image": ((1, 3, 32, 32), (2, 3, 32, 32), (4, 3, 32, 32))}
    assert summary(record(engine)).startswith("32 of 32 quantized products in int8, ")
