# SPDX-License-Identifier: Apache-2.0
"""`inspecting`, `comparing`, `exporting`, `recipes`, `pruning`, `validating`, `evaluating`, `measuring`, `sources`."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TaskID

import vitedge
from tests.bad_files import VIT
from tests.seeding import seeded
from tests.vitedge.pruning import models
from vitedge.api.recipes import for_export, for_quantization
from vitedge.demo import assets
from vitedge.errors import BadRecipe, UserError
from vitedge.images.in_memory import ImagesInMemory
from vitedge.latency.sampling import Rule
from vitedge.recipe import ExportRecipe, QuantizationRecipe

QUICK = Rule(warmup_s=0.02, warmup_limit_s=0.1, samples=10, seconds=0.2, rounds=5)


def digits(count: int) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    images, labels = assets.images()
    return images[:count], labels[:count]


def test_a_module_becomes_a_checked_int8_bundle_from_own_images(tmp_path: Path) -> None:
    module = vitedge.load(VIT).module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    images, labels = digits(40)
    names = [f"digit {number}" for number in range(10)]
    said: list[str] = []
    result = vitedge.export(
        module, tmp_path / "b", precision="int8", images=iter(images), labels=names, progress=said.append
    )
    manifest = result.manifest
    assert manifest.checkpoint.source == "the VisionTransformer in memory"
    assert manifest.checkpoint.sha256 == vitedge.export(module, tmp_path / "f").manifest.checkpoint.sha256
    assert manifest.spec.labels == tuple(names)
    assert manifest.recipe["images"] == manifest.recipe["quantization"]["images"]
    assert manifest.recipe["images"].startswith("40 images in memory, sha256 ")
    assert any("lowering" in line for line in said)
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())

    assert vitedge.validate(result).passed
    found = vitedge.evaluate([module, result], zip(images, labels, strict=True), max_drop=10.0)
    assert [row.top1.total for row in found.subjects] == [40, 40]
    assert found.passed
    report = vitedge.bench([module, result], threads=1, rule=QUICK)
    assert [row.runtime for row in report.reports] == ["torch", "onnxruntime"]
    assert report.reports[0].subject == "the VisionTransformer in memory"


def test_an_artifact_is_compared_with_a_module(demo_bundle: Path) -> None:
    images, _ = digits(4)
    found = vitedge.validate(demo_bundle / "model.onnx", against=vitedge.load(VIT).module, images=images)
    assert found.passed
    assert found.parity[0].image_source.startswith("4 images in memory, sha256 ")


class Bars(Progress):
    """Bars of rich that keep the titles of their tasks."""

    def add_task(self, description: str, **rest: Any) -> TaskID:  # type: ignore[override]
        self.begun = [*getattr(self, "begun", []), description]
        return super().add_task(description, **rest)


def test_progress_is_told_to_a_function_and_to_bars_of_rich(demo_bundle: Path) -> None:
    said: list[str] = []
    vitedge.validate(demo_bundle, progress=said.append)
    with Bars(console=Console(file=io.StringIO())) as bars:
        vitedge.validate(demo_bundle, progress=bars)
    told = [line.removesuffix(" …") for line in said if line.endswith("…")]
    assert told
    assert [title for title in bars.begun if title in told] == told


def test_two_modules_of_one_class_are_told_apart() -> None:
    first, second = seeded(models.vit()), seeded(models.vit(), 1)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    found = vitedge.evaluate([first, second], list(zip(images, [0, 1] * 3, strict=True)))
    assert [row.subject for row in found.subjects] == [
        "the VisionTransformer in memory",
        "the VisionTransformer in memory (2)",
    ]


def test_images_of_an_export_are_those_of_parity_and_of_calibration() -> None:
    images, _ = digits(20)
    float_recipe = for_export(None, {"image_count": 4}, images, normalized=False)
    assert isinstance(float_recipe.images, ImagesInMemory)
    assert (len(float_recipe.images.held), float_recipe.quantization) == (4, None)
    rounded = for_export(ExportRecipe(precision="int8"), {}, images, normalized=False)  # type: ignore[arg-type]
    assert rounded.quantization is not None
    assert rounded.images is rounded.quantization.images
    settings = QuantizationRecipe(image_count=12, smoothing=False)
    own = for_export(ExportRecipe(quantization=settings), {}, images, normalized=False)
    assert own.quantization is not None
    assert (own.quantization.smoothing, len(own.images.held)) == (False, 12)  # type: ignore[attr-defined]
    program = for_quantization(None, {"batch": 2}, {"image_count": 6}, iter(images), normalized=False)
    assert program.quantization is not None
    assert (program.batch, str(program.quantization.scheme)) == (2, "int8")
    assert len(program.quantization.images.held) == 6  # type: ignore[union-attr]
    with pytest.raises(BadRecipe, match="images is 'photos' in one place and '20 images in memory, sha256 "):
        for_export(ExportRecipe(quantization=QuantizationRecipe(images="photos")), {}, images, normalized=False)


def export(tmp_path: Path, **settings: Any) -> None:
    vitedge.export(VIT, tmp_path / "bundle", **settings)


MISTAKES: dict[str, Callable[[Path], Any]] = {
    "int8 finds the ranges of activations on images": lambda path: export(path, precision="int8"),
    "hands out 1 image: give at least 2": lambda path: export(path, images=iter(digits(1)[0])),
    "an iterator that was read before is empty": lambda path: export(path, images=iter(())),
    "images for .* have 1, 3 or 4 channels": lambda path: export(path, images=np.zeros((4, 9, 9, 5), np.uint8)),
    "which look normalized": lambda path: export(path, images=torch.randn(4, 3, 32, 32)),
    "are guessed: say preprocessing=": lambda path: export(path, images=torch.randn(4, 3, 32, 32), normalized=True),
    "images is no array: leave it out": lambda path: export(path, images="photos", normalized=True),
    "no precision 'int9'; choose from": lambda path: export(path, precision="int9"),
    "precision is 'int8' in one place and 'fp16' in another": lambda path: export(
        path,
        recipe=ExportRecipe(precision="int8"),
        precision="fp16",  # type: ignore[arg-type]
    ),
    "labels takes 10 names, one per class; got 2": lambda path: export(path, labels=["cat", "dog"]),
    "heads": lambda path: vitedge.export(seeded(models.vit()).state_dict(), path / "bundle"),
    "Nothing was asked to be pruned": lambda path: vitedge.prune(VIT, path / "p.safetensors", images="synthetic"),
    "Layers are compared with those of a checkpoint": lambda path: vitedge.validate(path, layers=True),
    "images would do nothing: a bundle has its own": lambda path: vitedge.validate(path, images="synthetic"),
    "has no class: give pairs": lambda path: vitedge.evaluate(VIT, digits(4)[0]),
    "There is no device 'ssh'": lambda path: vitedge.doctor("ssh"),
}
"""What the sentence says, to the mistake of someone who types for the first time."""


@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_mistake_is_one_sentence_and_writes_nothing(sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence) as refused:
        MISTAKES[sentence](tmp_path)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []
