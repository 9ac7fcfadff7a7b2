# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import vitedge as api
from tests.vitedge.cli.command import Command, check_refusal
from tests.vitedge.quantization.file.headers import written
from vitedge.errors import BadRecipe, UnreadableArtifact
from vitedge.recipe import ExportRecipe, QuantizationRecipe


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--image-size", "huge"], "--image-size is pixels"),
        (["--format", "tflite"], "choose from onnx, coreml, tensorrt"),
        (["--precision", "fp8"], "choose from fp32, fp16"),
        (["--batch", "zero"], "--batch is a number"),
        (["--for", "toaster"], "choose from cpu-x86"),
        (["--recipe", "nowhere.toml"], "cannot be read as a recipe"),
        (["--set", "heads"], "NAME=VALUE"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(options: list[str], sentence: str, vitedge: Command) -> None:
    check_refusal(vitedge("export", "nowhere.pth", "-o", "out", *options), sentence)


def test_a_recipe_file_with_an_unknown_entry_is_refused(vitedge: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('precison = "fp16"\n')
    check_refusal(vitedge("export", "nowhere.pth", "-o", "out", "--recipe", recipe), "precison")


FIXED: dict[str, tuple[dict[str, Any], str]] = {
    "--precision w4": ({"precision": "w4"}, "was quantized with precision int8, not w4: quantize the checkpoint anew"),
    "--precision fp16": ({"precision": "fp16"}, "precision int8, not fp16"),
    "--batch dynamic": ({"batch": "dynamic"}, "batch 1, not dynamic"),
    "--batch 4": ({"batch": 4}, "batch 1, not 4"),
    "--input uint8": ({"input": "uint8"}, "input float32, not uint8"),
    "--image-size 64": ({"image_size": (64, 64)}, "was quantized for 32x48 pixels"),
    "--images photos": ({"images": "photos"}, "--images was fixed when"),
    "--image-count 9": ({"image_count": 9}, "--image-count was fixed when"),
    "--seed 3": ({"seed": 3}, "--seed was fixed when"),
    "--weights ema": ({"weights": "ema"}, "--weights was fixed when"),
    "--set heads=2": ({"overrides": {"heads": 2}}, "--set was fixed when"),
    "--features": ({"features": True}, "--features was fixed when"),
    "--precision int8 --layer head=float": (
        {"precision": "int8", "quantization": QuantizationRecipe(layers={"head": "float"})},
        "--quantization or --layer was fixed when",
    ),
    "--precision int8 -Q block=32": (
        {"precision": "int8", "quantization": QuantizationRecipe(block=32)},
        "--quantization or --layer was fixed when",
    ),
    "--for jetson-orin-nano": ({"profiles": ("jetson-orin-nano",)}, "was quantized for processors"),
    "--for iphone --format onnx": ({"profiles": ("iphone",), "formats": ("onnx",)}, "leave --for iphone out"),
}
"""Options, the same as entries of a recipe, and what is said of both: a quantized file is what it is."""


@pytest.mark.parametrize("options", FIXED)
def test_what_a_quantized_file_fixes_is_refused_both_ways_in_the_same_words(
    options: str, vitedge: Command, tmp_path: Path
) -> None:
    entries, words = FIXED[options]
    source = str(written(tmp_path / "m.pt2"))
    with pytest.raises(BadRecipe) as caught:
        api.export(source, tmp_path / "out", ExportRecipe(**entries))
    assert words in str(caught.value)
    typed = vitedge("export", source, "-o", tmp_path / "out", *options.split())
    check_refusal(typed, str(caught.value))
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"]


@pytest.mark.parametrize("options", ["--precision fp32", "--images synthetic", "--batch 1 --layer head=float"])
def test_what_is_typed_counts_where_it_is_the_default_too(options: str, vitedge: Command, tmp_path: Path) -> None:
    source = written(tmp_path / "m.pt2")
    check_refusal(vitedge("export", source, "-o", tmp_path / "out", *options.split()), "quantize the checkpoint anew")


def test_a_file_that_is_no_quantized_one_is_refused_both_ways(vitedge: Command, tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"nothing")
    with pytest.raises(UnreadableArtifact) as caught:
        api.export(str(tmp_path / "m.pt2"), tmp_path / "out")
    check_refusal(vitedge("export", tmp_path / "m.pt2", "-o", tmp_path / "out"), str(caught.value))
