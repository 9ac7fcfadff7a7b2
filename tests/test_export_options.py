# SPDX-License-Identifier: Apache-2.0
"""The options of the whole job, each shown by what ONNX Runtime and other tools make of the files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

import vitedge
from tests.family_matrix import Made, Shelf, assert_same, images, run
from vitedge.recipe import ExportRecipe
from vitedge.records import Artifact

BLOCKS = {
    "deit distilled timm": ("blocks.1.mlp.fc1.weight", "blocks.1"),
    "swin timm": ("layers.1.blocks.0.mlp.fc2.weight", "layers.1.blocks.0"),
}
"""A weight to alter, and the block that it is in."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("checkpoints"))


class Bundles:
    """Plain exports, each made once and not to be changed."""

    def __init__(self, shelf: Shelf, folder: Path) -> None:
        self._shelf = shelf
        self._folder = folder

    def __getitem__(self, name: str) -> Path:
        bundle = self._folder / name.replace(" ", "-")
        if not bundle.exists():
            export(self._shelf.take(name), bundle)
        return bundle


@pytest.fixture(scope="module")
def bundles(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return Bundles(shelf, tmp_path_factory.mktemp("bundles"))


def export(made: Made, bundle: Path, **settings: Any) -> Artifact:
    given = {**made.case.given, **settings.pop("overrides", {})}
    recipe = ExportRecipe(**settings, overrides=given, accept_assumptions=True)
    result = vitedge.export(made.path, bundle, recipe)
    assert all(report.passed for report in result.manifest.parity)
    return result.manifest.artifacts[0]


def command(*arguments: str, blocked: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, where some packages are not installed."""
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); from vitedge.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(("name", "order"), [("deit distilled timm", "rgb"), ("mobilevit hugging face", "bgr")])
@torch.inference_mode()
def test_pixels_go_in_as_they_are(name: str, order: str, shelf: Shelf, tmp_path: Path) -> None:
    made = shelf.take(name)
    artifact = export(made, tmp_path / "bundle", input="uint8")
    assert artifact.inputs[0].dtype == "uint8"
    path = tmp_path / "bundle" / artifact.path
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    preprocessing = vitedge.inspect(made.path).spec.preprocessing
    assert preprocessing.channel_order == order
    shape = (4, 3, made.case.size, made.case.size)
    pixels = torch.from_numpy(np.random.default_rng(2).integers(0, 256, shape, np.uint8))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    scaled = (pixels.flip(1) if order == "bgr" else pixels) / 255
    assert_same(run(path, pixels)[0], made.source.forward((scaled - mean) / std), 2e-5)


@pytest.mark.parametrize("name", ["deit distilled timm", "swin timm"])
@torch.inference_mode()
def test_features_are_what_the_library_gives_its_heads(name: str, shelf: Shelf, tmp_path: Path) -> None:
    made = shelf.take(name)
    artifact = export(made, tmp_path / "bundle", features=True)
    assert [output.name for output in artifact.outputs] == ["tokens", "pooled"]
    tokens, pooled = run(tmp_path / "bundle" / artifact.path, images(made.case.size))
    module: Any = made.source.forward
    expected = module.forward_features(images(made.case.size))
    assert_same(tokens, expected.permute(0, 3, 1, 2) if expected.ndim == 4 else expected, 2e-5)
    heads = module.forward_head(expected, pre_logits=True)
    assert_same(pooled, torch.stack(heads).mean(0) if isinstance(heads, tuple) else heads, 2e-5)


@torch.inference_mode()
def test_a_dynamic_batch_is_one(shelf: Shelf, tmp_path: Path) -> None:
    made = shelf.take("deit distilled timm")
    artifact = export(made, tmp_path / "bundle", batch="dynamic")
    assert artifact.inputs[0].shape[0] == artifact.outputs[0].shape[0] == "batch"
    inputs = images(made.case.size, 5)
    expected = made.source.forward(inputs)
    for batch in (1, 2, 5):
        assert_same(run(tmp_path / "bundle" / artifact.path, inputs, batch)[0], expected, 1e-4)


def test_the_opset_is_the_one_that_was_asked_for(shelf: Shelf, tmp_path: Path) -> None:
    artifact = export(shelf.take("deit distilled timm"), tmp_path / "bundle", opset=17)
    model = onnx.load(tmp_path / "bundle" / artifact.path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert "LayerNormalization" in {node.op_type for node in model.graph.node}


def test_labels_and_preprocessing_are_in_the_file(shelf: Shelf, tmp_path: Path) -> None:
    made = shelf.take("deit distilled timm")
    labels, mean = ("ant", "bee", "cat", "dog", "eel"), (0.1, 0.2, 0.3)
    artifact = export(made, tmp_path / "bundle", overrides={"labels": labels, "mean": mean})
    told = {entry.key: entry.value for entry in onnx.load(tmp_path / "bundle" / artifact.path).metadata_props}
    assert tuple(json.loads(told["vitedge.labels"])) == labels
    assert tuple(json.loads(told["vitedge.preprocessing"])["mean"]) == mean


def test_the_same_export_gives_the_same_bytes(shelf: Shelf, tmp_path: Path) -> None:
    """By a command and by a call, whose hashes are seeded differently: an order taken from a set would show."""
    made = shelf.take("deit")
    export(made, tmp_path / "called", precision="fp16", batch="dynamic", formats=("onnx", "coreml"))
    options = ("--precision", "fp16", "--batch", "dynamic", "--format", "onnx", "--format", "coreml")
    options = (*options, "--accept-assumptions")
    done = command("export", made.path, "-o", str(tmp_path / "typed"), *options, PYTHONHASHSEED="1")
    assert done.returncode == 0, done.stderr
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "called", tmp_path / "typed")
    )
    assert len(first) > 5
    assert first.keys() == second.keys()
    assert [str(path) for path in first if first[path] != second[path]] == []


@torch.inference_mode()
def test_the_set_of_weights_is_chosen(shelf: Shelf, tmp_path: Path) -> None:
    made = shelf.take("deit")
    assert vitedge.inspect(made.path).weight_sets == ("model_ema", "model")
    outputs: dict[str, Tensor] = {}
    for weights in ("model", "model_ema"):
        artifact = export(made, tmp_path / weights, weights=weights)
        outputs[weights] = run(tmp_path / weights / artifact.path, images(32))[0]
    assert_same(outputs["model_ema"], made.source.forward(images(32)), 2e-5)
    assert (outputs["model"] - outputs["model_ema"]).abs().max() > 0.1 * outputs["model"].abs().max()


def test_a_bundle_that_was_tampered_with_is_refused_with_the_name_of_the_file(bundles: Bundles, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundles["swin timm"], tmp_path / "bundle"))
    content = bytearray((bundle / "manifest.json").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "manifest.json").write_bytes(content)
    done = command("validate", str(bundle), blocked=("torch", "timm"))
    assert (done.returncode, done.stdout) == (4, "")
    assert "manifest.json" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", BLOCKS)
def test_an_altered_weight_is_found_in_its_block(name: str, bundles: Bundles, shelf: Shelf, tmp_path: Path) -> None:
    model = onnx.load(bundles[name] / "model.onnx")
    weight, block = BLOCKS[name]
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == weight)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[:: values.size // 50] += 0.05
    tensor.CopyFrom(numpy_helper.from_array(values, weight))
    onnx.save(model, tmp_path / "model.onnx")
    result = vitedge.validate(tmp_path / "model.onnx", against=shelf.take(name).path, layers=True)
    assert not result.passed
    assert result.parity[0].first_departure == block
    assert block in result.parity[0].reason


def test_layers_of_a_good_file_pass_on_the_command_line(bundles: Bundles, shelf: Shelf) -> None:
    made = shelf.take("swin timm")
    done = command("validate", str(bundles["swin timm"] / "model.onnx"), "--against", made.path, "--layers", "--json")
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)["parity"]
    assert report["first_departure"] == ""
    assert {"patch_embed", "layers.0.blocks.1", "layers.2.downsample", "norm"} <= {
        layer["output"] for layer in report["layers"]
    }
