# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from tests.export import tiny
from tests.export.quantized_programs import quantized
from vitedge.export.float16 import float32_modules
from vitedge.export.float16.float32_modules import HalfPrecision, sample
from vitedge.program.unrounded import without_rounding


def pixels(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, tiny.SIZE, tiny.SIZE), np.uint8)


def test_one_watch_serves_every_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[object] = []
    predict = float32_modules.predict_noise

    def counting(*arguments: object) -> object:
        runs.append(arguments)
        return predict(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(float32_modules, "predict_noise", counting)
    program = tiny.program("vit")[1]
    name = program.outputs[0].name
    reference = {name: np.random.default_rng(1).normal(size=(6, 7)).astype(np.float32)}
    half = HalfPrecision(program, pixels(), reference)
    assert half.float32_modules(None).modules == ()
    assert not runs
    few, many = half.float32_modules(20.0), half.float32_modules(120.0)
    assert set(few.modules) < set(many.modules)
    assert "stay in float32 so that half precision holds 120 dB" in many.notes[0]
    assert len(runs) == 1


def test_a_quantized_program_is_watched_without_its_rounding() -> None:
    program = quantized("vit", "int8")
    name = program.outputs[0].name
    reference = {name: np.random.default_rng(1).normal(size=(6, 7)).astype(np.float32)}
    assert HalfPrecision(without_rounding(program), pixels(), reference).float32_modules(120.0).modules


def test_a_few_images_are_spread_over_all() -> None:
    assert sample(2) == [0, 1]
    assert sample(10) == [0, 3, 6, 9]
