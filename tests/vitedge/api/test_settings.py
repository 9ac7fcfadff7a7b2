# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vitedge.api.settings import class_names, combined, facts, several, size
from vitedge.errors import BadRecipe
from vitedge.recipe import ExportRecipe, Precision
from vitedge.records import Preprocessing


def test_settings_are_said_in_a_recipe_or_beside_it() -> None:
    recipe = ExportRecipe(precision=Precision.INT8, overrides={"heads": (3,)})
    found = combined(ExportRecipe, recipe, {"batch": 4, "precision": "int8", "overrides": {"labels": ("a",)}})
    assert (found.batch, found.precision, found.overrides) == (4, "int8", {"heads": (3,), "labels": ("a",)})
    assert combined(ExportRecipe, None, {"opset": None}) == ExportRecipe()
    with pytest.raises(BadRecipe, match=r"^precision is 'int8' in one place and 'fp16' in another: say it once.$"):
        combined(ExportRecipe, recipe, {"precision": "fp16"})
    with pytest.raises(BadRecipe, match=r"overrides\['heads'\] is \(3,\) in one place and \(4,\) in another"):
        combined(ExportRecipe, recipe, {"overrides": {"heads": (4,)}})
    with pytest.raises(BadRecipe, match="recipe takes ExportRecipe; got dict"):
        combined(ExportRecipe, {"precision": "int8"}, {})  # type: ignore[arg-type]


def test_facts_are_stated_together() -> None:
    assert facts(None) == {}
    stated = facts({"heads": (3,)}, {1: "dog", 0: "cat"}, {"mean": (0.5,) * 3, "crop_pct": 1.0})
    assert stated == {"heads": (3,), "labels": ("cat", "dog"), "mean": (0.5,) * 3, "crop": 1.0}
    whole = facts(None, None, Preprocessing((0.5,), (0.25,)))
    assert (whole["mean"], whole["std"], whole["interpolation"]) == ((0.5,), (0.25,), "bicubic")
    assert class_names({"dog": 1, "cat": 0}) == class_names({"0": "cat", "1": "dog"}) == ("cat", "dog")


def test_sizes_and_names_may_be_one() -> None:
    assert (size(None), size(48), size((48, 32))) == (None, (48, 48), (48, 32))
    assert (several(None), several("onnx"), several(["onnx", "coreml"])) == (None, ("onnx",), ("onnx", "coreml"))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: size((1, 2, 3)), "image_size is one number, or a height and a width"),
        (lambda: facts(None, [0, 1]), "labels takes the names of the classes"),  # type: ignore[list-item]
        (lambda: facts(None, "cat"), "labels takes the names of the classes"),
        (lambda: facts(None, {0: "cat", 2: "dog"}), "labels has 2 entries, and not each number from 0 to 1 once"),
        (lambda: facts(None, {"a": "b"}), "labels maps numbers to names"),
        (lambda: facts(None, None, {"size": 3}), "preprocessing has no size; there is mean, std"),
        (lambda: facts(None, None, 0.5), "preprocessing takes a mapping such as"),  # type: ignore[arg-type]
        (lambda: facts({"mean": (0.1,)}, None, {"mean": (0.2,)}), r"overrides\['mean'\] is \(0.1,\) in one place"),
    ],
)
def test_a_mistake_is_a_sentence(wrong: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(BadRecipe, match=sentence):
        wrong()
