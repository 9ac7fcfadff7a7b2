# SPDX-License-Identifier: Apache-2.0
"""The package `vitedge` as a Python user meets it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
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
    "compare": (ExportRecipe, QuantizationRecipe, Tolerance),
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


VERBS = [name for name in vitedge.__all__ if name.islower()]
COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
NO_FUNCTIONS = {"kit", "profiles", "cache", "demo"}
"""Commands of which Python code calls the parts: those of `vitedge.verbs.kit`, `vitedge.devices.profiles` and
`vitedge.verbs.cache`."""


def test_every_command_is_a_function_and_every_function_explains_itself() -> None:
    assert set(VERBS) == set(COMMANDS) - NO_FUNCTIONS | {"load"}
    for name in VERBS:
        verb = getattr(vitedge, name)
        told = inspect.getdoc(verb) or ""
        assert inspect.isfunction(verb)
        assert [part for part in ("Args:", "Returns:", "Raises:", "Example:") if part not in told] == []
        assert [one for one in inspect.signature(verb).parameters if f"    {one}: " not in told] == []


def test_all_public_names_are_found_and_no_others() -> None:
    assert sorted(vitedge.__all__) == vitedge.__all__
    assert [name for name in vitedge.__all__ if getattr(vitedge, name).__name__ != name] == []
    assert set(vitedge.__all__) <= set(dir(vitedge))
    with pytest.raises(AttributeError, match="'exprot'"):
        vitedge.exprot  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("verb", [name for name in VERBS if name != "load"])
def test_a_verb_has_every_option_of_its_command(verb: str) -> None:
    command = COMMANDS[verb]
    known = set(inspect.signature(getattr(vitedge, verb)).parameters)
    known |= {entry.name for record in RECORDS.get(verb, ()) for entry in dataclasses.fields(record)}
    asked = {option.name for option in command.params if option.param_type_name == "option"} - SHOWN
    assert [name for name in sorted(asked) if not known.intersection(NAMES.get(name, (name,)))] == []


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = f"import sys, json, vitedge; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    assert told(script) == []


def test_importing_the_package_takes_no_time_worth_telling() -> None:
    script = (
        "import json, time; start = time.process_time(); import vitedge; "
        "print(json.dumps([time.process_time() - start]))"
    )
    assert float(min(told(script)[0] for _ in range(3))) < 0.05


@pytest.mark.parametrize("verb", ["validate", "bench", "doctor", "ExportRecipe"])
def test_verbs_on_artifacts_do_without_pytorch(verb: str) -> None:
    script = f"import json, sys, vitedge; vitedge.{verb}; print(json.dumps(['torch' in sys.modules]))"
    assert told(script) == [False]


@pytest.mark.parametrize("statement", ["import vitedge.export.formats", "from vitedge import export"])
def test_export_is_a_verb_whatever_was_imported_before(statement: str) -> None:
    """The verb shares its name with a package of ours, whose modules are found all the same."""
    script = (
        f"import inspect, json, pydoc, vitedge\n{statement}\n"
        "import vitedge.export.to_onnx\n"
        "import vitedge.export.onnx.artifact as artifact\n"
        "from vitedge.export import formats\n"
        "found = [list(inspect.signature(vitedge.export).parameters)[:2], vitedge.export.__name__]\n"
        "found.append('Exports a model' in pydoc.render_doc(vitedge.export))\n"
        "found += [vitedge.export.to_onnx.__name__, artifact.__name__, formats is vitedge.export.formats]\n"
        "try: vitedge.export('nowhere.pth', 'out')\n"
        "except vitedge.UserError as error: found.append('nowhere.pth' in str(error))\n"
        "print(json.dumps(found))"
    )
    modules = ["vitedge.export.to_onnx", "vitedge.export.onnx.artifact", True]
    assert told(script) == [["source", "bundle"], "export", True, *modules, True]


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
    assert vitedge.evaluate(str(VIT), asked).images == 30
    assert vitedge.evaluate([VIT], asked, image_count=30, max_drop=None).images == 30
    with pytest.raises(BadRecipe, match="image_count is 30 in one place and 10 in another"):
        vitedge.evaluate([VIT], asked, image_count=10)


def test_a_mistake_is_an_error_of_ours() -> None:
    for verb in (vitedge.inspect, vitedge.load, vitedge.validate):
        with pytest.raises(UserError, match="nowhere"):
            verb("nowhere.pth")
    with pytest.raises(UserError):
        vitedge.bench([])
