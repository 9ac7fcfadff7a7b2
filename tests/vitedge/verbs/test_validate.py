# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from tests.bad_files import PIT, VIT, vit_state
from vitedge.errors import BadRecipe, BundleDamaged, UnreadableArtifact, UserError, WeightsMismatch
from vitedge.export.coreml.quiet import load_coremltools, quiet
from vitedge.mlprogram.package import MODEL, WEIGHTS, read_package
from vitedge.mlprogram.program import read_program
from vitedge.recipe import ExportRecipe
from vitedge.records import Tolerance
from vitedge.runtimes import mlprogram as program_runtime
from vitedge.verbs.export import export
from vitedge.verbs.validate import ReferenceOptions, ValidationOptions, validate

AGAINST = ReferenceOptions(str(VIT), image_count=4)
BLOCKED = ("torch", "timm")


def alter_onnx(path: Path, weight: str = "head.weight", by: float = 0.05) -> None:
    model = onnx.load(path)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == weight)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(by), weight))
    onnx.save(model, path)


def alter_package(path: Path, constant: str = "head_weight") -> None:
    """Changes one number of a constant in the file of the weights."""
    place = dict(read_program(read_package(path)).constants())[constant].place
    assert place is not None
    content = np.fromfile(path / WEIGHTS, np.uint8)
    content[place.start : place.start + 4].view(np.float32)[0] += 0.5
    content.tofile(path / WEIGHTS)


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def other_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose recipe says what no file tells, from a file with two sets of weights."""
    folder = tmp_path_factory.mktemp("heads")
    state = vit_state()
    average = {name: value * 1.1 for name, value in state.items()}
    torch.save({"model": state, "model_ema": average}, folder / "weights.pth")
    recipe = ExportRecipe(weights="model", overrides={"heads": 4, "mean": (0.1, 0.2, 0.3)}, image_count=4)
    export(str(folder / "weights.pth"), folder / "bundle", recipe)
    return folder


def test_a_bundle_proves_itself_where_pytorch_is_not_installed(demo_bundle: Path) -> None:
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r}))\n"
        "from pathlib import Path; from vitedge.files.plain import to_dict; import json\n"
        "from vitedge.verbs.validate import validate\n"
        f"print(json.dumps(to_dict(validate(Path({str(demo_bundle)!r})))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["passed"]
    assert found["files"] == 8
    assert [report["artifact"] for report in found["parity"]] == ["model.onnx"]
    assert found["parity"][0]["images"] == 6
    assert found["parity"][0]["outputs"][0]["relative_error"] <= 2e-5
    assert [(report["artifact"], report["passed"]) for report in found["structure"]] == [
        ("model.onnx", True),
        ("model.mlpackage", True),
    ]


def test_a_bundle_against_its_checkpoint(demo_bundle: Path) -> None:
    found = validate(demo_bundle, replace(AGAINST, layers=True))
    assert found.passed
    assert (found.subject, found.files) == (str(demo_bundle), 8)
    onnx_file, package = found.parity
    assert (onnx_file.runtime, package.runtime) == ("onnxruntime", "mlprogram")
    assert {(parity.images, parity.first_departure) for parity in found.parity} == {(4, "")}
    assert len(onnx_file.layers) == 6
    assert {"blocks.0.attn.qkv", "head"} <= {layer.output for layer in package.layers}
    assert "not a bit model" in package.note
    coreml = next(report for report in found.structure if report.artifact == "model.mlpackage")
    assert any("weights equal to the reference's" in text for text in coreml.checks)


def test_a_bundle_against_another_training_does_not_pass(demo_bundle: Path, tmp_path: Path) -> None:
    state = vit_state()
    state["blocks.1.norm2.bias"] += 0.1
    torch.save(state, tmp_path / "other.pth")
    found = validate(demo_bundle, ReferenceOptions(str(tmp_path / "other.pth"), image_count=4, layers=True))
    assert not found.passed
    assert found.parity[0].first_departure == "blocks.1"
    assert [(report.artifact, report.passed) for report in found.structure] == [
        ("model.onnx", True),
        ("model.mlpackage", False),
    ]


def test_a_bundle_against_its_checkpoint_is_checked_as_it_was_exported(other_heads: Path) -> None:
    """The weights that were chosen and the facts that were given belong to what the bundle has to compute."""
    found = validate(other_heads / "bundle", ReferenceOptions(str(other_heads / "weights.pth"), image_count=4))
    assert found.passed, found.parity[0].reason
    given: Mapping[str, object] = {"heads": 2}
    other = ReferenceOptions(str(other_heads / "weights.pth"), image_count=4, overrides=given)
    assert not validate(other_heads / "bundle", other).passed


def test_the_bar_of_the_recipe_counts_and_another_one_can_be_asked_for(demo_bundle: Path) -> None:
    assert validate(demo_bundle, AGAINST).parity[0].tolerance == Tolerance(relative_error=2e-5, agreement=1.0)
    strict = validate(demo_bundle, replace(AGAINST, tolerance=Tolerance(relative_error=0.0)))
    assert not strict.passed
    assert "the tolerance is 0" in strict.parity[0].reason


def test_an_onnx_file_on_its_own(demo_bundle: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(demo_bundle / "model.onnx", tmp_path / "alone.onnx"))
    found = validate(path, AGAINST)
    assert found.passed
    assert (found.files, found.parity[0].artifact) == (0, "alone.onnx")
    alter_onnx(path)
    found = validate(path, AGAINST)
    assert not found.passed
    assert "logits is off by" in found.parity[0].reason


def test_a_package_on_its_own(bundle: Path) -> None:
    path = bundle / "model.mlpackage"
    assert validate(path, AGAINST).passed
    alter_package(path)
    found = validate(path, AGAINST)
    assert not found.passed
    assert "constant head_weight " in found.structure[0].reason


def test_on_a_mac_a_package_is_checked_in_both_runtimes(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Core ML itself is played by a stand-in here; what is tested is that both are asked, and both are told of."""

    class StandIn(program_runtime.Runtime):
        def describe(self) -> dict[str, object]:
            return {}

    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("vitedge.runtimes.coreml.Runtime", StandIn)
    found = validate(demo_bundle)
    assert [(report.artifact, report.runtime, report.passed) for report in found.parity] == [
        ("model.onnx", "onnxruntime", True),
        ("model.mlpackage", "mlprogram", True),
        ("model.mlpackage", "coreml", True),
    ]
    assert [bool(report.note) for report in found.parity] == [False, True, False]


@pytest.mark.parametrize(("compute", "runtime"), [("declared", "mlprogram"), ("fp32", "mlprogram-fp32")])
def test_the_arithmetic_of_a_package_can_be_chosen(compute: str, runtime: str, demo_bundle: Path) -> None:
    found = validate(demo_bundle, options=ValidationOptions(compute=compute))
    assert [report.runtime for report in found.parity] == ["onnxruntime", runtime]
    assert found.passed


def test_another_arithmetic_is_refused(demo_bundle: Path) -> None:
    with pytest.raises(BadRecipe, match="declared, fp32"):
        validate(demo_bundle, options=ValidationOptions(compute="fp8"))


def test_the_ranges_of_a_package_are_watched_on_request(demo_bundle: Path) -> None:
    assert validate(demo_bundle).overflow == ()
    (report,) = validate(demo_bundle, options=ValidationOptions(overflow=True)).overflow
    assert report.passed
    assert report.images == 6
    assert {"softmax", "linear"} <= {entry.operation for entry in report.ranges}
    with pytest.raises(BadRecipe, match="holds no Core ML artifact"):
        validate(demo_bundle / "model.onnx", AGAINST, ValidationOptions(overflow=True))


def test_what_will_cost_speed_is_told_and_is_no_failure(demo_bundle: Path) -> None:
    found = validate(demo_bundle)
    assert found.passed
    assert {finding.rule for finding in found.findings} == {"image input", "precision"}
    assert all(finding.artifact == "model.mlpackage" and finding.remedy for finding in found.findings)


def quantized(source: Path, path: Path, **options: object) -> Path:
    """The package with its weights compressed by coremltools, as anybody may do."""
    ct = load_coremltools()
    with quiet():
        optimize = ct.optimize.coreml
        config = optimize.OptimizationConfig(optimize.OpLinearQuantizerConfig(weight_threshold=512, **options))
        model = ct.models.MLModel(str(source), skip_model_load=True)
        optimize.linear_quantize_weights(model, config).save(str(path))
    return path


def test_a_compressed_package_is_held_to_the_bar_of_compression(demo_bundle: Path, tmp_path: Path) -> None:
    path = quantized(demo_bundle / "model.mlpackage", tmp_path / "w8.mlpackage")
    found = validate(path, replace(AGAINST, layers=True))
    assert found.passed, found
    (report,) = found.parity
    assert report.tolerance == Tolerance(centred_sqnr_db=20.0)
    assert 20 < report.outputs[0].centred_sqnr_db < 80
    strict = validate(path, replace(AGAINST, tolerance=Tolerance(centred_sqnr_db=80.0)))
    assert "values come from compressed weights" in strict.parity[0].reason


def test_a_package_without_scores_is_told_what_it_lacks(bundle: Path) -> None:
    path = bundle / "model.mlpackage"
    model = read_package(path).model
    model.description.predictedFeatureName = "logits"
    (path / MODEL).write_bytes(model.SerializeToString())
    with pytest.raises(UnreadableArtifact, match="no scores to compare: convert the model without a ClassifierConfig"):
        validate(path, AGAINST)


def test_a_package_for_two_images_of_pixels_gets_pixels(tmp_path: Path) -> None:
    """Core ML's images come one at a time: such an input is an array of floats from 0 to 255."""
    recipe = ExportRecipe(formats=("coreml",), batch=2, input="uint8", image_count=4)
    (artifact,) = export(str(VIT), tmp_path / "bundle", recipe).manifest.artifacts
    assert (artifact.inputs[0].dtype, artifact.inputs[0].pixels) == ("float32", True)
    assert validate(tmp_path / "bundle").passed
    assert validate(tmp_path / "bundle" / "model.mlpackage", AGAINST).passed


def test_an_artifact_of_another_model(demo_bundle: Path) -> None:
    found = validate(demo_bundle / "model.onnx", ReferenceOptions(str(PIT), image_count=4))
    assert not found.passed
    found = validate(demo_bundle / "model.mlpackage", ReferenceOptions(str(PIT), image_count=4))
    assert not found.passed
    assert "modules with weights, such as " in found.parity[0].reason
    assert found.parity[0].reason.endswith("were not found in it")


def test_a_checkpoint_that_does_not_fit_is_refused(demo_bundle: Path, tmp_path: Path) -> None:
    state = vit_state()
    del state["norm.bias"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(WeightsMismatch, match=r"norm\.bias"):
        validate(demo_bundle, ReferenceOptions(str(tmp_path / "cut.pth")))


@pytest.mark.parametrize("name", ["model.onnx", "reference.npz", f"model.mlpackage/{WEIGHTS}"])
def test_a_changed_file_of_a_bundle_is_refused_before_anything_runs(name: str, bundle: Path) -> None:
    (bundle / name).write_bytes((bundle / name).read_bytes() + b"\0")
    with pytest.raises(BundleDamaged, match=Path(name).name):
        validate(bundle)


def test_what_is_neither_a_bundle_nor_an_artifact(demo_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.onnx").mkdir()
    refusals: list[tuple[Path, type[UserError], str]] = [
        (tmp_path / "none", UnreadableArtifact, "is not there"),
        (tmp_path / "notes.txt", UnreadableArtifact, "neither a bundle"),
        (tmp_path / "folder", UnreadableArtifact, "not a bundle"),
        (demo_bundle / "model.onnx", BadRecipe, "--against CHECKPOINT"),
        (demo_bundle / "model.mlpackage", BadRecipe, "--against CHECKPOINT"),
    ]
    for path, kind, words in refusals:
        with pytest.raises(kind, match=words):
            validate(path)
    with pytest.raises(UnreadableArtifact, match=r"folder\.onnx"):
        validate(tmp_path / "folder.onnx", AGAINST)


@pytest.mark.parametrize("shape", [["batch", 3, "height", "width"], [1, 3 * 32 * 32]])
def test_a_file_that_does_not_take_an_image_of_a_fixed_size(shape: list[int | str], tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UnreadableArtifact, match=r"other\.onnx does not take one image .* of a fixed size"):
        validate(tmp_path / "other.onnx", AGAINST)
