# SPDX-License-Identifier: Apache-2.0
"""Runs of `lockstep`, on one core and on `cores`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.export import tiny
from tests.vitedge.quantization import small_models as small
from vitedge.program.cores import one_core_each
from vitedge.program.editor import aten
from vitedge.program.execution import Execution
from vitedge.program.lockstep import PART, Lockstep

COUNT = 2 * PART + 1


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["vit", "swin", "mobilevit"])
def test_it_computes_what_a_run_of_all_images_computes(name: str, threads: int) -> None:
    program = tiny.program(name, "dynamic")[1]
    images = tiny.images(COUNT)
    (expected,), (found,) = Execution(program.exported)(images), Lockstep(program.exported)(images)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_a_watch_sees_the_parts_of_all_images_and_may_replace_them(threads: int) -> None:
    program = small.captured(small.Mixture)
    (head,) = (node for node in program.exported.graph.nodes if node.target is aten.mean.dim)
    images, seen = tiny.images(COUNT), []

    def less_their_mean(parts: list[Tensor]) -> list[Tensor]:
        seen.extend(len(part) for part in parts)
        mean = torch.cat(parts).mean(0)
        return [part - mean for part in parts]

    (found,) = Lockstep(program.exported, {head.name: less_their_mean})(images)
    assert seen == [PART, PART, 1]
    (expected,) = Execution(program.exported, {head.name: lambda value: value - value.mean(0)})(images)
    torch.testing.assert_close(found, expected)


def test_results_come_in_order_and_errors_come_through(threads: int) -> None:
    with one_core_each() as over:
        assert over(lambda number: number**2, range(20)) == [number**2 for number in range(20)]
        assert over(lambda _number: torch.is_grad_enabled(), range(3)) == [False] * 3
        with pytest.raises(ZeroDivisionError):
            over(lambda number: 1 // number, range(3))
