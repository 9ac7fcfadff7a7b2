# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.export import tiny
from vitedge.program.capture import capture
from vitedge.program.modules import enclosing_modules
from vitedge.records import TensorSpec


class Wrapper(nn.Module):
    """Normalizes bytes, then runs the reference."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model((image.float() / 255 - self.mean) / 0.25)


@pytest.mark.parametrize("name", tiny.NAMES)
def test_a_program_computes_what_the_module_computes_at_every_batch_size(name: str) -> None:
    module, program = tiny.program(name, "dynamic")
    for size in (1, 2, 5):
        images = tiny.images(size)
        with torch.no_grad():
            torch.testing.assert_close(program.exported.module()(images), module(images), rtol=1e-4, atol=1e-5)


def test_a_program_says_what_goes_in_and_out() -> None:
    fixed, dynamic = tiny.program("vit", 3)[1], tiny.program("vit", "dynamic")[1]
    assert fixed.inputs == (TensorSpec("image", (3, 3, 32, 32), "float32"),)
    assert fixed.outputs == (TensorSpec("logits", (3, 7), "float32"),)
    assert dynamic.inputs[0].shape[0] == dynamic.outputs[0].shape[0] == "batch"


def test_the_wrapper_leaves_no_trace_in_the_names() -> None:
    model = tiny.model("vit")
    program = capture(Wrapper(model), tiny.spec("vit"), tiny.BLOCKS["vit"], dtype="uint8")
    assert set(program.exported.state_dict) == set(model.state_dict())
    assert program.inputs[0].dtype == "uint8"
    paths = {path for node in program.exported.graph.nodes for path in enclosing_modules(node)}
    assert "blocks.0.attn.qkv" in paths
    assert not any("model" in path for path in paths)


def test_weights_are_shared_with_the_module() -> None:
    module, program = tiny.program("vit")
    assert program.exported.state_dict["head.weight"].data_ptr() == module.head.weight.data_ptr()


def test_features_are_two_outputs() -> None:
    class Features(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            tokens = self.model.forward_features(image)
            return tokens, tokens[:, 0]

    program = capture(Features(tiny.model("vit")), tiny.spec("vit"), tiny.BLOCKS["vit"], features=True)
    assert [output.name for output in program.outputs] == ["tokens", "pooled"]
    assert program.outputs[0].shape == (1, 17, 48)


def test_blocks_that_no_part_has_are_a_bug() -> None:
    with pytest.raises(ValueError, match="has all of the blocks"):
        capture(tiny.model("vit"), tiny.spec("vit"), ("layers.0",))
