# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vitedge
from tests.bad_files import VIT
from tests.test_layout import HEAVY
from vitedge.demo.assets import IMAGES
from vitedge.errors import BadRecipe, UserError


def told(script: str) -> list[str]:
    """What a fresh Python prints: in this one everything is imported already."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines: list[str] = json.loads(done.stdout.splitlines()[-1])
    return lines


def test_the_verbs_are_the_ones_that_are_promised() -> None:
    assert vitedge.__all__ == ["bench", "evaluate", "export", "inspect", "load", "quantize", "validate"]
    for name in vitedge.__all__:
        verb = getattr(vitedge, name)
        assert callable(verb)
        assert inspect.getdoc(vitedge._VERBS.get(name, verb))


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
    with pytest.raises(BadRecipe, match="--against"):
        vitedge.validate(demo_bundle / "model.onnx")


def test_accuracy_is_counted(demo_bundle: Path) -> None:
    found = vitedge.evaluate(demo_bundle / "model.onnx", IMAGES, against=str(VIT), image_count=20, max_drop=0.0)
    assert found.passed
    assert [row.top1.total for row in found.subjects] == [20, 20]


def test_a_mistake_is_an_error_of_ours() -> None:
    for verb in (vitedge.inspect, vitedge.load, vitedge.validate):
        with pytest.raises(UserError, match="nowhere"):
            verb("nowhere.pth")
    with pytest.raises(UserError):
        vitedge.bench([])
