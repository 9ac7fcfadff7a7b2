# SPDX-License-Identifier: Apache-2.0
"""What every failure says, and options that every command has (`vitedge.cli.everywhere`, `vitedge.render.log`)."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path

import pytest

from tests.vitedge.cli.command import Command, check_refusal
from vitedge.cli.main import main
from vitedge.errors import CheckFailed, DeviceFailed, MissingBackend
from vitedge.progress import note, stage
from vitedge.registry import environment
from vitedge.stopping import keep

FAILURES = {
    "usage": (["inspect", "--json"], 2, "UsageError", "Missing argument 'CHECKPOINT'; see vitedge inspect --help."),
    "input": (["inspect", "nowhere.pth", "--json"], 2, "UnreadableCheckpoint", "There is no nowhere.pth"),
    "a command": (["frobnicate", "--json"], 2, "UsageError", "No such command 'frobnicate'"),
    "both": (["-q", "profiles", "-v", "--json"], 2, "UsageError", "--quiet and --verbose exclude each other"),
    "-q before": (["quantize", "a", "-q", "ranges=mse", "--json"], 2, "BadRecipe", "with -Q ranges=mse"),
    "-q joined": (["export", "a", "-qranges=mse", "--json"], 2, "BadRecipe", "with -Q ranges=mse"),
    "a log": (["profiles", "--log", "no/such/folder/log", "--json"], 2, "OutputRefused", "no/such/folder/log"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_json_of_a_mistake_is_one_document_on_stdout(case: str, vitedge: Command) -> None:
    arguments, code, kind, words = FAILURES[case]
    found = vitedge(*arguments)
    document = json.loads(found.out)
    assert (found.code, document["exit_code"], document["kind"]) == (code, code, kind)
    assert words in document["error"]
    assert found.err == f"vitedge: {document['error']}\n"


@pytest.mark.parametrize("error", [MissingBackend("a"), CheckFailed("b"), DeviceFailed("c")])
def test_json_of_a_failure_has_its_exit_code(
    error: CheckFailed, vitedge: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("vitedge.render.profiles.render", fail)
    found = vitedge("profiles", "--json")
    assert json.loads(found.out) == {"error": str(error), "kind": type(error).__name__, "exit_code": error.exit_code}
    check_refusal(vitedge("profiles"), str(error), code=error.exit_code)


def test_a_bug_is_a_document_a_traceback_and_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("vitedge.render.profiles.render", fail)
    monkeypatch.setattr("sys.argv", ["vitedge", "--log", str(tmp_path / "log"), "profiles", "--json"])
    with pytest.raises(KeyError):
        main()
    assert json.loads(capsys.readouterr().out) == {"error": "KeyError: 'lost'", "kind": "KeyError", "exit_code": 1}
    logged = (tmp_path / "log").read_text(encoding="utf-8")
    assert "a bug of vitedge: KeyError: 'lost'\nTraceback (most recent call last):" in logged
    assert f"python {environment()['python']}" in logged.splitlines()[0]
    assert not logging.getLogger().handlers or all(
        not isinstance(handler, logging.FileHandler) or handler.baseFilename != str(tmp_path / "log")
        for handler in logging.getLogger().handlers
    )


def test_ctrl_c_says_what_is_kept(vitedge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        keep("calibration", "the calibration of 8 of 24 images; the same command goes on from there.")
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("vitedge.render.profiles.render", stop)
    found = vitedge("profiles", "--json")
    assert found.code == 130
    document = json.loads(found.out)
    assert (document["kind"], document["exit_code"]) == ("Stopped", 130)
    assert document["error"] == (
        "Stopped by SIGINT before it was done; what was there before is whole. Kept: the calibration of 8 of 24 "
        "images; the same command goes on from there."
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["profiles"], ["working …", "note: said"]),
        (["-q", "profiles"], []),
        (["profiles", "--quiet"], []),
        (["profiles", "-v"], ["working …", "note: said", "a detail", "working: 0.0 s"]),
    ],
)
def test_how_much_is_said(
    arguments: list[str], told: list[str], vitedge: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def work(*_: object, **__: object) -> None:
        with stage("working"):
            note("said")
            note("said")
            logging.getLogger("vitedge.somewhere").info("a detail")

    monkeypatch.setattr("vitedge.render.profiles.render", work)
    found = vitedge(*arguments, "--log", tmp_path / "log")
    assert (found.code, found.out, found.err.splitlines()) == (0, "", told)
    logged = (tmp_path / "log").read_text(encoding="utf-8")
    assert [logged.count(words) for words in ("working ended after 0.0 s", "note: said", "a detail")] == [1, 1, 1]


def test_versions_are_told_without_importing_what_they_are_of(vitedge: Command) -> None:
    found = vitedge("--version")
    assert found.code == 0
    assert found.out.splitlines() == [f"{name} {version}" for name, version in environment().items()]
