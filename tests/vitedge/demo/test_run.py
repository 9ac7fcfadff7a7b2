# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.schemas import misfits
from vitedge.demo import run as demo
from vitedge.demo.assets import MODELS, images
from vitedge.files.bundle import read_manifest
from vitedge.files.plain import to_dict
from vitedge.latency.sampling import Rule
from vitedge.verbs.validate import validate


def test_one_model_from_its_file_to_what_it_classifies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (model,) = (model for model in MODELS if model.name == "PiT")
    monkeypatch.setattr(demo, "MODELS", (model,))
    monkeypatch.setattr(demo, "_RULE", Rule(warmup_s=0.02, warmup_limit_s=0.1, samples=10, seconds=0.2, rounds=5))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    told: list[str] = []
    result = demo.run(tmp_path, told.append)
    assert "PiT · reading the checkpoint …" in told
    assert {text.partition(" · ")[0] for text in told if " · " in text} == {"PiT"}
    assert "reading the checkpoint …" not in told  # every stage says of which model it is
    assert (result.folder, result.images) == (str(tmp_path), 540)
    onnx, coreml, small, pruned, both = result.rows
    assert (onnx.model, onnx.format, coreml.format) == ("PiT", "onnx", "coreml")
    assert (small.format, small.precision) == ("onnx", "int8")
    # A model that guesses is right on a tenth of the images; this one was trained.
    assert onnx.reference_top1 > 0.9
    assert onnx.top1 == onnx.reference_top1 == coreml.reference_top1 == coreml.top1
    assert max(onnx.parity.relative_error, coreml.parity.relative_error) <= 1e-5
    assert small.parity.centred_sqnr_db > 25
    assert (onnx.speed, coreml.speed) == (None, None)
    assert small.speed is not None
    assert small.speed.text.startswith("int8 takes ")
    assert onnx.top1 - small.top1 <= 3 / 540
    assert small.size < 0.5 * onnx.size
    assert onnx.pruning is small.pruning is None
    assert pruned.pruning is not None
    assert both.pruning == pruned.pruning
    assert 0.6 < pruned.pruning.macs <= 0.7
    assert (pruned.pruning.images, both.precision) == (64, "int8")
    assert pruned.pruning.sqnr_db > 10
    assert max(onnx.top1 - pruned.top1, onnx.top1 - both.top1) <= 5 / 540
    assert pruned.parity.centred_sqnr_db > 100  # against the pruned model, not the dense one
    assert both.size < 0.9 * small.size < 0.9 * pruned.size
    assert onnx.median_ms is not None
    assert 0 < onnx.median_ms < onnx.reference_ms
    assert coreml.median_ms is None
    manifest = read_manifest(tmp_path / "pit")
    assert manifest.parity[0].images == 64
    assert manifest.spec.labels == tuple("0123456789")
    assert manifest.artifacts[0].size == onnx.size
    assert validate(tmp_path / "pit").passed
    assert validate(tmp_path / "pit-int8").passed
    assert misfits("demo", to_dict(result)) == []
    both_steps = validate(tmp_path / "pit-pruned-int8").steps
    assert [(step.verb, step.recipe["macs"]) for step in both_steps] == [("prune", 0.7)]


def test_top1_is_the_share_of_the_images_that_are_classified_correctly() -> None:
    logits = np.eye(4, dtype=np.float32)
    assert demo._top1(logits, (0, 1, 2, 0)) == 0.75
    assert len(images()[1]) == 540
