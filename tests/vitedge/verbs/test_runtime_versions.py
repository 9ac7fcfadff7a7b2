# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import vitedge
from tests.bad_files import VIT
from vitedge.cli.main import app
from vitedge.devices import profiles as devices
from vitedge.errors import BadRecipe, CheckFailed
from vitedge.export.onnx.oldest_runtimes import UNKNOWN
from vitedge.files.bundle import read_manifest
from vitedge.recipe import ExportRecipe, QuantizationRecipe, ResolvedRecipe
from vitedge.records import Artifact
from vitedge.verbs.resolve import resolve
from vitedge.verbs.runtime_versions import check_written, with_found
from vitedge.verbs.targets import targets


def packed(precision: str, release: str, **settings: object) -> bool:
    asked = ExportRecipe(precision=precision, runtime_versions={"onnxruntime": release}, **settings)  # type: ignore[arg-type]
    (target,) = targets(resolve(asked, "m.pth"))
    return target.recipe.packed_weights


def test_a_release_gets_the_form_of_weights_that_it_computes_right() -> None:
    assert [packed("w8", release) for release in ("1.16", "1.18.1", "1.22", "1.23", "1.99")] == [0, 0, 0, 1, 1]
    assert [packed("w8a16", release) for release in ("1.18", "1.24")] == [0, 1]
    assert [packed("w4", release) for release in ("1.17", "1.23")] == [0, 1]  # some layers of it are w8
    assert all(packed(precision, "1.17") for precision in ("fp32", "fp16", "int8", "int8-dynamic", "mixed"))
    of_layers = QuantizationRecipe("int8", images="synthetic", layers={"head": "w8"})
    assert not packed("int8", "1.18", quantization=of_layers)
    assert packed("int8", "1.24", quantization=of_layers)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"precision": "w8a16", "runtime_versions": {"onnxruntime": "1.17"}}, "w8a16 needs ONNX Runtime 1.18 or newer"),
        (
            {"precision": "w4a8", "runtime_versions": {"onnxruntime": "1.16"}},
            "1.17 or newer, and 1.16 was asked for: ask for --precision fp32|fp16|int8|int8-dynamic|w8|mixed.",
        ),
        ({"opset": 21, "runtime_versions": {"onnxruntime": "1.17"}}, "opset 21 needs .*: leave --opset out"),
        ({"runtime_versions": {"ort": "1.17"}}, "choose from onnxruntime, openvino"),
        ({"runtime_versions": {"openvino": "new"}}, "NAME=RELEASE"),
        ({"formats": ("coreml",), "runtime_versions": {"onnxruntime": "1.18"}}, "is for ONNX files"),
    ],
)
def test_what_a_release_cannot_do_is_refused_with_what_can_be_had(asked: dict[str, object], said: str) -> None:
    with pytest.raises(BadRecipe, match=said.replace("|", r"\|")):
        resolve(ExportRecipe(**asked), "m.pth")  # type: ignore[arg-type]


def test_a_file_for_an_old_release_is_the_same_both_ways_and_says_what_it_needs(tmp_path: Path) -> None:
    typed, written = tmp_path / "typed", tmp_path / "written"
    options = ["--precision", "w8", "--runtime-version", "onnxruntime=1.18", "--image-count", "2"]
    app(["export", str(VIT), "-o", str(typed), *options], standalone_mode=False)
    recipe = ExportRecipe(precision="w8", runtime_versions={"onnxruntime": "1.18"}, image_count=2)
    vitedge.export(VIT, written, recipe)
    graph = onnx.load(typed / "model.onnx").graph
    assert graph == onnx.load(written / "model.onnx").graph
    kinds = {node.op_type for node in graph.node}
    assert "Cast" in kinds
    assert "MatMulNBits" not in kinds
    (artifact,) = read_manifest(typed).artifacts
    assert artifact.oldest_runtimes == {"onnxruntime": "1.16", "openvino": "2024.0"}
    assert "from ONNX Runtime 1.16 and" in read_manifest(typed).structure[0].remarks[0]


def test_a_profile_and_a_device_name_releases_and_the_recipe_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    old = {**devices.profiles(), "old": devices.Profile("old", "old", ("onnx",), ("fp32", "int8"), "u8s8", {}, 18)}
    object.__setattr__(old["old"], "onnxruntime", "1.18")
    monkeypatch.setattr(devices, "profiles", lambda: old)
    (target,) = targets(resolve(ExportRecipe(profiles=("old",), precision="w8"), "m.pth"))
    assert not target.recipe.packed_weights
    found = {"onnxruntime": "1.18.1", "tensorrt": "10.3.0", "openvino": "2025.0"}
    assert with_found(ExportRecipe(), found).runtime_versions == {"onnxruntime": "1.18.1", "openvino": "2025.0"}
    said = ExportRecipe(runtime_versions={"onnxruntime": "1.24"})
    assert with_found(said, {"onnxruntime": "1.18.1"}).runtime_versions == {"onnxruntime": "1.24"}


def test_a_written_file_is_held_against_the_release() -> None:
    recipe = ResolvedRecipe(runtime_versions={"onnxruntime": "1.18"})
    artifact = Artifact("onnx", "model.onnx", "", 1, "fp32", "opset 18", (), ())
    assert check_written(artifact, ResolvedRecipe()) == ()
    (note,) = check_written(artifact, recipe)
    assert "ONNX Runtime 1.18" in note
    newer = Artifact("onnx", "m.onnx", "", 1, "w4", "", (), (), oldest_runtimes={"onnxruntime": "1.23"})
    with pytest.raises(CheckFailed, match=r"m\.onnx needs ONNX Runtime 1\.23 or newer"):
        check_written(newer, recipe)
    never = Artifact("onnx", "m.onnx", "", 1, "w4", "", (), (), oldest_runtimes={"onnxruntime": UNKNOWN})
    assert len(check_written(never, recipe)) == 1
