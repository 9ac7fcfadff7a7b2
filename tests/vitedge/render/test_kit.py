# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from tests.vitedge.render.samples import BAD, ON_A_MAC
from vitedge import registry
from vitedge.records import ParityReport, Validation
from vitedge.render.kit import render_imported, render_written
from vitedge.verbs.records import WrittenKit

KIT = WrittenKit("a bundle", "a kit", 1_234_567)


@pytest.mark.parametrize(
    ("system", "following"),
    [("Linux", "vitedge validate 'a bundle'"), ("Darwin", "python 'a kit'/runner.pyz")],
)
def test_what_to_type_next_works_on_this_machine(
    system: str, following: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.platform, "system", lambda: system)
    render_written(KIT, as_json=False)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "a kit: 1.2 MB; every file of a bundle is as its manifest describes it"
    assert shown[-1] == f"next: {following}"
    assert ("and type: vitedge kit import 'a bundle' result.npz" in shown[1]) == (system == "Linux")
    assert ("copy it to a Mac" in shown[1]) == (system == "Linux")


@pytest.mark.parametrize(
    ("report", "said", "following"),
    [
        (ON_A_MAC, "passed, and their report is sealed", "vitedge validate 'a bundle'"),
        (BAD, "did NOT pass, and their report is sealed", "vitedge validate 'a bundle' --overflow"),
    ],
)
def test_an_import_ends_with_path_size_check_and_next_command(
    report: ParityReport, said: str, following: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Validation("a bundle", (report,), (), 5, passed=report is ON_A_MAC, size=2_000_000)
    render_imported(result, as_json=False)
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2].startswith("a bundle: 2.0 MB, 5 files as the manifest describes them; the outputs of the Mac")
    assert said in shown[-2]
    assert shown[-1] == f"next: {following}"


def test_json_is_the_record(capsys: pytest.CaptureFixture[str]) -> None:
    render_written(KIT, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"bundle": "a bundle", "kit": "a kit", "size": 1_234_567}
    render_imported(Validation("a bundle", (ON_A_MAC,), (), 5, passed=True, size=7), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["size"], found["parity"][0]["machine"]["model"]) == (7, "MacBookPro18,3")
