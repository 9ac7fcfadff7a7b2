# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from tests.vitedge.render.samples import DEMO
from vitedge.render.demo import render


def test_pruned_artifacts_are_told_apart_and_their_two_references_named(capsys: pytest.CaptureFixture[str]) -> None:
    (pruned,) = (row for row in DEMO.rows if row.pruning is not None)
    render(replace(DEMO, rows=(*DEMO.rows, replace(pruned, precision="int8"))), as_json=False)
    text = " ".join(capsys.readouterr().out.split())
    names = [text.index(name) for name in ("onnx int8", "onnx pruned 439.0 kB", "onnx pruned int8")]
    assert names == sorted(names)
    assert text.count("MobileViT: pruned to") == 1
    assert "relative and SQNR are against the pruned PyTorch model, top-1 is beside the dense one" in text


def test_without_a_pruned_artifact_nothing_is_said_of_pruning(capsys: pytest.CaptureFixture[str]) -> None:
    render(replace(DEMO, rows=tuple(row for row in DEMO.rows if row.pruning is None)), as_json=False)
    assert "pruned" not in capsys.readouterr().out
