# SPDX-License-Identifier: Apache-2.0
import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch.nn import functional

from tests.vitedge.checkpoints.families.test_pit import tiny
from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.pit import infer
from vitedge.errors import ImpossibleSize
from vitedge.models.pit import blocks, build, features, resize
from vitedge.serialization import from_dict, to_dict

PARAMETERS = {
    "pit_ti_224": (4_847_272, "PiT-Ti"),
    "pit_xs_224": (10_618_888, "PiT-XS"),
    "pit_s_224": (23_461_912, "PiT-S"),
    "pit_b_224": (73_764_840, "PiT-B"),
    "pit_ti_distilled_224": (5_104_336, "PiT-Ti distilled"),
    "pit_xs_distilled_224": (11_003_984, "PiT-XS distilled"),
    "pit_s_distilled_224": (24_039_056, "PiT-S distilled"),
    "pit_b_distilled_224": (74_790_096, "PiT-B distilled"),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_models_are_rebuilt_with_every_weight(name: str) -> None:
    with torch.device("meta"):
        original = timm.create_model(name)
        spec = infer(original.state_dict(), "timm", Hints())
        rebuilt = build(spec)
    shapes = {key: tensor.shape for key, tensor in original.state_dict().items()}
    assert {key: tensor.shape for key, tensor in rebuilt.state_dict().items()} == shapes
    assert (sum(weight.numel() for weight in rebuilt.parameters()), spec.variant) == PARAMETERS[name]
    assert (spec.image_size, spec.notes) == ((224, 224), ())
    assert [block.attn.num_heads for stage in rebuilt.transformers for block in stage.blocks] == [
        block.attn.num_heads for stage in original.transformers for block in stage.blocks
    ]
    assert rebuilt.patch_embed.conv.stride == original.patch_embed.conv.stride


def test_building_leaves_the_random_generator_alone_and_takes_a_spec_from_json() -> None:
    spec = infer(tiny().state_dict(), "timm", Hints())
    before = torch.get_rng_state()
    module = build(from_dict(type(spec), to_dict(spec)))
    assert torch.equal(torch.get_rng_state(), before)
    assert not module.training
    assert all(weight.device.type == "cpu" for weight in module.parameters())


def test_eps_and_activation_of_the_spec_reach_the_module() -> None:
    model = tiny()
    spec = infer(model.state_dict(), "timm", Hints())
    changed = build(from_dict(type(spec), {**to_dict(spec), "norm_eps": 0.1, "activation": "relu"}))
    assert {part.eps for part in changed.modules() if isinstance(part, torch.nn.LayerNorm)} == {0.1}
    assert isinstance(changed.transformers[0].blocks[0].mlp.act, torch.nn.ReLU)


def test_another_size_resamples_the_four_dimensional_embedding() -> None:
    model = tiny(distilled=True)
    spec = infer(model.state_dict(), "timm", Hints())
    state, resized = resize(model.state_dict(), spec, (48, 64))
    assert (resized.image_size, tuple(state["pos_embed"].shape)) == ((48, 64), (1, 32, 11, 15))
    module = build(resized)
    module.load_state_dict(state)
    images = torch.randn(2, 3, 48, 64)
    with torch.inference_mode():
        by_hand = tiny(distilled=True, img_size=(48, 64))
        by_hand.load_state_dict(state)
        torch.testing.assert_close(module(images), by_hand(images), rtol=1e-5, atol=1e-6)
    expected = functional.interpolate(model.pos_embed, size=(11, 15), mode="bicubic", antialias=True)
    torch.testing.assert_close(state["pos_embed"], expected.detach())


def test_pixels_outside_of_every_patch_are_named_and_too_small_an_image_is_refused() -> None:
    model = tiny()
    spec = infer(model.state_dict(), "timm", Hints())
    assert any("last 2 pixels" in note for note in resize(model.state_dict(), spec, (32, 34))[1].notes)
    with pytest.raises(ImpossibleSize, match="from 8 up"):
        resize(model.state_dict(), spec, (7, 32))


@pytest.mark.parametrize("distilled", [False, True])
def test_features_are_what_the_head_reads(distilled: bool) -> None:
    model = tiny(distilled=distilled)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        final, pooled = features(model, images)
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
    assert (final.shape, pooled.shape) == ((2, 64, 4, 4), (2, 64))
    torch.testing.assert_close(pooled, expected)


def test_blocks_are_single_tensors_in_order_of_execution() -> None:
    model = tiny()
    names = blocks(infer(model.state_dict(), "timm", Hints()))
    seen: list[str] = []
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.append(name if isinstance(output, torch.Tensor) else "")
        )
    with torch.inference_mode():
        model(torch.randn(1, 3, 32, 32))
    assert tuple(seen) == names
    assert len(names) == 1 + 1 + 1 + 2 + 1


def test_onnx_at_another_size_runs_at_every_batch_without_resize() -> None:
    model = tiny(distilled=True)
    state, spec = resize(model.state_dict(), infer(model.state_dict(), "timm", Hints()), (40, 48))
    module = build(spec)
    module.load_state_dict(state)
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (torch.randn(2, 3, 40, 48),), dynamic_shapes=({0: batch},))
    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    assert "Resize" not in {node.op_type for node in exported.model.graph}
    session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 40, 48)
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(found, module(images).numpy(), rtol=1e-4, atol=2e-5)
