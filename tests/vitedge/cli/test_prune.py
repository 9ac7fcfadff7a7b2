# SPDX-License-Identifier: Apache-2.0
"""Tests of `prune`, and of `vitedge.render.prune`: the command from the options to the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.bad_files import VIT
from vitedge.cli.main import app
from vitedge.demo.assets import images


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["prune", str(VIT), *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    pixels, labels = images()
    path = tmp_path_factory.mktemp("photos") / "digits.npz"
    np.savez(path, images=pixels[:120], labels=labels[:120])
    return str(path)


def test_the_whole_chain_is_printed_and_kept(photos: str, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    options = ["-o", str(out), "--images", photos, "--image-count", "64", "--mlp", "0.75", "--sparsity", "2:4"]
    code, text = run(*options, "--merge", "1", "--eval", photos, "--parts")
    assert code == 0, text
    for words in ("fewer heads and units", "sparse weights", "merged tokens", "blocks.3.mlp", "next: vitedge export"):
        assert words in text
    inspected = CliRunner().invoke(app, ["inspect", str(out)]).output
    assert "merge of each block" in inspected
    assert "step: prune --mlp 0.75 --sparsity 2:4 --merge 1 of vit-digits.pth" in inspected
    again = CliRunner().invoke(app, ["inspect", str(out), "--json"]).output
    assert json.loads(again)["steps"][0]["result"]["frontier"][-1]["name"] == "merged tokens"


def test_a_budget_that_is_exceeded_writes_the_best_and_exits_with_4(photos: str, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    code, text = run("-o", str(out), "--images", photos, "--mlp", "0.25", "--min-sqnr", "90", "--image-count", "64")
    assert code == 4
    assert "budget exceeded" in text
    assert out.exists()
