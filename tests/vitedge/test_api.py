# SPDX-License-Identifier: Apache-2.0
"""The package `vitedge` as a Python user meets it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import vitedge
from tests.bad_files import VIT
from tests.test_layout import HEAVY
from vitedge.cli.main import app
from vitedge.demo.assets import IMAGES
from vitedge.errors import BadRecipe, UserError
from vitedge.latency.sampling import Rule
from vitedge.pruning.recipe import PruningRecipe
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.records import Tolerance
from vitedge.verbs.bench import BenchOptions
from vitedge.verbs.evaluate import EvaluationRequest
from vitedge.verbs.subjects import Weights
from vitedge.verbs.validate import ReferenceOptions

RECORDS: dict[str, tuple[type, ...]] = {
    "bench": (BenchOptions,),
    "export": (ExportRecipe, QuantizationRecipe, Tolerance),
    "prune": (PruningRecipe,),
    "quantize": (ExportRecipe, QuantizationRecipe),
    "validate": (ReferenceOptions, Tolerance),
    "evaluate": (EvaluationRequest, Weights),
}
"""Verb to the records whose fields are options of its command, too."""
NAMES = {
    "output": ("bundle", "out"),
    "input_type": ("input",),
    "settings": ("quantization",),
    "model": ("overrides",),
    "scheme": ("precision",),
    "labelled": ("eval_images",),
    "max_error": ("relative_error",),
    "min_sqnr": ("centred_sqnr_db", "min_sqnr"),
    "min_agreement": ("agreement",),
}
"""Option to what Python calls it, where that is not the same."""
SHOWN = {"json", "diagnose", "parts", "quiet", "verbose", "log"}
"""Options of what is printed: Python returns all of it, and tells whoever is given as ``progress``."""


def told(script: str) -> list[str]:
    """Returns the output of a fresh Python: in this one everything is imported already."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines: list[str] = json.loads(done.stdout.splitlines()[-1])
    return lines


def function_of(verb: str) -> Callable[..., Any]:
    """The function of a verb, also where a package of its name took its place."""
    return vitedge._export if verb == "export" else getattr(vitedge, verb)  # type: ignore[no-any-return]


def test_the_verbs_are_the_ones_that_are_promised() -> None:
    assert vitedge.__all__ == ["bench", "evaluate", "export", "inspect", "load", "prune", "quantize", "validate"]
    for name in vitedge.__all__:
        assert callable(getattr(vitedge, name))
        assert inspect.getdoc(function_of(name))


@pytest.mark.parametrize("verb", [name for name in vitedge.__all__ if name != "load"])
def test_a_verb_has_every_option_of_its_command(verb: str) -> None:
    command = vars(typer.main.get_command(app))["commands"][verb]
    known = set(inspect.signature(function_of(verb)).parameters)
    known |= {entry.name for record in RECORDS.get(verb, ()) for entry in dataclasses.fields(record)}
    asked = {option.name for option in command.params if option.param_type_name == "option"} - SHOWN
    assert [name for name in sorted(asked) if not known.intersection(NAMES.get(name, (name,)))] == []


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = f"import sys, json, vitedge; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    assert told(script) == []


@pytest.mark.parametrize("statement", ["import vitedge.program.capture", "from vitedge import export"])
def test_export_is_a_verb_whatever_was_imported_before(statement: str) -> None:
    """The verb shares its name with a package of ours."""
    script = (
        f"import json, vitedge\n{statement}\n"
        "from vitedge import export\n"
        "from vitedge.errors import UnreadableCheckpoint\n"
        "import vitedge.program.program\n"
        "found = [callable(vitedge.export), callable(export), vitedge.program.program.Program.__name__]\n"
        "for verb in (vitedge.export, export):\n"
        "    try: verb('nowhere.pth', 'out')\n"
        "    except UnreadableCheckpoint as error: found.append('nowhere.pth' in str(error))\n"
        "print(json.dumps(found))"
    )
    assert told(script) == [True, True, "Program", True, True]


def test_a_reference_is_loaded_and_run() -> None:
    reference = vitedge.load(str(VIT), image_size=(48, 48), overrides={"mean": (0.5,) * 3})
    assert reference.spec.image_size == (48, 48)
    assert reference.spec.preprocessing.mean == (0.5,) * 3
    outputs = reference.outputs(np.zeros((2, 3, 48, 48), np.uint8), features=False)
    assert outputs["logits"].shape == (2, 10)


def test_a_bundle_and_an_artifact_are_validated(demo_bundle: Path) -> None:
    assert vitedge.validate(demo_bundle).passed
    found = vitedge.validate(str(demo_bundle / "model.onnx"), against=str(VIT), layers=True)
    assert found.passed
    assert found.parity[0].layers
    found = vitedge.validate(demo_bundle / "model.onnx", against=ReferenceOptions(str(VIT), image_count=3), layers=True)
    assert found.parity[0].images == 3
    assert found.parity[0].layers
    with pytest.raises(BadRecipe, match="--against"):
        vitedge.validate(demo_bundle / "model.onnx")
    with pytest.raises(BadRecipe, match="say which one with against"):
        vitedge.validate(demo_bundle, layers=True)


def test_a_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    recipe, told = tmp_path / "recipe.toml", []
    recipe.write_text("image_count = 2\nopset = 17\n", encoding="utf-8")
    result = vitedge.export(VIT, tmp_path / "bundle", recipe, progress=told.append)
    assert result.manifest.artifacts[0].target == "opset 17"
    assert result.manifest.parity[0].images == 2
    assert "lowering …" in told
    recipe.write_text("image_cuont = 2\n", encoding="utf-8")
    with pytest.raises(BadRecipe, match="image_cuont"):
        vitedge.quantize(VIT, tmp_path / "program.pt2", str(recipe))


def test_latency_is_measured_by_a_rule(demo_bundle: Path) -> None:
    told: list[str] = []
    rule = Rule(warmup_s=0.02, warmup_limit_s=0.1, samples=10, seconds=0.2, rounds=5)
    found = vitedge.bench(demo_bundle / "model.onnx", threads=1, rule=rule, progress=told.append)
    assert [report.samples for report in found.reports] == [10]
    assert told[:2] == ["loading model.onnx …", "warming up model.onnx …"]


def test_accuracy_is_counted(demo_bundle: Path) -> None:
    found = vitedge.evaluate(demo_bundle / "model.onnx", IMAGES, against=str(VIT), image_count=20, max_drop=0.0)
    assert found.passed
    assert [row.top1.total for row in found.subjects] == [20, 20]
    asked = EvaluationRequest(str(IMAGES), image_count=30, seed=1, weights=Weights(image_size=(48, 48)))
    assert vitedge.evaluate([VIT], asked, image_count=10).images == 10
    assert vitedge.evaluate(str(VIT), asked).images == 30


def test_a_mistake_is_an_error_of_ours() -> None:
    for verb in (vitedge.inspect, vitedge.load, vitedge.validate):
        with pytest.raises(UserError, match="nowhere"):
            verb("nowhere.pth")
    with pytest.raises(UserError):
        vitedge.bench([])
