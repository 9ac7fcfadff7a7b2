# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.export import tiny
from vitedge.program.canonical import canonicalize
from vitedge.program.capture import capture
from vitedge.program.editor import Editor, aten
from vitedge.program.tracing import Tracer, is_factor, is_zero_padding, moved_from, readers, source_of


class Moved(nn.Module):
    """A normalization, a movement, and a rectification that reads what was moved."""

    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.move = nn.LayerNorm(32), move

    def forward(self, image: Tensor) -> Tensor:
        return self.move(self.norm(image.mean(1))).relu()


def traced(
    move: Callable[[Tensor], Tensor], batch: int | str = "dynamic"
) -> tuple[Tracer, torch.fx.Node, torch.fx.Node]:
    """A tracer, the normalization of (batch, 32, 32), and what the rectification reads."""
    program = canonicalize(capture(Moved(move).eval(), tiny.spec("vit"), ("norm",), batch=batch))
    editor = Editor(program.exported)
    start = next(node for node in editor.calls() if node.target is aten.layer_norm.default)
    end = next(node for node in editor.calls() if node.target is aten.relu.default)
    return Tracer(editor), start, end.args[0]  # type: ignore[return-value]


ARRANGED: dict[str, tuple[Callable[[Tensor], Tensor], int, list[int]]] = {
    "nothing": (lambda x: x, -1, list(range(32))),
    "channels first": (lambda x: x.transpose(1, 2).reshape(-1, 32, 8, 4), 1, list(range(32))),
    "rolled": (lambda x: x.roll(3, 2), -1, [*range(29, 32), *range(29)]),
    "flipped": (lambda x: x.flip(2), -1, list(range(31, -1, -1))),
    "a part": (lambda x: x[:, ::2, 4:9], -1, list(range(4, 9))),
    "heads exchanged": (lambda x: x.reshape(-1, 32, 2, 16).permute(0, 1, 3, 2).flatten(2), -1, [
        channel // 2 + 16 * (channel % 2) for channel in range(32)
    ]),
    "scaled": (lambda x: x * 0.25, -1, list(range(32))),
    "padded": (lambda x: functional.pad(x, (0, 0, 1, 2)), -1, list(range(32))),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRANGED)
def test_channels_are_followed_through_movement(name: str) -> None:
    move, axis, expected = ARRANGED[name]
    tracer, start, end = traced(move)
    found = tracer.channels(start, end, (-1,), axis)
    assert found is not None
    assert found.tolist() == expected


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x.reshape(-1, 64, 16),  # half a token a row
        lambda x: x.transpose(1, 2),  # tokens where channels were
        lambda x: functional.pad(x, (1, 0)),  # a channel of zeros alone
    ],
)
def test_channels_that_mix_are_not_followed(mix: Callable[[Tensor], Tensor]) -> None:
    tracer, start, end = traced(mix)
    assert tracer.channels(start, end, (-1,), -1) is None


def test_rows_that_were_joined_have_each_their_channel() -> None:
    tracer, start, end = traced(lambda x: x.reshape(-1, 16, 64))
    found = tracer.channels(start, end, (-1,), -1)
    assert found is not None
    assert found.tolist() == [*range(32), *range(32)]


@pytest.mark.parametrize("batch", ["dynamic", 2])
def test_shifted_windows_of_any_batch_keep_the_channels(batch: int | str) -> None:
    def shifted(x: Tensor) -> Tensor:
        rolled = x.reshape(-1, 4, 8, 32).roll((-1, -1), (1, 2))
        return rolled.reshape(-1, 2, 2, 2, 4, 32).permute(0, 1, 3, 2, 4, 5).reshape(-1, 8, 32)

    tracer, start, end = traced(shifted, batch)
    found = tracer.channels(start, end, (-1,), -1)
    assert found is not None
    assert found.tolist() == list(range(32))


def test_numbers_run_over_several_axes_the_last_fastest_and_padding_has_none() -> None:
    tracer, start, end = traced(lambda x: functional.pad(x, (0, 0, 0, 1)).transpose(1, 2))
    moved = tracer.move(start, end, (-2, -1))
    assert moved.shape == (1, 32, 33)
    assert moved[0, 3, 5] == 5 * 32 + 3
    assert (moved[..., -1] == -1).all()


def test_what_is_movement_and_what_computes() -> None:
    _, start, end = traced(lambda x: functional.pad(x.transpose(1, 2), (0, 1)))
    chain = moved_from(end)
    assert [node.target for node in chain[:-1]] == [aten.pad.default, aten.transpose.int]
    assert is_zero_padding(chain[0])
    assert source_of(end) is chain[-1] is start
    assert [reader.target for reader, _ in readers(start) or []] == [aten.relu.default]
    for other in (lambda x: functional.pad(x, (0, 1), value=1.0), lambda x: x + 1, lambda x: x * x):
        _, start, end = traced(other)
        assert source_of(end) is end
        assert not is_factor(end)
    _, start, end = traced(lambda x: x / 4)
    assert is_factor(end)


def test_an_output_of_the_program_is_no_known_reader() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(32)

        def forward(self, image: Tensor) -> Tensor:
            return self.norm(image.mean(1)).transpose(1, 2)

    program = capture(Both().eval(), tiny.spec("vit"), ("norm",))
    (norm,) = (node for node in Editor(program.exported).calls() if node.target is aten.layer_norm.default)
    assert readers(norm) is None
