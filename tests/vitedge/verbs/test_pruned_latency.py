# SPDX-License-Identifier: Apache-2.0
"""Tests of `pruned_latency`: the search with a clock that counts, and one measurement of the real one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import nn

from tests.vitedge.pruning import models
from vitedge.errors import BadRecipe
from vitedge.models.reference import Reference
from vitedge.progress import reporting
from vitedge.pruning.costs import count_prices
from vitedge.pruning.journal import Journal
from vitedge.pruning.ranking import Ranking
from vitedge.pruning.recipe import PruningRecipe
from vitedge.pruning.structured import rank
from vitedge.verbs.pruned_latency import TOLERANCE, Clock, find_sizes, narrowed


class CountingClock(Clock):
    """A machine on which a model takes a fixed time, and the rest in proportion to the square of its parameters."""

    def ratios(self, variants: Mapping[str, nn.Module]) -> dict[str, float]:
        def size(module: nn.Module) -> int:
            return sum(parameter.numel() for parameter in module.parameters())

        dense = size(self.dense.module)
        return {label: 0.3 + 0.7 * (size(module) / dense) ** 2 for label, module in variants.items()}


def ranked(tmp_path: Path) -> tuple[Reference, list[Ranking]]:
    dense = models.loaded("vit", tmp_path)
    recipe = PruningRecipe(latency=0.7, criterion="magnitude")
    return dense, rank(models.draft(dense, 4), recipe, Journal("key", tmp_path))


def test_the_search_ends_at_the_time_that_was_asked_for(tmp_path: Path) -> None:
    dense, rankings = ranked(tmp_path)
    told: list[str] = []
    clock = CountingClock(dense, "onnxruntime")
    with reporting(told.append):
        sizes, took = find_sizes(clock, rankings, count_prices(dense.spec, 8), 0.7)
    assert abs(took - 0.7) <= 0.05 * 0.7
    assert clock.ratios({"again": narrowed(dense.module, rankings, sizes)})["again"] == took
    assert any("0.7 asked for" in line for line in told)
    assert TOLERANCE < 0.05


def test_a_time_that_cannot_be_met_is_one_sentence(tmp_path: Path) -> None:
    dense, rankings = ranked(tmp_path)
    clock = CountingClock(dense, "onnxruntime")
    with pytest.raises(BadRecipe, match=r"--latency 0.01 cannot be met"):
        find_sizes(clock, rankings, count_prices(dense.spec, 8), 0.01)


def test_only_runtimes_of_onnx_files_can_be_timed(tmp_path: Path) -> None:
    dense, _ = ranked(tmp_path)
    with pytest.raises(BadRecipe, match="--runtime coreml cannot be timed"):
        Clock(dense, "coreml")
