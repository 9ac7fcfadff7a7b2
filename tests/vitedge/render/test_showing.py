# SPDX-License-Identifier: Apache-2.0
"""Tests of `showing`, `vitedge.records.showing`, `vitedge.verbs.records` and `vitedge.devices.health.records`.

Results of verbs where they are looked at, and where a path is taken.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import vitedge
from tests.bad_files import VIT
from tests.vitedge.render.samples import BAD
from vitedge import registry
from vitedge.accuracy.records import Evaluation
from vitedge.devices.health.records import Checkup
from vitedge.models.reference import Reference
from vitedge.pruning.records import PruningResult
from vitedge.quantization.records import QuantizationResult
from vitedge.records import BenchReport, Validation
from vitedge.records.showing import Shown
from vitedge.render import validate
from vitedge.verbs.records import Comparison, ExportResult, Inspection

RESULTS = (
    BenchReport,
    Checkup,
    Comparison,
    Evaluation,
    ExportResult,
    Inspection,
    PruningResult,
    QuantizationResult,
    Reference,
    Validation,
)
RESULT = Validation("x", (BAD,), (), 5, passed=False, notes=("seen",))


def test_every_result_shows_itself() -> None:
    assert {kind.__name__ for kind in RESULTS} == set(registry.RENDERERS)
    assert all(issubclass(kind, Shown) and kind.__repr__ is Shown.__repr__ for kind in RESULTS)


def test_what_wrote_a_file_stands_for_its_path() -> None:
    written = {kind: [name for name in ("bundle", "path") if name in kind.__dataclass_fields__] for kind in RESULTS}
    assert {kind for kind, names in written.items() if names} == {
        kind for kind in RESULTS if issubclass(kind, os.PathLike)
    }
    pruned = PruningResult("small.safetensors", 1, "x", None)  # type: ignore[arg-type]
    assert Path(pruned).suffix == ".safetensors"


def test_text_rich_and_html_hold_what_the_command_line_prints(capsys: pytest.CaptureFixture[str]) -> None:
    validate.render(RESULT, as_json=False)
    printed = capsys.readouterr().out.split()
    console = Console(file=io.StringIO(), width=200)
    with console.capture() as captured:
        console.print(RESULT)
    shown = {"text": repr(RESULT), "rich": captured.get(), "html": RESULT._repr_html_()}
    assert {"NOT", "valid", "note:", "seen", "FAILED"} <= set(printed)
    for way, text in shown.items():
        assert [word for word in printed if word not in text and word.isalnum()] == [], way
    assert capsys.readouterr().out == ""
    assert RESULT._repr_mimebundle_(include=None, exclude=None) == {
        "text/plain": repr(RESULT),
        "text/html": shown["html"],
    }


def test_html_holds_no_markup_of_a_name() -> None:
    assert "<b>" not in replace(RESULT, subject="<b>x</b>")._repr_html_()


def test_a_model_and_its_facts_show_themselves_without_a_command_to_type() -> None:
    found, reference = vitedge.inspect(VIT), vitedge.load(VIT)
    assert "custom ViT" in repr(found)
    assert "148,170 parameters" in repr(found)
    assert "next:" not in repr(found)
    assert "VisionTransformer" in repr(reference)


def test_records_import_no_rendering_before_they_are_looked_at() -> None:
    script = "import sys, vitedge.records as r; r.Validation('x', (), (), 0, True); print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
