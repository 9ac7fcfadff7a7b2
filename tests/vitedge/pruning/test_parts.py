# SPDX-License-Identifier: Apache-2.0
"""Tests of `parts` and `vitedge.models.blocks`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.vitedge.pruning import models
from vitedge.pruning.parts import find_parts, narrow


@pytest.mark.parametrize("kind", models.FAMILIES)
def test_taking_away_what_is_zero_changes_nothing(kind: str, tmp_path: Path) -> None:
    dense = models.loaded(kind, tmp_path)
    draft = models.draft(dense, 4)
    draft.module.double()
    parts = find_parts(draft.module, 8)
    planted = {}
    for part in parts:
        weight = draft.module.get_submodule(part.consumer).weight
        dead = [0, part.units - 1][: part.units - 1]
        planted[part.name] = dead
        with torch.no_grad():
            weight.view(weight.shape[0], part.units, -1)[:, dead] = 0  # type: ignore[operator]
    image = next(iter(draft.images)).double()
    with torch.no_grad():
        expected = draft.module(image)
        for part in parts:
            narrow(draft.module, part, [unit for unit in range(part.units) if unit not in planted[part.name]][::-1])
        found = draft.module(image)
    assert float((found - expected).abs().max()) < 1e-12 * float(expected.abs().max())
