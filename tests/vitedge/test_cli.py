# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests import cli_docs

BUDGET_S = 0.4


def vitedge(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vitedge.cli", *arguments], capture_output=True, text=True, check=False
    )


def test_help_is_quick() -> None:
    # Processor time: the wall time of a machine that runs other tests beside this one says little.
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert vitedge("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(times) < BUDGET_S


def test_the_page_about_the_command_line_is_what_the_command_line_says() -> None:
    written = cli_docs.PAGE.read_text(encoding="utf-8")
    told = cli_docs.page()
    for pattern in (r"--[a-z-]+", r"^## .*$"):
        assert re.findall(pattern, written, re.M) == re.findall(pattern, told, re.M), "run make docs"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["inspect", "nowhere.pth"], "nowhere.pth"),
        (["export", "nowhere.pth", "-o", "out", "--image-size", "huge"], "--image-size is pixels"),
        (["export", "nowhere.pth", "-o", "out", "--format", "tflite"], "choose from onnx, coreml, tensorrt"),
        (["export", "nowhere.pth", "-o", "out", "--precision", "fp8"], "choose from fp32, fp16"),
        (["export", "nowhere.pth", "-o", "out", "--batch", "zero"], "--batch is a number"),
        (["export", "nowhere.pth", "-o", "out", "--for", "toaster"], "choose from cpu-x86"),
        (["export", "nowhere.pth", "-o", "out", "--recipe", "nowhere.toml"], "cannot be read as a recipe"),
        (["export", "nowhere.pth", "-o", "out", "--set", "heads"], "NAME=VALUE"),
        (["validate", "nowhere"], "is not there"),
        (["validate", "nowhere", "--layers"], "--against"),
        (["bench", "nowhere.onnx"], "nowhere.onnx"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(arguments: list[str], sentence: str) -> None:
    result = vitedge(*arguments)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_recipe_file_with_an_unknown_entry_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('precison = "fp16"\n')
    result = vitedge("export", "nowhere.pth", "-o", "out", "--recipe", str(recipe))
    assert result.returncode == 2
    assert "precison" in result.stderr
