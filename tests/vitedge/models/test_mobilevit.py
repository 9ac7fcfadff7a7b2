# SPDX-License-Identifier: Apache-2.0
import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch import nn

from tests.vitedge.checkpoints.families.mobilevit.models import tiny
from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.mobilevit.v1 import infer
from vitedge.errors import ImpossibleSize
from vitedge.models.mobilevit import blocks, build, features, resize
from vitedge.records import ModelSpec, Origin
from vitedge.serialization import from_dict, to_dict

PARAMETERS = {
    "mobilevit_xxs": (1_272_024, "MobileViT-XXS"),
    "mobilevit_xs": (2_317_848, "MobileViT-XS"),
    "mobilevit_s": (5_578_632, "MobileViT-S"),
}


def loaded(model: nn.Module, edge: int | None = None) -> tuple[nn.Module, ModelSpec]:
    state = model.state_dict()
    spec = infer(state, "timm", Hints())
    if edge is not None:
        state, spec = resize(state, spec, (edge, edge))
    module = build(spec)
    module.load_state_dict(state)
    return module, spec


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_models_are_rebuilt_with_every_weight(name: str) -> None:
    with torch.device("meta"):
        original = timm.create_model(name)
        spec = infer(original.state_dict(), "timm", Hints())
        rebuilt = build(spec)
    shapes = {key: tensor.shape for key, tensor in original.state_dict().items()}
    assert {key: tensor.shape for key, tensor in rebuilt.state_dict().items()} == shapes
    assert len(shapes) == 311
    assert (sum(weight.numel() for weight in rebuilt.parameters()), spec.variant) == PARAMETERS[name]
    assert (spec.image_size, spec.heads, spec.notes) == ((256, 256), (4, 4, 4), ())
    assert spec.origins["heads"] is spec.origins["image_size"] is Origin.TABLE


def test_a_spec_from_json_builds_the_same_module_and_no_random_number_is_drawn() -> None:
    module, spec = loaded(tiny())
    before = torch.get_rng_state()
    again = build(from_dict(ModelSpec, to_dict(spec)))
    assert torch.equal(torch.get_rng_state(), before)
    again.load_state_dict(module.state_dict())
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(again(images), module(images))


def test_eps_and_activation_of_the_spec_reach_the_module() -> None:
    spec = infer(tiny().state_dict(), "timm", Hints(config={"layer_norm_eps": 0.1, "hidden_act": "relu"}))
    module = build(spec)
    assert {part.eps for part in module.modules() if isinstance(part, nn.LayerNorm)} == {0.1}
    assert {part.eps for part in module.modules() if isinstance(part, nn.BatchNorm2d)} == {1e-5}
    kinds = {type(part).__name__ for part in module.modules()}
    assert "ReLU" in kinds
    assert "SiLU" not in kinds


def test_every_multiple_of_the_total_stride_is_accepted_and_nothing_else() -> None:
    with torch.device("meta"):
        state = timm.create_model("mobilevit_xxs").state_dict()
    spec = infer(state, "timm", Hints())
    for size in ((224, 224), (32, 32), (192, 288)):
        assert resize(state, spec, size)[1].image_size == size
    with pytest.raises(
        ImpossibleSize, match="total stride of 32 pixels; what works nearest to it is 224x224 or 256x256"
    ):
        resize(state, spec, (230, 230))
    small = infer(tiny().state_dict(), "timm", Hints())
    resized = resize(tiny().state_dict(), small, (24, 40))[1]
    assert (resized.image_size, resized.origins["image_size"]) == ((24, 40), Origin.GIVEN)
    assert small.notes
    assert not any("image_size" in note for note in resized.notes)
    with pytest.raises(ImpossibleSize, match="8 pixels"):
        resize(tiny().state_dict(), small, (36, 32))


def test_features_are_what_the_head_reads() -> None:
    module, _ = loaded(tiny())
    with torch.inference_mode():
        final, pooled = features(module, torch.rand(2, 3, 64, 64))
        assert final.shape == (2, 64, 8, 8)
        torch.testing.assert_close(pooled, module.forward_head(final, pre_logits=True))


@pytest.mark.parametrize("classes", [5, 0])
def test_blocks_are_single_tensors_in_order_of_execution(classes: int) -> None:
    module, spec = loaded(tiny(classes=classes))
    names = blocks(spec)
    seen: list[str] = []
    for name in names:
        module.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.append(name if isinstance(output, torch.Tensor) else "")
        )
    with torch.inference_mode():
        module(torch.rand(1, 3, 64, 64))
    assert tuple(seen) == names
    assert names == (
        "stem",
        "stages.0.0",
        *(f"stages.1.{n}" for n in range(3)),
        "stages.2.0",
        "stages.2.1",
        "final_conv",
    )


def test_onnx_at_another_size_runs_at_every_batch_without_resize() -> None:
    module, _ = loaded(tiny(), edge=48)
    check_onnx(module, 48, relative=1e-5)


def check_onnx(module: nn.Module, edge: int, relative: float) -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (torch.rand(2, 3, edge, edge),), dynamic_shapes=({0: batch},))
    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    assert "Resize" not in {node.op_type for node in exported.model.graph}
    session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        images = torch.rand(count, 3, edge, edge)
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.inference_mode():
            expected = module(images).numpy()
        assert np.abs(found - expected).max() <= relative * np.abs(expected).max()
