# SPDX-License-Identifier: Apache-2.0
"""Every checkpoint of the matrix by name, and the outputs of an exported one in ONNX Runtime, apart from vitedge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from tests.family_files import Case, Source
from tests.family_map_files import MAP_CASES
from tests.family_vit_files import VIT_CASES

CASES = {**VIT_CASES, **MAP_CASES}
WHOLE = tuple(name for name, case in CASES.items() if case.whole)


@dataclass(frozen=True)
class Made:
    """A checkpoint on disk, and what it has to compute."""

    case: Case
    source: Source
    path: str


class Shelf:
    """Makes each checkpoint once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.take = cache(self._make)

    def _make(self, name: str) -> Made:
        case = CASES[name]
        source = case.source()
        return Made(case, source, case.write(source, self._folder / name.replace(" ", "-")))


def images(edge: int, count: int = 4) -> Tensor:
    """Normalized images."""
    return torch.randn(count, 3, edge, edge, generator=torch.Generator().manual_seed(5))


def run(path: Path, inputs: Tensor, batch: int = 1) -> list[Tensor]:
    """The outputs for images, a batch at a time, as ONNX Runtime computes them from nothing but the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    results = [session.run(None, {entry.name: part.numpy()}) for part in inputs.split(batch)]
    return [torch.from_numpy(np.concatenate(output)) for output in zip(*results, strict=True)]


def assert_same(found: Tensor, expected: Tensor, allowed: float) -> None:
    """Equal up to the allowed error relative to the largest value, and not the same for every image."""
    assert found.shape == expected.shape
    assert (expected - expected.mean(0)).abs().max() > 1e-3 * expected.abs().max(), "the image has to matter"
    assert float((found - expected).abs().max() / expected.abs().max()) <= allowed
