# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shlex
from dataclasses import fields
from typing import Any

import pytest

from vitedge.cli import main
from vitedge.recipe import ExportRecipe, Precision, QuantizationRecipe
from vitedge.records import Tolerance
from vitedge.verbs import export as verb
from vitedge.verbs.export_command import export_command

EVERYTHING = ExportRecipe(
    formats=("onnx", "coreml"),
    profiles=("mac",),
    precision=Precision.INT8,
    rest="fp16",
    image_size=(48, 32),
    batch="dynamic",
    engine_batch=(4, 16),
    pad_heads=True,
    opset=20,
    coreml_target="iOS18",
    runtime_versions={"onnxruntime": "1.18"},
    input="uint8",
    features=True,
    images="my photos",
    image_count=5,
    seed=3,
    weights="ema",
    overrides={"heads": 3, "mean": (0.5, 0.25, 0.5), "labels": ("a cat", "0"), "image_size": (64, 64)},
    accept_assumptions=True,
    quantization=QuantizationRecipe(
        images="others", image_count=40, seed=3, ranges="mse", smoothing=False, layers={"blocks.0.*": "float"}
    ),
    tolerance=Tolerance(1e-3, 25.5, 0.975),
    device="ssh:board",
)
NAMED = ExportRecipe(labels="my names.txt")
"""What goes with logits alone."""


def typed(command: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Returns what the command line makes of a command, without running it."""
    found: dict[str, Any] = {}

    def keep(source: str, bundle: object, asked: ExportRecipe, **_options: object) -> None:
        found.update(source=source, bundle=str(bundle), recipe=asked)
        raise SystemExit(0)

    monkeypatch.setattr(verb, "export", keep)
    program, *words = shlex.split(command)
    assert program == "vitedge"
    with pytest.raises(SystemExit):
        main.app(words, standalone_mode=False)
    return found


@pytest.mark.parametrize(
    "recipe",
    [
        EVERYTHING,
        NAMED,
        ExportRecipe(),
        ExportRecipe(precision="fp16", images="photos", image_size=(64, 64)),
        ExportRecipe(precision="w8", quantization=QuantizationRecipe("w8")),
        ExportRecipe(precision="int8", images="photos", quantization=QuantizationRecipe(images="photos")),
    ],
)
def test_the_command_line_reads_the_recipe_that_was_written(
    recipe: ExportRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = typed(export_command("my model.pth", recipe, "out"), monkeypatch)
    assert found == {"source": "my model.pth", "bundle": "out", "recipe": recipe}


def test_every_entry_of_a_recipe_is_in_that_test() -> None:
    plain = ExportRecipe()
    for entry in fields(plain):
        said = [getattr(recipe, entry.name) for recipe in (EVERYTHING, NAMED)]
        assert any(value != getattr(plain, entry.name) for value in said), entry.name


@pytest.mark.parametrize("labels", [("tench, Tinca tinca", "goldfish"), ()])
def test_what_no_option_takes_has_no_command(labels: tuple[str, ...]) -> None:
    assert export_command("m.pth", ExportRecipe(overrides={"labels": labels})) == ""
