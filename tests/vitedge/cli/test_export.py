# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from tests.vitedge.cli.process import check_mistake


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
def test_a_mistake_is_one_sentence_and_exit_2(options: list[str], sentence: str) -> None:
    check_mistake(["export", "nowhere.pth", "-o", "out", *options], sentence)


def test_a_recipe_file_with_an_unknown_entry_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('precison = "fp16"\n')
    check_mistake(["export", "nowhere.pth", "-o", "out", "--recipe", str(recipe)], "precison")
