# SPDX-License-Identifier: Apache-2.0
"""The examples in the verbs' docstrings, which docs/api.md shows, are run as a user would type them."""

from __future__ import annotations

import doctest
import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitedge
from tests.bad_files import VIT
from vitedge.demo import assets

PER_CLASS = 6


@pytest.fixture
def folder(demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a folder with the files of the examples: ``mystery.pth``, its ``bundle``, ``photos`` in class folders."""
    shutil.copy(VIT, tmp_path / "mystery.pth")
    shutil.copytree(demo_bundle, tmp_path / "bundle")
    images, labels = assets.images()
    for label in np.unique(labels):
        place = tmp_path / "photos" / str(label)
        place.mkdir(parents=True)
        for index in np.flatnonzero(labels == label)[:PER_CLASS]:
            Image.fromarray(images[index]).save(place / f"{index:03}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("verb", [name for name in vitedge.__all__ if name.islower()])
def test_the_example_of_a_verb_runs(verb: str, folder: Path) -> None:
    function = getattr(vitedge, verb)
    text, place = inspect.getdoc(function) or "", inspect.getfile(function)
    test = doctest.DocTestParser().get_doctest(text, {"vitedge": vitedge}, verb, place, 0)
    assert f"vitedge.{verb}(" in "".join(example.source for example in test.examples)
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)
