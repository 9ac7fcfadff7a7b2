# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.vitedge.mlprogram.mil import program
from vitedge.errors import UnreadableArtifact
from vitedge.export.coreml.quiet import load_coremltools
from vitedge.mlprogram.interpreter import MLProgramInterpreter
from vitedge.mlprogram.ops.classification import classify

PROBABILITIES = np.array([[0.1, 0.6, 0.3]], np.float32)
EXPECTED = [np.float32(value).item() for value in (0.1, 0.6, 0.3)]


@pytest.mark.parametrize("labels", [("cat", "dog", "Größe, 2 m"), (7, -1, 2**40)])
def test_the_label_and_the_table(labels: tuple[str | int, ...]) -> None:
    def build(mb, x):
        return mb.identity(x=x)

    classifier = load_coremltools().ClassifierConfig(list(labels))
    read = program(build, {"x": PROBABILITIES}, classifier_config=classifier)
    found = MLProgramInterpreter(read).run({"x": torch.from_numpy(PROBABILITIES)})
    label, table = (found[name] for name in read.outputs)
    assert label == labels[1]
    assert type(label) is type(labels[1])
    assert table == dict(zip(labels, EXPECTED, strict=True))


def test_the_first_of_equal_probabilities() -> None:
    label, table = classify(torch.tensor([0.25, 0.5, 0.5]), ("a", "b", "c"))
    assert (label, table) == ("b", {"a": 0.25, "b": 0.5, "c": 0.5})


@pytest.mark.parametrize("classes", [(), ("a", "b")])
def test_as_many_classes_as_probabilities(classes: tuple[str, ...]) -> None:
    with pytest.raises(UnreadableArtifact, match=f"There are {len(classes)} classes for 3 probabilities"):
        classify(torch.zeros(3), classes)
