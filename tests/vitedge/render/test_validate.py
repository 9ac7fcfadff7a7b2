# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from tests.vitedge.render.samples import BAD
from vitedge.records import Validation
from vitedge.render.validate import render


def test_json_holds_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    render(Validation("x", (BAD,), (), 5, passed=False), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["parity"][0]["outputs"][0]["relative_error"] == "inf"
    assert found["parity"][0]["first_departure"] == "layers.2.blocks.17"
    assert found["passed"] is False
