# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import resource

import pytest

from tests import cli_docs
from tests.vitedge.cli import process
from tests.vitedge.cli.command import Command, check_refusal
from vitedge.cli.main import COMMANDS

BUDGET_S = 0.4


def test_help_is_quick() -> None:
    # Processor time: the wall time of a machine that runs other tests beside this one says little.
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process.vitedge("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(times) < BUDGET_S


def test_help_lists_every_command_in_order() -> None:
    shown = process.vitedge().stdout
    assert "..." not in shown, "a description is cut at 80 columns"
    listed = re.findall(r"^  ([a-z]+)  ", shown[shown.index("Commands:") :], re.M)
    assert listed == list(COMMANDS)


def test_the_page_about_the_command_line_is_what_the_command_line_says() -> None:
    written = cli_docs.PAGE.read_text(encoding="utf-8")
    told = cli_docs.page()
    for pattern in (r"--[a-z-]+", r"^## .*$"):
        assert re.findall(pattern, written, re.M) == re.findall(pattern, told, re.M), "run make docs"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["frobnicate"], "No such command 'frobnicate'; see vitedge --help."),
        (["inspect"], "Missing argument 'CHECKPOINT'; see vitedge inspect --help."),
        (["inspect", "nowhere.pth"], "nowhere.pth"),
        (["kit"], "Missing command; see vitedge kit --help."),
        (["kit", "write", "nowhere", "out"], "nowhere is not a bundle"),
        (["validate", "nowhere", "--kit", "out"], "see vitedge kit write --help."),
        (["validate", "nowhere", "--import", "result.npz"], "see vitedge kit import --help."),
        (["bench", "nowhere.onnx"], "nowhere.onnx"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(arguments: list[str], sentence: str, vitedge: Command) -> None:
    check_refusal(vitedge(*arguments), sentence)
