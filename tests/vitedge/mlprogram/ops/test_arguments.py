# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.limits import LARGEST_VALUE
from vitedge.mlprogram.ops.arguments import ALIASES, STORAGE, allow, dtype_of, flag, integer, ints, number


def test_scalars_and_vectors_become_pythons() -> None:
    assert ints(None) == ()
    assert ints(torch.tensor(3)) == (3,)
    assert ints(torch.tensor([1, 2])) == (1, 2)
    found = (integer(torch.tensor(3)), number(torch.tensor(0.5)), flag(torch.tensor(True)))
    assert found == (3, 0.5, True)
    assert [type(value) for value in found] == [int, float, bool]


def test_what_pytorch_computes_little_in_is_held_in_the_next_wider_type() -> None:
    for name, kind in STORAGE.items():
        if name.removeprefix("u").startswith("int"):
            largest = 2 ** (int(name.partition("int")[2]) - (not name.startswith("u"))) - 1
            assert torch.iinfo(kind).max >= largest or name == "uint64", name


def test_further_names_of_types_are_known_and_others_refused() -> None:
    assert {name: dtype_of(name) for name in ALIASES} == {
        "fp16": torch.float16,
        "fp32": torch.float32,
        "fp64": torch.float64,
        "double": torch.float64,
    }
    with pytest.raises(UnreadableArtifact, match="no element type 'int128'"):
        dtype_of("int128")


def test_a_shape_that_takes_all_memory_is_refused() -> None:
    assert allow([2, 3]) == (2, 3)
    assert allow([LARGEST_VALUE]) == (LARGEST_VALUE,)
    for shape in ([LARGEST_VALUE, 2], [-1, 2], [-1, -2]):
        with pytest.raises(UnreadableArtifact, match="which no model has"):
            allow(shape)
