# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from vitedge.parity.check import TOLERANCE_DB, compare_with_simulation
from vitedge.parity.metrics import compare
from vitedge.records import OutputParity, ParityReport, Tolerance


def outputs(noise: float) -> tuple[OutputParity, ...]:
    generator = np.random.default_rng(1)
    reference = generator.normal(size=(16, 7)).astype(np.float32)
    return compare(
        {"logits": reference}, {"logits": reference + noise * generator.normal(size=(16, 7)).astype(np.float32)}
    )


def report(noise: float, reason: str = "") -> ParityReport:
    found = outputs(noise)
    return ParityReport(
        "model.onnx", "onnxruntime", 16, "noise", Tolerance(), found, not reason, reason, note="one thread"
    )


def test_a_runtime_is_held_to_the_simulation() -> None:
    simulated = outputs(0.01)
    same = compare_with_simulation(report(0.01), simulated)
    assert same.passed
    assert same.note == f"one thread; simulated by PyTorch: {simulated[0].centred_sqnr_db:.1f} dB"
    far = compare_with_simulation(report(0.02), simulated)  # 6 dB
    assert not far.passed
    assert "the runtime rounds elsewhere than the program" in far.reason
    within = 0.01 * 10 ** (0.9 * TOLERANCE_DB / 20)
    assert compare_with_simulation(report(within), simulated).passed
    assert compare_with_simulation(report(0.001), simulated).passed  # nearer is no fault


def test_half_precision_adds_its_own_noise_to_the_simulation() -> None:
    exact, rough = outputs(1e-4), outputs(0.1)  # 80 dB and 20 dB
    assert compare_with_simulation(report(0.01), exact, half_db=40.0).passed
    assert not compare_with_simulation(report(0.02), exact, half_db=40.0).passed
    assert not compare_with_simulation(report(0.01), exact).passed
    assert compare_with_simulation(report(0.13), rough, half_db=40.0).passed
    assert not compare_with_simulation(report(0.2), rough, half_db=40.0).passed


def test_a_report_that_failed_before_keeps_its_reason() -> None:
    failed = compare_with_simulation(report(0.5, "degenerate"), outputs(0.01))
    assert (failed.passed, failed.reason) == (False, "degenerate")
