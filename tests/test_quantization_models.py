# SPDX-License-Identifier: Apache-2.0
"""The outlier channels of the benchmarks' models exist, and change nothing that a model computes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn

from benchmarks.quantization_models import FACTOR, inject_outliers
from tests.seeding import seeded

PLAIN = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2}
TINY: dict[str, tuple[str, dict[str, Any], int]] = {
    "vit": ("vit_tiny_patch16_224", PLAIN, 5),
    "deit distilled": ("deit_tiny_distilled_patch16_224", PLAIN, 5),
    "pit": ("pit_ti_224", {"img_size": 64, "base_dims": [16, 16, 16], "depth": [1, 1, 1]}, 7),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (2, 1), "num_heads": (2, 4)},
        8,
    ),
    "mobilevit": ("mobilevit_xxs", {}, 18),
}
"""Title to the name in timm, the settings that make it tiny, and how many LayerNorms are altered."""


def built(title: str) -> tuple[nn.Module, torch.Tensor]:
    name, settings, _ = TINY[title]
    module = seeded(timm.create_model(name, num_classes=5, **settings)).double()
    image = torch.randn(2, 3, *(settings.get("img_size", 64),) * 2, generator=torch.Generator().manual_seed(1))
    return module, image.double()


@pytest.mark.parametrize("title", TINY)
def test_the_function_is_unchanged_in_float64(title: str) -> None:
    module, image = built(title)
    with torch.no_grad():
        before = module(image)
        altered = inject_outliers(module)
        after = module(image)
    assert len(altered) == TINY[title][2]
    assert float((after - before).abs().max()) <= 1e-12 * float(before.abs().max())
    assert float(before.std(0).min()) > 0, "logits that no image moves would hide a change"


@pytest.mark.parametrize("title", ["vit", "swin"])
def test_a_factor_that_is_no_power_of_two_changes_only_the_last_bits(title: str) -> None:
    module, image = built(title)
    with torch.no_grad():
        before = module(image)
        inject_outliers(module, share=0.3, factor=31.7)
        assert float((module(image) - before).abs().max()) <= 1e-12 * float(before.abs().max())


@pytest.mark.parametrize("title", TINY)
def test_the_channels_that_it_names_are_larger_and_no_others(title: str) -> None:
    module, image = built(title)
    plain, altered = copy.deepcopy(module), inject_outliers(module)
    for change in altered:
        heard = [heard_by(part, change.norm, image) for part in (plain, module)]
        ratio = (heard[1] / heard[0]).flatten(0, -2)
        expected = torch.ones(ratio.shape[-1])
        expected[list(change.channels)] = FACTOR
        torch.testing.assert_close(ratio, expected.double().expand_as(ratio), rtol=1e-9, atol=0)
        assert len(change.channels) == max(1, round(0.01 * ratio.shape[-1]))


def heard_by(module: nn.Module, norm: str, image: torch.Tensor) -> torch.Tensor:
    found: list[torch.Tensor] = []
    handle = module.get_submodule(norm).register_forward_hook(lambda _module, _inputs, output: found.append(output))
    with torch.no_grad():
        module(image)
    handle.remove()
    return found[0]


def test_a_norm_that_something_else_reads_is_left_alone() -> None:
    module, _ = built("mobilevit")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    altered = {change.norm for change in inject_outliers(module)}
    norms = {name for name, part in module.named_modules() if isinstance(part, nn.LayerNorm)}
    left = norms - altered
    assert left == {f"stages.{stage}.1.norm" for stage in (2, 3, 4)}, "a convolution reads these"
    for name in left:
        assert torch.equal(module.get_submodule(name).weight, before[f"{name}.weight"])


def test_the_same_seed_alters_the_same_channels_and_another_does_not() -> None:
    first, second, third = (inject_outliers(built("vit")[0], seed=seed) for seed in (0, 0, 1))
    assert first == second
    assert first != third
