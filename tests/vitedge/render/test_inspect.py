# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from tests.vitedge.render.samples import INSPECTION, SPEC
from vitedge.render.inspect import render


def test_the_next_command_says_again_what_was_said_about_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    render(INSPECTION, options=["--weights", "model", "--set", "mean=0.5,0.5,0.5"], as_json=False)
    *_, said, following = capsys.readouterr().out.splitlines()
    assert said.startswith("guessed: heads")
    assert following.startswith("next: vitedge export /a/very/long")
    assert following.endswith(
        " --weights model --set mean=0.5,0.5,0.5 --set heads=6,12,24,48 -o BUNDLE --format onnx --format coreml"
    )


@pytest.mark.parametrize(
    ("labels", "shown"), [(("cat",), "cat"), (("cat", "dog"), "cat, dog"), (("cat", "dog", "eel"), "cat, dog, … (3)")]
)
def test_labels_are_shown_however_few(labels: tuple[str, ...], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    render(replace(INSPECTION, spec=replace(SPEC, labels=labels)), as_json=False)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(" labels "))
    assert row.split(maxsplit=1)[1].strip() == shown
