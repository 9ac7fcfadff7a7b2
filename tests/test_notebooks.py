# SPDX-License-Identifier: Apache-2.0
"""Tests of `notebooks`: the cells of docs/python.ipynb run as a reader would run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import vitedge
from tests import notebooks

ROOT = Path(__file__).parent.parent


def test_a_cell_keeps_what_it_printed_and_what_its_last_line_is(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["a"]},
        {"cell_type": "code", "source": ["x = 2\n", "print(x)\n", "x * x"]},
    ]
    place = tmp_path / "one.ipynb"
    place.write_text(json.dumps({"cells": cells, "nbformat": 4}), encoding="utf-8")
    notebooks.write(place)
    (cell,) = notebooks.cells(place)
    stream, value = cell["outputs"]
    assert (stream["text"], value["data"], cell["execution_count"]) == (["2\n"], {"text/plain": ["4"]}, 1)


def test_the_notebooks_hold_the_outputs_of_their_cells() -> None:
    assert [path.name for path in notebooks.NOTEBOOKS] == ["python.ipynb"]
    for path in notebooks.NOTEBOOKS:
        found = notebooks.cells(path)
        assert [cell["execution_count"] for cell in found] == list(range(1, len(found) + 1))
        assert all(cell["outputs"] for cell in found)


@pytest.mark.slow
def test_the_notebook_runs_and_its_records_show_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (notebook,) = notebooks.NOTEBOOKS
    outputs = notebooks.executed(notebook)
    shown = ["".join(cell[-1]["data"].get("text/html", "")) for cell in outputs]
    assert ["<pre" in html for html in shown] == [False, True, True, True, True, True]
    assert "passed" in shown[2]
    assert vitedge.validate("digits").passed
