# SPDX-License-Identifier: Apache-2.0
"""The recipes `export` and `quantization`, their `checks` and `settings`, and `toml` files of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from vitedge.errors import BadRecipe
from vitedge.files.plain import from_dict, to_dict
from vitedge.latency.sampling import Rule
from vitedge.recipe import ExportRecipe, LayerScheme, Precision, QuantizationRecipe, read_entries
from vitedge.records import Tolerance
from vitedge.verbs.evaluate import EvaluationRequest
from vitedge.verbs.subjects import Weights
from vitedge.verbs.validate import ReferenceOptions


def test_what_is_not_said_is_none() -> None:
    recipe = ExportRecipe()
    assert (recipe.formats, recipe.precision, recipe.batch, recipe.input) == (None, None, 1, "float32")


def test_settings_are_named_values_that_read_as_their_text() -> None:
    recipe = ExportRecipe(precision="int8", quantization=QuantizationRecipe("int8", layers={"head": "float"}))
    assert recipe.precision is Precision.INT8
    assert f"{recipe.precision} {recipe.precision:>6}" == "int8   int8"
    assert recipe.quantization is not None
    assert recipe.quantization.layers == {"head": LayerScheme.FLOAT}
    with pytest.raises(BadRecipe, match="fp16 is no scheme of quantization; choose from int8, "):
        QuantizationRecipe("fp16")
    with pytest.raises(BadRecipe, match="no scheme of a layer 'int7'; choose from float, int8"):
        QuantizationRecipe(layers={"head": "int7"})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precision": "int9"}, ("precision", "int9", "fp32, fp16, int8")),
        ({"input": "bgr8"}, ("input", "bgr8", "float32, uint8")),
        ({"batch": 0}, ("--batch", "0")),
        ({"batch": "many"}, ("--batch", "many")),
        ({"seed": -1}, ("--seed", "-1")),
        ({"image_count": 1}, ("at least 2 images",)),
    ],
)
def test_what_cannot_be_asked_for_is_refused(settings: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(BadRecipe) as caught:
        ExportRecipe(**settings)
    for word in words:
        assert word in str(caught.value)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("kind", "entries", "words"),
    [
        (Tolerance, {"relative_error": NAN}, "--max-error"),
        (Tolerance, {"relative_error": INF}, "--max-error"),
        (Tolerance, {"relative_error": -1e-3}, "from 0 up"),
        (Tolerance, {"centred_sqnr_db": NAN}, "--min-sqnr"),
        (Tolerance, {"centred_sqnr_db": -INF}, "--min-sqnr"),
        (Tolerance, {"agreement": 99}, "from 0 to 1; got 99"),
        (Tolerance, {"agreement": NAN}, "--min-agreement"),
        (Tolerance, {}, "checks nothing"),
        (ExportRecipe, {"batch": True}, "--batch"),
        (ExportRecipe, {"batch": -2}, "--batch"),
        (ExportRecipe, {"image_count": 0}, "--image-count is 0"),
        (ExportRecipe, {"image_count": 2.5}, "--image-count is a whole number"),
        (ExportRecipe, {"image_size": (0, 32)}, "--image-size"),
        (ExportRecipe, {"image_size": (32, -1)}, "--image-size"),
        (ExportRecipe, {"opset": 0}, "--opset"),
        (ExportRecipe, {"seed": NAN}, "--seed"),
        (ExportRecipe, {"engine_batch": (0, 8), "batch": "dynamic"}, "--engine-batch"),
        (ExportRecipe, {"engine_batch": (8, 4), "batch": "dynamic"}, "--engine-batch"),
        (ExportRecipe, {"features": True, "tolerance": Tolerance(agreement=0.9)}, "Features have no top-1"),
        (QuantizationRecipe, {"image_count": 1}, "Calibration needs at least 2 images"),
        (QuantizationRecipe, {"image_count": -4}, "--image-count"),
        (QuantizationRecipe, {"seed": -1}, "--seed"),
        (QuantizationRecipe, {"min_sqnr": NAN}, "--min-sqnr"),
        (QuantizationRecipe, {"min_sqnr": INF}, "--min-sqnr"),
        (QuantizationRecipe, {"max_drop": NAN, "eval_images": "set"}, "--max-drop"),
        (QuantizationRecipe, {"max_drop": 101.0, "eval_images": "set"}, "from 0 to 100"),
        (QuantizationRecipe, {"block": 0}, "block is a whole number from 16 up"),
        (QuantizationRecipe, {"block": 48}, "power of two"),
        (EvaluationRequest, {"images": "set", "image_count": 0}, "--image-count"),
        (EvaluationRequest, {"images": "set", "seed": -1}, "--seed"),
        (EvaluationRequest, {"images": "set", "max_drop": NAN}, "--max-drop"),
        (EvaluationRequest, {"images": "set", "weights": Weights(image_size=(0, 0))}, "--image-size"),
        (ReferenceOptions, {"checkpoint": "a.pth", "image_count": 1}, "at least 2 images"),
        (ReferenceOptions, {"checkpoint": "a.pth", "tolerance": Tolerance(INF)}, "--max-error"),
        (Rule, {"samples": 0}, "samples"),
        (Rule, {"rounds": 2.5}, "rounds"),
        (Rule, {"seconds": INF}, "seconds"),
        (Rule, {"settle": NAN}, "settle"),
    ],
)
def test_numbers_that_are_none_or_out_of_range_are_refused(kind: type, entries: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRecipe) as caught:
        if kind is Tolerance:
            ExportRecipe(tolerance=Tolerance(**entries))
        else:
            kind(**entries)
    assert words in str(caught.value)
    assert re.search(r"[.]$", str(caught.value))


def test_numbers_of_a_file_are_refused_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    for line in ("[tolerance]\nrelative_error = nan", "[tolerance]\nagreement = 99", "[quantization]\nmin_sqnr = inf"):
        path.write_text(line, encoding="utf-8")
        with pytest.raises(BadRecipe, match="finite number"):
            read_entries(path)


def test_a_file_gives_the_recipe_that_it_spells(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        'formats = ["onnx", "coreml"]\nprecision = "fp16"\nimage_size = [64, 48]\nbatch = "dynamic"\n'
        "[overrides]\nheads = 3\n[tolerance]\ncentred_sqnr_db = 50\n",
        encoding="utf-8",
    )
    recipe = from_dict(ExportRecipe, read_entries(path))
    expected = ExportRecipe(
        formats=("onnx", "coreml"),
        precision="fp16",
        image_size=(64, 48),
        batch="dynamic",
        overrides={"heads": 3},
        tolerance=Tolerance(centred_sqnr_db=50.0),
    )
    assert recipe == expected
    assert from_dict(ExportRecipe, to_dict(recipe)) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"precision = fp16", ("cannot be read as a recipe",)),
        (b"\xff\xfe", ("cannot be read as a recipe",)),
        (b'precison = "fp16"', ("precison", "precision")),
        (b"[tolerance]\nmax_error = 1", ("max_error", "relative_error")),
        (b'image_count = "all"', ("image_count", "all")),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(content: bytes, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(BadRecipe) as caught:
        read_entries(path)
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match=r"none\.toml"):
        read_entries(tmp_path / "none.toml")
