# SPDX-License-Identifier: Apache-2.0
"""PiT, MobileViT, Swin and BEiT, as their libraries save them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tests.family_files import (
    Case,
    Source,
    compiled,
    copied,
    memory_folder,
    of_timm,
    of_timm_encoder,
    of_transformers,
    pickled,
    published_folder,
    safetensors,
    under_model,
    under_state_dict,
    with_average,
)
from tests.seeding import seeded
from tests.vitedge.checkpoints.families import test_beit as beit
from tests.vitedge.checkpoints.families import test_pit as pit
from tests.vitedge.checkpoints.families import test_swin as swin
from tests.vitedge.checkpoints.families.mobilevit import models as mobilevit
from vitedge.images.synthetic import synthesize


def with_transformers(model: str, config: Callable[[], Any]) -> Callable[[], Source]:
    return lambda: of_transformers(seeded(getattr(transformers, model)(config())))


def with_pit(*, distilled: bool, naver: bool = False) -> Callable[[], Source]:
    def named(module: nn.Module) -> dict[str, Tensor]:
        return dict(pit.naver_names(module.state_dict()))

    return lambda: of_timm(pit.tiny(distilled=distilled), names=named if naver else None)


@torch.no_grad()
def settled(network: nn.Module, edge: int = 64) -> nn.Module:
    """Batch norms that know their inputs, and quiet residual branches, as training leaves them.

    With seeded statistics the average of the map is nearly the same for every image, and a seeded linear attention
    doubles every rounding error: already rounding the weights to half precision would leave less than 40 dB.
    """
    for name, weight in network.named_parameters():
        if re.search(r"(attn\.(out_)?proj|mlp\.fc2)\.", name):
            weight.mul_(0.1)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]

    def observe(norm: Any, inputs: tuple[Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.fill_(float(inputs[0].var((0, 2, 3)).mean()))

    handles = [norm.register_forward_pre_hook(observe) for norm in norms]
    network(torch.from_numpy(synthesize(16, edge, edge, 0)) / 255)
    for handle in handles:
        handle.remove()
    return network


def with_mobilevit(version: int, *, cvnets: bool = False) -> Callable[[], Source]:
    def named(module: nn.Module) -> dict[str, Tensor]:
        return mobilevit.cvnets_names(module, version)

    def source() -> Source:
        module = mobilevit.published_shape(version) if cvnets else settled(mobilevit.tiny(version))
        made = of_timm(module, names=named if cvnets else None)
        return replace(made, at=lambda _edge: module)  # nothing in it depends on the size

    return source


def with_swin() -> Source:
    module = swin.tiny_timm()

    def at(edge: int) -> nn.Module:
        resized = copy.deepcopy(module)
        resized.set_input_size(img_size=(edge, edge), window_size=(4, 4))  # timm would let the windows grow
        return resized

    return replace(of_timm(module), at=at)


def swin_of_transformers() -> Source:
    """The encoder without a head; its tokens are a map in vitedge."""
    model = seeded(transformers.SwinModel(swin.tiny_config()))

    def forward(images: Tensor) -> Tensor:
        tokens: Tensor = model(images).last_hidden_state
        edge = round(tokens.shape[1] ** 0.5)
        return tokens.transpose(1, 2).unflatten(2, (edge, edge))

    return Source(copied(model.state_dict()), forward, module=model)


def timm_06_names(module: Any) -> dict[str, Tensor]:
    """timm before 0.9: merging ends a stage and the head is bare, like Microsoft's; the masks were saved, too."""
    return swin.official_names(module)


def early_timm_09_names(module: Any) -> dict[str, Tensor]:
    """Returns the weights as timm 0.8 named them: the head already in a module of its own, no buffers."""
    names = swin.official_names(module, head="head.fc.")
    return {name: tensor for name, tensor in names.items() if not name.endswith(("_index", "attn_mask"))}


SHARED_BIASES: dict[str, Any] = {
    "use_rel_pos_bias": False,
    "use_shared_rel_pos_bias": True,
    "num_classes": 0,
    "global_pool": "token",
    "use_fc_norm": False,
}
PIXELS_64 = {"image_size": 64}

MAP_CASES: dict[str, Case] = {
    "pit timm": Case("pit", "timm", with_pit(distilled=False), pickled(under_model), 32, 40, whole=True),
    "pit timm distilled": Case("pit", "timm", with_pit(distilled=True), safetensors(compiled), 32, 48),
    "pit naver": Case("pit", "naver", with_pit(distilled=False, naver=True), pickled(legacy=True), 32, 40),
    "pit naver distilled": Case(
        "pit", "naver", with_pit(distilled=True, naver=True), pickled(under_state_dict), 32, 40, whole=True
    ),
    "mobilevit timm": Case("mobilevit", "timm", with_mobilevit(1), safetensors(), 64, 128, given=PIXELS_64, whole=True),
    "mobilevit cvnets": Case(
        "mobilevit", "cvnets", with_mobilevit(1, cvnets=True), pickled(), 64, 128, given=PIXELS_64
    ),
    "mobilevit hugging face": Case(
        "mobilevit",
        "huggingface",
        with_transformers("MobileViTForImageClassification", mobilevit.huggingface_config),
        published_folder(),
        64,
        128,
    ),
    "mobilevit hugging face in memory": Case(
        "mobilevit",
        "huggingface",
        with_transformers("MobileViTForImageClassification", mobilevit.huggingface_config),
        memory_folder(),
        64,
        128,
    ),
    "mobilevitv2 timm": Case(
        "mobilevitv2", "timm", with_mobilevit(2), pickled(with_average), 64, 128, given=PIXELS_64, whole=True
    ),
    "mobilevitv2 cvnets": Case(
        "mobilevitv2",
        "cvnets",
        with_mobilevit(2, cvnets=True),
        pickled(under_state_dict, legacy=True),
        64,
        128,
        given=PIXELS_64,
    ),
    "mobilevitv2 hugging face": Case(
        "mobilevitv2",
        "huggingface",
        with_transformers("MobileViTV2ForImageClassification", mobilevit.huggingface_config_v2),
        published_folder("100KB"),
        64,
        128,
    ),
    "swin timm": Case("swin", "timm", with_swin, safetensors(), 32, 48, whole=True),
    "swin timm 0.8": Case(
        "swin", "official", lambda: of_timm(swin.tiny_timm(), names=early_timm_09_names), pickled(), 32, 64
    ),
    "swin timm 0.6": Case(
        "swin",
        "official",
        lambda: of_timm(swin.tiny_timm(), names=timm_06_names),
        pickled(under_state_dict, legacy=True),
        32,
        64,
    ),
    "swin official": Case(
        "swin", "official", lambda: of_timm(swin.tiny_timm(), names=swin.official_names), pickled(under_model), 32, 48
    ),
    "swin hugging face": Case(
        "swin",
        "huggingface",
        with_transformers("SwinForImageClassification", swin.tiny_config),
        published_folder(),
        32,
        48,
    ),
    "swin hugging face encoder": Case("swin", "huggingface", swin_of_transformers, memory_folder(), 32, 48, classes=0),
    "swin simmim": Case(
        "swin",
        "simmim",
        lambda: of_timm_encoder(swin.tiny_timm(num_classes=0), names=swin.simmim_names),
        pickled(under_model),
        32,
        48,
        classes=0,
        whole=True,
    ),
    "beit timm": Case(
        "beit", "timm", lambda: of_timm(beit.tiny_timm(), resizes=True), safetensors(), 32, 48, whole=True
    ),
    "beit hugging face": Case(
        "beit",
        "huggingface",
        with_transformers("BeitForImageClassification", beit.tiny_config),
        published_folder(),
        32,
        48,
    ),
    "beit hugging face in memory": Case(
        "beit",
        "huggingface",
        with_transformers("BeitForImageClassification", beit.tiny_config),
        memory_folder(),
        32,
        48,
    ),
    "simmim vit": Case(
        "beit",
        "simmim",
        lambda: of_timm_encoder(beit.tiny_timm(**SHARED_BIASES), names=beit.simmim_names),
        pickled(under_model),
        32,
        48,
        classes=0,
        whole=True,
    ),
}
"""Name to checkpoint."""
