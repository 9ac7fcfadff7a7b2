# SPDX-License-Identifier: Apache-2.0
import pytest
import timm
import torch
from timm.layers import set_exportable
from torch import nn

from tests.vitedge.checkpoints.families.mobilevit.models import tiny
from tests.vitedge.models.test_mobilevit import check_onnx
from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.mobilevit.v2 import infer
from vitedge.errors import ImpossibleSize
from vitedge.models.mobilevitv2 import blocks, build, features, resize

PARAMETERS = {
    "mobilevitv2_050": (1_370_593, "MobileViTv2-0.5"),
    "mobilevitv2_075": (2_866_009, "MobileViTv2-0.75"),
    "mobilevitv2_100": (4_901_841, "MobileViTv2-1.0"),
    "mobilevitv2_125": (7_478_089, "MobileViTv2-1.25"),
    "mobilevitv2_150": (10_594_753, "MobileViTv2-1.5"),
    "mobilevitv2_175": (14_251_833, "MobileViTv2-1.75"),
    "mobilevitv2_200": (18_449_329, "MobileViTv2-2.0"),
}


def loaded(model: nn.Module) -> nn.Module:
    module = build(infer(model.state_dict(), "timm", Hints()))
    module.load_state_dict(model.state_dict())
    return module


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_models_are_rebuilt_with_every_weight(name: str) -> None:
    with torch.device("meta"):
        original = timm.create_model(name)
        spec = infer(original.state_dict(), "timm", Hints())
        rebuilt = build(spec)
    shapes = {key: tensor.shape for key, tensor in original.state_dict().items()}
    assert {key: tensor.shape for key, tensor in rebuilt.state_dict().items()} == shapes
    assert len(shapes) == 269
    assert (sum(weight.numel() for weight in rebuilt.parameters()), spec.variant) == PARAMETERS[name]
    assert (spec.image_size, spec.heads, spec.notes) == ((256, 256), (1, 1, 1), ())


def test_eps_of_the_spec_reaches_the_module() -> None:
    module = build(infer(tiny(2).state_dict(), "timm", Hints(config={"layer_norm_eps": 0.1})))
    assert {part.eps for part in module.modules() if isinstance(part, nn.GroupNorm)} == {0.1}


def test_features_blocks_and_sizes() -> None:
    model = tiny(2)
    spec = infer(model.state_dict(), "timm", Hints())
    with torch.inference_mode():
        final, pooled = features(loaded(model), torch.rand(2, 3, 32, 32))
    assert (final.shape, pooled.shape) == ((2, 32, 4, 4), (2, 32))
    assert blocks(spec)[-1] == "stages.2.1"
    assert resize(model.state_dict(), spec, (40, 24))[1].image_size == (40, 24)
    with pytest.raises(ImpossibleSize, match="8 pixels"):
        resize(model.state_dict(), spec, (44, 40))


def test_a_process_wide_switch_of_timm_does_not_change_the_graph() -> None:
    set_exportable(True)
    try:
        module = loaded(tiny(2))
    finally:
        set_exportable(False)
    program = torch.export.export(module, (torch.rand(1, 3, 32, 32),))
    assert "im2col" not in str(program.graph)
    assert "pixel_shuffle" not in str(program.graph)


def test_onnx_runs_at_every_batch_without_resize() -> None:
    check_onnx(loaded(tiny(2)), 48, relative=1e-4)
