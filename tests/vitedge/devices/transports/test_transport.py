# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.vitedge.devices.shell_transport import Transport
from vitedge.devices.transports.transport import MARK, Completed, after_mark, announced, quoted

WORDS = ("a b", "it's", 'a "quote"', "$(touch hurt)", "`touch hurt`", "a\nb", "*", "~", "-n", ";", "&", "\\", "!!", "")


def test_words_stay_what_they_are() -> None:
    done = subprocess.run(["sh", "-c", f"printf '%s|' {quoted(WORDS)}"], capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"{word}|" for word in WORDS)


@pytest.mark.parametrize("noise", [":", "echo Welcome; echo", "printf 'no end of line: '"])
def test_what_a_script_prints_is_told_from_what_came_before(noise: str, tmp_path: Path) -> None:
    done = Transport(tmp_path, noise=noise).run(announced("echo own; exit 3"))
    assert (done.code, after_mark(done.out)) == (3, "own\n")


def test_without_a_mark_all_is_told() -> None:
    assert after_mark("sh: not found\n") == "sh: not found\n"
    assert after_mark(f"{MARK}\n") == ""


def test_last_words_are_those_of_the_error_output() -> None:
    assert Completed(1, "out\n", "one\ntwo\n\n").last_words == "two"
    assert Completed(1, "out\n", " \n").last_words == "out"
    assert Completed(1, "", "").last_words == "it said nothing"
