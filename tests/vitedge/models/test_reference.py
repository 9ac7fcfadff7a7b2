# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.bad_files import VIT
from tests.vitedge.models.test_swin import tiny as tiny_swin
from vitedge.checkpoints.read import Checkpoint, read
from vitedge.errors import ImpossibleSize, WeightsMismatch
from vitedge.images.preprocess import normalize
from vitedge.models.reference import (
    BUILDERS,
    Reference,
    check_fit,
    load_reference,
    measured,
    output_names,
    skeleton,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), np.uint8)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return read(str(VIT))


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> Reference:
    return load_reference(checkpoint)


@pytest.fixture(scope="module")
def swin(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """timm's own module, and its weights in a file; the second block of each stage shifts its windows."""
    module, _ = tiny_swin()
    path = tmp_path_factory.mktemp("swin") / "swin.pth"
    torch.save(module.state_dict(), path)
    return module, path


def with_order(reference: Reference, order: str) -> Reference:
    preprocessing = replace(
        reference.spec.preprocessing, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), channel_order=order
    )
    return Reference(reference.module, replace(reference.spec, preprocessing=preprocessing))


def test_the_parameters_are_the_tensors_of_the_checkpoint(checkpoint: Checkpoint, reference: Reference) -> None:
    parameters = dict(reference.module.named_parameters())
    assert parameters.keys() == checkpoint.state.keys()
    assert [name for name in parameters if parameters[name].data_ptr() != checkpoint.state[name].data_ptr()] == []
    assert not any(parameter.requires_grad for parameter in parameters.values())
    assert not any(module.training for module in reference.module.modules())


def test_every_family_has_the_same_public_names() -> None:
    for builder in BUILDERS.values():
        assert all(callable(getattr(builder, name)) for name in ("build", "resize", "features", "blocks"))


def test_a_skeleton_takes_no_memory(checkpoint: Checkpoint, swin: tuple[nn.Module, Path]) -> None:
    for spec in (checkpoint.spec, read(str(swin[1])).spec):
        module = skeleton(spec)
        tensors = [*module.parameters(), *module.buffers()]
        assert tensors
        assert all(tensor.is_meta for tensor in tensors)


def test_weights_that_do_not_fit_are_all_named(checkpoint: Checkpoint) -> None:
    state = dict(checkpoint.state)
    del state["norm.bias"]
    state["adapter.weight"] = torch.ones(1)
    state["head.bias"] = torch.ones(11)
    with pytest.raises(WeightsMismatch) as caught:
        check_fit(skeleton(checkpoint.spec), state, "some.pth")
    assert str(caught.value) == (
        "some.pth does not fit its architecture: norm.bias is missing, adapter.weight is left over, "
        "head.bias is (11,) instead of (10,)."
    )


def test_many_weights_that_do_not_fit_are_counted(checkpoint: Checkpoint) -> None:
    with pytest.raises(WeightsMismatch, match=rf"missing, and {len(checkpoint.state) - 6} more\.$"):
        check_fit(skeleton(checkpoint.spec), {}, "some.pth")


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@torch.inference_mode()
def test_the_image_itself_gives_what_its_normalized_values_give(reference: Reference, order: str) -> None:
    mine = with_order(reference, order)
    module = mine.deployed(uint8=True, features=False)
    found = module(torch.from_numpy(PIXELS))
    expected = mine.module(torch.from_numpy(normalize(PIXELS, mine.spec.preprocessing)))
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-6
    other = with_order(reference, "bgr" if order == "rgb" else "rgb").outputs(PIXELS, features=False)["logits"]
    assert np.abs(found.numpy() - other).max() > 0.01 * np.abs(other).max()


@torch.inference_mode()
def test_features_are_what_the_head_reads(reference: Reference) -> None:
    outputs = reference.outputs(PIXELS, features=True)
    assert tuple(outputs) == output_names(features=True) == ("tokens", "pooled")
    assert outputs["tokens"].shape == (6, 17, 64)
    logits = reference.module.head(torch.from_numpy(outputs["pooled"]))  # type: ignore[operator]
    np.testing.assert_allclose(logits.numpy(), reference.outputs(PIXELS, features=False)["logits"], atol=1e-5)


@torch.inference_mode()
def test_outputs_are_those_of_all_images_at_once(reference: Reference) -> None:
    """Six images take two passes, the second of which is not full."""
    expected = reference.module(torch.from_numpy(normalize(PIXELS, reference.spec.preprocessing)))
    found = reference.outputs(PIXELS, features=False)["logits"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


def test_every_block_is_there_with_its_own_values(reference: Reference) -> None:
    before = reference.outputs(PIXELS[:2], features=True)
    found = reference.block_outputs(PIXELS[:2])
    assert tuple(found) == reference.blocks
    assert set(reference.blocks) >= {"patch_embed", *(f"blocks.{index}" for index in range(4)), "norm"}
    np.testing.assert_array_equal(found["norm"], before["tokens"])
    assert len({values.tobytes() for values in found.values()}) == len(found)


def test_running_leaves_the_module_as_it_was(reference: Reference) -> None:
    before = {name: value.clone() for name, value in reference.module.state_dict().items()}
    modules = {name: type(module) for name, module in reference.module.named_modules()}
    reference.outputs(PIXELS, features=True)
    reference.block_outputs(PIXELS[:2])
    reference.deployed(uint8=True, features=True)
    assert not any(module._forward_hooks for module in reference.module.modules())
    assert {name: type(module) for name, module in reference.module.named_modules()} == modules
    assert all(torch.equal(value, before[name]) for name, value in reference.module.state_dict().items())


def test_hooks_are_removed_when_a_run_fails(reference: Reference) -> None:
    with pytest.raises(AssertionError):
        reference.block_outputs(PIXELS[:, :, :16])
    assert not any(module._forward_hooks for module in reference.module.modules())


@torch.inference_mode()
def test_buffers_that_no_file_holds_are_computed(swin: tuple[nn.Module, Path]) -> None:
    original, path = swin
    module = load_reference(read(str(path))).module
    expected, found = dict(original.named_buffers()), dict(module.named_buffers())
    assert any(name.endswith("attn_mask") and bool(value.any()) for name, value in expected.items())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    image = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    assert torch.equal(module(image), original(image))


def test_another_size_is_built_and_the_checkpoint_keeps_its_own(checkpoint: Checkpoint) -> None:
    own = checkpoint.state["pos_embed"].clone()
    other = load_reference(checkpoint, (48, 32))
    assert other.spec.image_size == (48, 32)
    assert other.outputs(np.zeros((2, 3, 48, 32), np.uint8), features=False)["logits"].shape == (2, 10)
    assert torch.equal(checkpoint.state["pos_embed"], own)
    assert checkpoint.spec.image_size == (32, 32)


@pytest.mark.parametrize("size", [(4104, 4096), (10**6, 10**6)])
def test_an_absurd_size_is_refused_before_memory_is_taken(checkpoint: Checkpoint, size: tuple[int, int]) -> None:
    with pytest.raises(ImpossibleSize, match=rf"{size[0]}x{size[1]}.*4096x4096"):
        load_reference(checkpoint, size)


def test_what_a_measuring_process_gets(reference: Reference) -> None:
    module, (image,) = measured(str(VIT), [48, 48], {"labels": list("0123456789")})
    assert (image.name, image.shape, image.dtype) == ("image", ("batch", 3, 48, 48), "float32")
    assert module(torch.zeros(1, 3, 48, 48)).shape == (1, 10)
    assert measured(str(VIT))[1][0].shape == ("batch", 3, *reference.spec.image_size)
