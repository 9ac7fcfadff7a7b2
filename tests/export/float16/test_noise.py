# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.export import tiny
from vitedge.export.float16.noise import IMAGES, find_noisy, predict_noise
from vitedge.export.float16.ranges import find_overflowing
from vitedge.export.to_onnx import lower
from vitedge.parity.artifact import Floats
from vitedge.parity.metrics import compare
from vitedge.program.capture import capture
from vitedge.program.modules import execution_order
from vitedge.program.program import Program
from vitedge.recipe import ResolvedRecipe

BAR_DB = 40.0
ALL = tiny.images(16)
FEW = ALL[:IMAGES]

HALF = ResolvedRecipe(precision="fp16", form="tensorrt")
"""The form in which every operator is half: files for processors keep normalization, softmax and GELU in float32."""


def outputs(module: nn.Module) -> Floats:
    with torch.no_grad():
        return {"logits": module(ALL).numpy()}


def measured_db(module: nn.Module, program: Program, float32_modules: tuple[str, ...], folder: Path) -> float:
    """Returns the SQNR that parity finds in the fp16 file, which has no operator in float32 that nobody asked for."""
    lower(program, HALF, folder / "model.onnx", float32_modules)
    session = tiny.session(folder / "model.onnx")
    found = np.concatenate([session.run(None, {"image": image.numpy()})[0] for image in ALL.split(1)])
    return compare(outputs(module), {"logits": found})[0].centred_sqnr_db


def barely_dependent(name: str) -> tuple[nn.Module, Program]:
    """A model whose logits are large constants and a small part that the image decides."""
    module = tiny.model(name)
    with torch.no_grad():
        module.get_classifier().bias.add_(100)
    return module, capture(module, tiny.spec(name), tiny.BLOCKS[name])


@pytest.mark.parametrize("name", ["vit", "deit", "swin", "beit", "mobilevit", "mobilevitv2"])
def test_the_prediction_is_near_what_is_measured(name: str, tmp_path: Path) -> None:
    module, program = tiny.program(name)
    (noise,) = predict_noise(program, FEW, [outputs(module)["logits"]])
    assert noise.sqnr_db() == pytest.approx(measured_db(module, program, (), tmp_path), abs=3)


@pytest.mark.parametrize("name", ["vit", "mobilevit"])
def test_modules_in_float32_mend_a_model_whose_logits_barely_depend_on_the_image(name: str, tmp_path: Path) -> None:
    module, program = barely_dependent(name)
    reference = [outputs(module)["logits"]]
    assert find_overflowing(program, FEW) == ()
    assert measured_db(module, program, (), tmp_path) < BAR_DB
    noisy = find_noisy(program, FEW, reference, BAR_DB)
    assert 0 < len(noisy) < len(execution_order(program)) / 2
    assert noisy == tuple(module for module in execution_order(program) if module in noisy)
    assert measured_db(module, program, noisy, tmp_path) >= BAR_DB


def test_a_model_that_holds_the_bar_keeps_nothing_in_float32() -> None:
    module, program = tiny.program("vit")
    assert find_noisy(program, FEW, [outputs(module)["logits"]], BAR_DB) == ()


def test_no_module_is_there_in_vain() -> None:
    module, program = tiny.program("swin")
    reference = [outputs(module)["logits"]]
    (noise,) = predict_noise(program, FEW, reference)
    tolerance = noise.sqnr_db() + 3
    noisy = find_noisy(program, FEW, reference, tolerance, margin_db=0)
    assert noise.sqnr_db(noisy) >= tolerance
    assert all(noise.sqnr_db(set(noisy) - {one}) < tolerance for one in noisy)


def test_what_is_in_float32_already_is_taken_into_account() -> None:
    module, program = tiny.program("swin")
    reference = [outputs(module)["logits"]]
    tolerance = predict_noise(program, FEW, reference)[0].sqnr_db() + 3
    noisy = find_noisy(program, FEW, reference, tolerance)
    assert find_noisy(program, FEW, reference, tolerance, already=noisy) == ()
    assert set(find_noisy(program, FEW, reference, tolerance, already=noisy[:2])).isdisjoint(noisy[:2])


def test_a_batch_normalization_goes_with_its_convolution() -> None:
    module, program = tiny.program("mobilevit")
    noisy = find_noisy(program, FEW, [outputs(module)["logits"]], 60.0)
    assert "stem.conv" in noisy
    assert {name for name in noisy if name.endswith(".bn")} == {
        name.removesuffix("conv") + "bn" for name in noisy if name.endswith(".conv")
    }


def test_a_value_that_is_only_passed_on_is_rounded_once() -> None:
    class Passing(nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.block = nn.Conv2d(3, 7, 3)
            self.times = times

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            value = self.block(image)
            for _ in range(self.times):
                value = value.flatten(2).transpose(1, 2).transpose(1, 2).reshape(value.shape)
            return value.mean((2, 3))

    noises = []
    for times in (0, 5):
        torch.manual_seed(0)
        module = Passing(times).eval()
        program = capture(module, tiny.spec("vit"), ("block",))
        noises.append(predict_noise(program, FEW, [outputs(module)["logits"]])[0].left(()))
    assert noises[0] == pytest.approx(noises[1], rel=1e-5)


@pytest.mark.parametrize("batch", [3, "dynamic"])
def test_the_batch_does_not_change_the_prediction_much(batch: int | str) -> None:
    module, single = tiny.program("vit")
    reference = [outputs(module)["logits"]]
    batched = tiny.program("vit", batch)[1]
    found = predict_noise(batched, FEW.numpy(), reference)[0].sqnr_db()
    assert found == pytest.approx(predict_noise(single, FEW, reference)[0].sqnr_db(), abs=2)


def test_an_image_of_bytes_is_normalized_without_rounding() -> None:
    class Normalizing(nn.Module):
        def __init__(self, reference: nn.Module) -> None:
            super().__init__()
            self.reference = reference
            self.register_buffer("mean", torch.full((3, 1, 1), 128.3))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.reference((image.float() - self.mean) / 63.7)

    module = Normalizing(tiny.model("vit")).eval()
    program = capture(module, tiny.spec("vit"), tiny.BLOCKS["vit"], dtype="uint8")
    images = (ALL * 40 + 128).clamp(0, 255).to(torch.uint8)
    with torch.no_grad():
        reference = [module(images).numpy()]
    (noise,) = predict_noise(program, images[:IMAGES], reference)
    normalized = (images[:IMAGES].float() - module.mean) / 63.7
    (expected,) = predict_noise(tiny.program("vit")[1], normalized, reference)
    assert noise.parts.keys() == expected.parts.keys()
    assert noise.left(()) == pytest.approx(expected.left(()), rel=1e-3)


def test_predicting_leaves_weights_and_gradients_alone() -> None:
    module, program = tiny.program("mobilevitv2")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    predict_noise(program, FEW, [outputs(module)["logits"]])
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
