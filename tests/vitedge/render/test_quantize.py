# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vitedge.quantization.records import (
    AttentionDiagnosis,
    FrontierPoint,
    LayerChoice,
    LayerDiagnosis,
    QuantizationRecord,
    QuantizationResult,
)
from vitedge.records import CheckpointIdentity
from vitedge.render.quantize import render

LAYERS = (
    "patch_embed.proj",
    *(f"stages.2.{index}.transformer.11.attn.qkv_proj" for index in (3, 4)),
    "stages.2.4.transformer.11.mlp.fc2",
    "head.fc",
)


def test_long_names_stand_below_their_module_and_no_line_wraps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    choices = tuple(LayerChoice(name, "linear", "int8", "", range_method="percentile 0.99999") for name in LAYERS)
    diagnoses = tuple(LayerDiagnosis(name, 24.25, 31.0, 40.0, 40.0, 0.0125) for name in LAYERS)
    attention = AttentionDiagnosis(
        "stages.2.3.transformer.11.attn", 197, 3.5, 3.6, 0.3, 0.31, 1e-3, 1.0, 0.0, 30.0, 0.9
    )
    record = QuantizationRecord(
        "int8", 8, "synthetic", "", layers=choices, diagnoses=diagnoses, attentions=(attention,)
    )
    identity = CheckpointIdentity("model.pth", "0" * 64, 1, None)
    render(QuantizationResult("m.pt2", 1, identity, "custom", record), profiles=("iphone",), layers=True, as_json=False)
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [line.split()[0] for line in printed[3:10]] == [
        "patch_embed.proj",
        "stages.2.3.transformer.11",
        "attn.qkv_proj",
        "stages.2.4.transformer.11",
        "attn.qkv_proj",
        "mlp.fc2",
        "head.fc",
    ]
    assert "stages.2.3.transformer.11.attn" in printed[13].split()
    assert all(len(line) <= 80 for line in printed)
    assert printed[-1] == "next: vitedge export m.pt2 -o BUNDLE --for iphone"


def test_what_was_not_compared_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    record = QuantizationRecord("w8", 0, "", "")
    identity = CheckpointIdentity("model.pth", "0" * 64, 1, None)
    render(QuantizationResult("m.pt2", 12_345, identity, "custom", record), profiles=(), layers=False, as_json=False)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "not compared with PyTorch: no images were named; vitedge export compares it",
        "m.pt2: 12.3 kB, in 0.0 s",
        "next: vitedge export m.pt2 -o BUNDLE --format onnx",
    ]


def test_a_budget_shows_what_the_float_model_classifies(capsys: pytest.CaptureFixture[str]) -> None:
    frontier = (FrontierPoint((), 17.5, 0.95, 2.5), FrontierPoint(("head: float",), 24.0, 0.97, 0.5))
    record = QuantizationRecord("int8", 8, "photos", "", sqnr_db=18.2, frontier=frontier)
    identity = CheckpointIdentity("model.pth", "0" * 64, 1, None)
    render(QuantizationResult("m.pt2", 1, identity, "custom", record), profiles=(), layers=False, as_json=False)
    shown = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in shown if "%" in line]
    assert rows == [
        ["everything", "-", "97.50%", "-"],
        ["nothing", "17.5", "95.00%", "(-2.50)", "-"],
        ["head:", "float", "24.0", "97.00%", "(-0.50)", "-"],
    ]
    assert shown[-1].endswith("--format onnx --min-sqnr 17"), "an export asks for 20 dB"
