# SPDX-License-Identifier: Apache-2.0
"""Google's arrays are made here by their names and layouts; timm's own reader of such files is the other side."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional

from tests.vitedge.checkpoints.vit_rebuilding import assert_equal, convert, images_for, rebuild
from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.vit import google as vit_google
from vitedge.errors import WeightsMismatch
from vitedge.models import vit as builder
from vitedge.records import Origin

WIDTH, HEADS, HIDDEN, CLASSES, DEPTH = 64, 2, 96, 5, 2
Arrays = dict[str, Tensor]


def _arrays(shapes: dict[str, tuple[int, ...]]) -> Arrays:
    generator = torch.Generator().manual_seed(3)
    arrays = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("scale"):
            arrays[name] = 1 + 0.2 * noise
        elif name.endswith("kernel"):
            rows = shape[:-1] if name.count("query") + name.count("key") + name.count("value") == 0 else shape[:-2]
            arrays[name] = 1.5 * noise * float(np.prod(rows[-4:])) ** -0.5
        else:
            arrays[name] = 0.2 * noise
    return arrays


def _block(attention: str, second: str, mlp: str) -> dict[str, tuple[int, ...]]:
    channels = WIDTH // HEADS
    shapes: dict[str, tuple[int, ...]] = {}
    for norm in ("LayerNorm_0", second):
        shapes |= {f"{norm}/scale": (WIDTH,), f"{norm}/bias": (WIDTH,)}
    for part in ("query", "key", "value"):
        shapes |= {
            f"{attention}/{part}/kernel": (WIDTH, HEADS, channels),
            f"{attention}/{part}/bias": (HEADS, channels),
        }
    shapes |= {f"{attention}/out/kernel": (HEADS, channels, WIDTH), f"{attention}/out/bias": (WIDTH,)}
    shapes |= {f"{mlp}/Dense_0/kernel": (WIDTH, HIDDEN), f"{mlp}/Dense_0/bias": (HIDDEN,)}
    return shapes | {f"{mlp}/Dense_1/kernel": (HIDDEN, WIDTH), f"{mlp}/Dense_1/bias": (WIDTH,)}


def _common() -> dict[str, tuple[int, ...]]:
    return {
        "cls": (1, 1, WIDTH),
        "embedding/kernel": (8, 8, 3, WIDTH),
        "embedding/bias": (WIDTH,),
        "Transformer/encoder_norm/scale": (WIDTH,),
        "Transformer/encoder_norm/bias": (WIDTH,),
        "head/kernel": (WIDTH, CLASSES),
        "head/bias": (CLASSES,),
    }


def flax_arrays() -> Arrays:
    """vision_transformer, as in the files of augreg."""
    shapes = _common() | {"Transformer/posembed_input/pos_embedding": (1, 17, WIDTH)}
    for index in range(DEPTH):
        block = _block("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
        shapes |= {f"Transformer/encoderblock_{index}/{name}": shape for name, shape in block.items()}
    return _arrays(shapes)


def big_vision_arrays() -> Arrays:
    """big_vision: no position for the class token."""
    shapes = _common() | {"pos_embedding": (1, 16, WIDTH)}
    for index in range(DEPTH):
        block = _block("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
        shapes |= {f"Transformer/encoderblock_{index}/{name}": shape for name, shape in block.items()}
    return {f"params/{name}": array for name, array in _arrays(shapes).items()}


def stacked_arrays() -> Arrays:
    """big_vision with all blocks along a leading axis."""
    apart = big_vision_arrays()
    first = "params/Transformer/encoderblock_0/"
    together = {name: array for name, array in apart.items() if "encoderblock_" not in name}
    for name in [name for name in apart if name.startswith(first)]:
        blocks = [apart[name.replace("encoderblock_0", f"encoderblock_{index}")] for index in range(DEPTH)]
        together[name.replace("encoderblock_0", "encoderblock")] = torch.stack(blocks)
    return together


def optimizer_arrays() -> Arrays:
    """A training state: the weights under opt/target, the optimizer's beside them."""
    target = {f"opt/target/{name}": array for name, array in flax_arrays().items()}
    return {
        **target,
        "opt/state/step": torch.tensor(3),
        "opt/state/param_states/cls/momentum": torch.zeros(1, 1, WIDTH),
    }


def hybrid_arrays(depths: tuple[int, ...], patch: int, positions: int) -> Arrays:
    arrays = flax_arrays()
    stem: dict[str, tuple[int, ...]] = {
        "conv_root/kernel": (7, 7, 3, 64),
        "gn_root/scale": (64,),
        "gn_root/bias": (64,),
    }
    before = 64
    for stage, depth in enumerate(depths):
        out = 256 << stage
        for unit in range(depth):
            name, middle = f"block{stage + 1}/unit{unit + 1}", out // 4
            kernels = ((1, 1, before, middle), (3, 3, middle, middle), (1, 1, middle, out))
            for index, kernel in enumerate(kernels, start=1):
                stem |= {f"{name}/conv{index}/kernel": kernel}
                stem |= {f"{name}/gn{index}/{leaf}": (1, 1, 1, kernel[-1]) for leaf in ("scale", "bias")}
            if unit == 0:
                stem |= {f"{name}/conv_proj/kernel": (1, 1, before, out)}
                stem |= {f"{name}/gn_proj/{leaf}": (1, 1, 1, out) for leaf in ("scale", "bias")}
            before = out
    shapes = stem | {
        "embedding/kernel": (patch, patch, before, WIDTH),
        "Transformer/posembed_input/pos_embedding": (1, 1 + positions, WIDTH),
    }
    return {**arrays, **_arrays(shapes)}


@torch.inference_mode()
def _logits_of_timm(arrays: Arrays, folder: Path, images: Tensor, **settings: object) -> Tensor:
    path = folder / "weights.npz"
    np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    size = tuple(images.shape[2:])
    # The constructor of a hybrid takes its ResNet from the entry point; plain sizes fit vit_tiny's.
    name = settings.pop("name", "vit_tiny_patch16_224")
    plain = {} if "r" in str(name).split("_")[2] else {"patch_size": 8}
    module = timm.create_model(
        str(name),
        img_size=size,
        embed_dim=WIDTH,
        num_heads=HEADS,
        depth=DEPTH,
        mlp_ratio=HIDDEN / WIDTH,
        num_classes=CLASSES,
        **plain,
        **settings,
    )
    module.load_pretrained(str(path))
    logits: Tensor = module.eval()(images)
    return logits


DIALECTS: dict[str, tuple[Callable[[], Arrays], dict[str, object]]] = {
    "vision_transformer": (flax_arrays, {}),
    "training state": (optimizer_arrays, {}),
    "big_vision": (big_vision_arrays, {"no_embed_class": True}),
    "big_vision stacked": (stacked_arrays, {"no_embed_class": True}),
}


@pytest.mark.parametrize("dialect", DIALECTS)
@torch.inference_mode()
def test_logits_are_those_of_timms_reader(dialect: str, tmp_path: Path) -> None:
    make, settings = DIALECTS[dialect]
    module, spec, _ = rebuild(make())
    images = images_for(spec)
    assert spec.naming == "google"
    assert spec.image_size == (32, 32)
    assert_equal(module(images), _logits_of_timm(make(), tmp_path, images, **settings))


@pytest.mark.parametrize(
    ("name", "depths", "patch", "variant"),
    [("vit_tiny_r_s16_p8_224", (), 8, "R+ViT"), ("vit_small_r26_s32_224", (2, 2, 2, 2), 1, "R26+ViT")],
)
@torch.inference_mode()
def test_hybrids_are_those_of_timms_reader(
    name: str, depths: tuple[int, ...], patch: int, variant: str, tmp_path: Path
) -> None:
    arrays = hybrid_arrays(depths, patch, positions=4)
    module, spec, _ = rebuild(arrays)
    images = images_for(spec)
    assert spec.patch == 32
    assert spec.image_size == (64, 64)
    assert spec.variant.startswith(f"custom {variant} ")
    assert_equal(module(images), _logits_of_timm(arrays, tmp_path, images, name=name))


@torch.inference_mode()
def test_the_representation_layer_is_computed(tmp_path: Path) -> None:
    plain = flax_arrays()
    more = _arrays({"pre_logits/kernel": (WIDTH, 48), "pre_logits/bias": (48,), "head/kernel": (48, CLASSES)})
    module, spec, _ = rebuild({**plain, **more})
    images = images_for(spec)
    features = builder.features(rebuild(plain)[0], images)[1]
    hidden = torch.tanh(features @ more["pre_logits/kernel"] + more["pre_logits/bias"])
    assert spec.options["pre_logits"] == 48
    assert_equal(module(images), hidden @ more["head/kernel"] + plain["head/bias"])
    assert_equal(builder.features(module, images)[1], hidden)


def test_heads_are_exact_and_the_optimizers_state_is_dropped() -> None:
    converted, spec = convert(optimizer_arrays())
    assert spec.heads == (HEADS,)
    assert spec.origins["heads"] is Origin.SHAPE
    assert set(converted.dropped) == {"opt/state/step", "opt/state/param_states/cls/momentum"}


@pytest.mark.parametrize("part", ["query", "key", "value"])
@pytest.mark.parametrize("leaf", ["kernel", "bias"])
def test_a_projection_without_its_siblings_is_named(part: str, leaf: str) -> None:
    lacking = flax_arrays()
    for index in range(DEPTH):
        del lacking[f"Transformer/encoderblock_{index}/MultiHeadDotProductAttention_1/{part}/{leaf}"]
    with pytest.raises(WeightsMismatch, match=r"blocks\.[01]\.attn\." + part[0]):
        vit_google.convert(lacking, Hints())


def test_arrays_without_a_place_are_named() -> None:
    with pytest.raises(WeightsMismatch, match="MAPHead_0/probe"):
        convert({**flax_arrays(), "MAPHead_0/probe": torch.zeros(1, 1, WIDTH)})
    with pytest.raises(WeightsMismatch, match=r"embedding/kernel of shape \(192, 64\)"):
        convert({**flax_arrays(), "embedding/kernel": torch.zeros(192, WIDTH)})
    with pytest.raises(WeightsMismatch, match="txt/embedding"):
        convert({**big_vision_arrays(), "txt/embedding": torch.zeros(2)})


def test_a_standardized_stem_is_plain_convolutions() -> None:
    weight = convert(hybrid_arrays((), 8, 4))[0].state["patch_embed.backbone.conv.weight"]
    flat = weight.flatten(1)
    assert torch.allclose(flat.mean(dim=1), torch.zeros(64), atol=1e-5)
    assert torch.allclose(flat.var(dim=1, unbiased=False), torch.ones(64), atol=1e-4)
    assert functional.conv2d(torch.zeros(1, 3, 8, 8), weight).abs().max() == 0
