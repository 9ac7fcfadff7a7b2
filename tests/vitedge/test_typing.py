# SPDX-License-Identifier: Apache-2.0
"""A program that uses every verb is typed, for mypy in its strict mode, by the package as it is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vitedge

PROGRAM = """
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import vitedge
import vitedge.export.to_onnx
from vitedge import export


def images() -> Iterator[tuple[NDArray[np.uint8], int]]:
    yield np.zeros((32, 32, 3), np.uint8), 0


def job(model: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    found = vitedge.inspect(state, overrides={"heads": (3,)})
    reference = vitedge.load(model, image_size=found.spec.image_size)
    recipe = vitedge.ExportRecipe(opset=18, quantization=vitedge.QuantizationRecipe(image_count=64))
    result = export(reference, "bundle", recipe, images=images(), labels=["cat", "dog"], progress=print)
    program = vitedge.quantize(model, "int8.pt2", images=torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
    dense = vitedge.PruningRecipe(mlp=0.5)
    pruned = vitedge.prune(model, "small.safetensors", dense, images="photos", preprocessing={"crop": 1.0})
    checked = vitedge.validate(result, against=model, tolerance=vitedge.Tolerance(relative_error=1e-3))
    counted = vitedge.evaluate([model, result, program, pruned, "other.onnx"], images(), max_drop=1.0)
    timed = vitedge.bench([state, result], rule=vitedge.Rule(samples=10), device=("local",))
    compared = vitedge.compare(model, images=images(), precisions=["fp32", "w8"], max_drop=1.0, eval_images="photos")
    shipped: str = compared.kept.get(compared.recommended, "")
    checkup = vitedge.doctor()
    try:
        vitedge.export(model, "coreml", formats="coreml", precision="fp16", batch="dynamic", image_size=48)
    except (vitedge.UserError, vitedge.CheckFailed, vitedge.MissingBackend, vitedge.DeviceFailed) as error:
        failed: vitedge.VitedgeError = error
        return not failed.exit_code
    top1: float = counted.subjects[0].top1.share
    median: float = timed.reports[0].quantiles.median
    return bool(shipped) and checked.passed and not checkup.broken and top1 > 0.5 and median < 10
"""
WRONG = {
    'vitedge.export("x.pth")': "Missing positional argument",
    'vitedge.export("x.pth", "b", precison="int8")': 'Unexpected keyword argument "precison"',
    'vitedge.export("x.pth", "b", batch=1.5)': "incompatible type",
    "vitedge.inspect(3)": "incompatible type",
    'vitedge.exprot("x.pth", "b")': "has no attribute",
    'vitedge.validate("b").pased': "has no attribute",
}


@pytest.mark.slow
def test_a_program_that_uses_every_verb_is_clean_and_mistakes_are_found(tmp_path: Path) -> None:
    assert [name for name in vitedge.__all__ if f"vitedge.{name}" not in PROGRAM] == []
    lines = PROGRAM.count("\n")
    place = tmp_path / "program.py"
    place.write_text(PROGRAM + "\n".join(WRONG) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path), str(place)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(vitedge.__file__).parent.parent
    )
    found = {
        int(line.split(":")[1]): line for line in done.stdout.splitlines() if "program.py" in line and ": error" in line
    }
    assert done.returncode == 1, done.stderr
    assert sorted(found) == [lines + index for index in range(1, len(WRONG) + 1)], done.stdout
    for index, sentence in enumerate(WRONG.values(), 1):
        assert sentence in found[lines + index]
