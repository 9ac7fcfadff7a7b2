# SPDX-License-Identifier: Apache-2.0
"""Tests of `renaming`, and of the signatures in `family` by which a naming is found."""

from __future__ import annotations

import pytest
import torch

from vitedge.checkpoints.families.family import Converted, Naming, State
from vitedge.checkpoints.families.renaming import rename, with_batch_counters
from vitedge.errors import WeightsMismatch

RULES = [
    (r"layer\.(\d+)\.w", lambda found: f"blocks.{int(found[1]) - 1}.weight"),
    (r"(.*)\.w", r"\1.weight"),
    (r"(.*)\.weight", r"\1.weight"),
]


def state(*names: str) -> State:
    return {name: torch.full((2,), float(index)) for index, name in enumerate(names)}


def test_a_weight_gets_the_name_of_the_first_rule_that_matches_all_of_it() -> None:
    given = state("layer.1.w", "head.w", "decoder.w")
    found = rename(given, RULES, {r"decoder\..*": "only for pretraining"}, "tiny")
    assert list(found.state) == ["blocks.0.weight", "head.weight"]
    assert found.state["blocks.0.weight"] is given["layer.1.w"]
    assert found.dropped == {"decoder.w": "only for pretraining"}


def test_a_weight_without_a_place_is_named_and_many_are_counted() -> None:
    with pytest.raises(WeightsMismatch, match=r"The tiny checkpoint holds weights that have no place: head\.bias\."):
        rename(state("head.bias"), RULES, {}, "tiny")
    with pytest.raises(WeightsMismatch, match=r"0\.b, 1\.b, 2\.b, 3\.b and 2 more\.$"):
        rename(state(*(f"{index}.b" for index in range(6))), RULES, {}, "tiny")


def test_two_weights_of_one_name_are_refused() -> None:
    with pytest.raises(WeightsMismatch, match=r"mean head\.weight; one of them is head\.weight\."):
        rename(state("head.w", "head.weight"), RULES, {}, "tiny")


def test_batch_counters_are_added_where_they_are_missing_and_nowhere_else() -> None:
    given = state("a.running_mean", "b.running_mean", "b.num_batches_tracked", "c.weight")
    found = with_batch_counters(given)
    assert found.keys() - given.keys() == {"a.num_batches_tracked"}
    assert found["a.num_batches_tracked"] == 0
    assert found["b.num_batches_tracked"] is given["b.num_batches_tracked"]
    assert "a.num_batches_tracked" not in given


def test_a_signature_fits_where_each_expression_matches_a_whole_name() -> None:
    naming = Naming("tiny", (r"blocks\.\d+\.w", "head"), lambda state, _hints: Converted(state))
    assert naming.missing(["blocks.12.w", "head", "more"]) == ()
    assert naming.missing(["blocks.12.weight", "heads"]) == naming.signature
    assert naming.missing(["head"]) == (r"blocks\.\d+\.w",)
