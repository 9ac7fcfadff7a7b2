# SPDX-License-Identifier: Apache-2.0
"""Tests of `recipe` and `records`: what is refused before any work is done, and what goes into a file and back."""

from __future__ import annotations

from typing import Any

import pytest

from vitedge.errors import BadRecipe
from vitedge.files.plain import from_dict, to_dict
from vitedge.pruning.recipe import PruningRecipe
from vitedge.pruning.records import Distance, Merging, PrunedPoint, PruningRecord

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "Nothing was asked to be pruned"),
    ({"mlp": 0.0}, "--mlp is the fraction that is kept"),
    ({"heads": 1.01}, "--heads is the fraction that is kept"),
    ({"macs": float("nan")}, "--macs is a finite number"),
    ({"macs": 0.5, "latency": 0.5}, "--macs and --latency exclude each other"),
    ({"macs": 0.5, "heads": 0.5}, "--macs and --heads exclude each other"),
    ({"sparsity": "4:8"}, "--sparsity is 2:4, or the fraction"),
    ({"sparsity": 1.0}, "--sparsity is 2:4, or the fraction"),
    ({"merge": -1}, "--merge is a whole number"),
    ({"merge": (1, -2)}, "--merge is a whole number"),
    ({"mlp": 0.5, "criterion": "luck"}, "There is no criterion 'luck'"),
    ({"mlp": 0.5, "multiple": 0}, "--multiple is a whole number"),
    ({"mlp": 0.5, "image_count": 1}, "Pruning needs at least 2 images"),
    ({"mlp": 0.5, "recover": "photos"}, "--recover DIR and --epochs N belong together"),
    ({"mlp": 0.5, "epochs": 3}, "--recover DIR and --epochs N belong together"),
    ({"mlp": 0.5, "max_drop": 1.0}, "add --eval LABELLED_DIR"),
    ({"merge": 2, "criterion": "taylor"}, "--criterion is a setting of --heads F, .*: leave it out"),
    ({"merge": 2, "repair": False}, "--no-repair is a setting of --heads F"),
    ({"merge": 2, "multiple": 16}, "--multiple is a setting of --heads F"),
    ({"merge": 2, "selection": "wanda"}, "--selection is a setting of --sparsity 2:4"),
    ({"macs": 0.5, "runtime": "openvino"}, "--runtime is a setting of --latency F"),
    ({"mlp": 0.5, "min_sqnr": float("inf")}, "--min-sqnr, in dB, is a finite number"),
]


@pytest.mark.parametrize(("entries", "sentence"), REFUSED)
def test_a_recipe_that_cannot_be_followed_is_refused(entries: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRecipe, match=sentence):
        PruningRecipe(**entries)


def test_recipe_and_record_go_into_a_file_and_back() -> None:
    recipe = PruningRecipe(macs=0.5, sparsity="2:4", merge=(0, 3), criterion="taylor", images="photos")
    assert from_dict(PruningRecipe, to_dict(recipe)) == recipe
    record = PruningRecord(
        images=2,
        image_source="synthetic, seed 0",
        gmacs=(2.0, 1.0),
        parameters=(10, 5),
        structured=None,
        sparsification=None,
        merging=Merging((0, 3), (17, 14)),
        recovery=None,
        distance=Distance(2, "synthetic, seed 0", float("inf"), None),
        frontier=(PrunedPoint("dense", 1.0, None),),
    )
    assert from_dict(PruningRecord, to_dict(record)) == record
