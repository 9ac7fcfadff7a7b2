# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitedge.errors import BadRecipe
from vitedge.runtimes.torch_eager import Runtime

X = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)


def stack() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(4, 3))


class Pair(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image, image.mean(1)


def test_one_tensor_is_the_logits_and_dropout_is_off() -> None:
    module = stack().train()
    with Runtime(module) as runtime:
        first, second = runtime.run({"image": X}), runtime.run({"image": X})
    with torch.no_grad():
        wanted = module.eval()(torch.from_numpy(X)).numpy()
    assert list(first) == ["logits"]
    np.testing.assert_array_equal(first["logits"], wanted)
    np.testing.assert_array_equal(first["logits"], second["logits"])


def test_two_tensors_are_tokens_and_pooled_features() -> None:
    with Runtime(Pair()) as runtime:
        found = runtime.run({"image": X})
    assert list(found) == ["tokens", "pooled"]
    np.testing.assert_array_equal(found["tokens"], X)


def test_intermediates_are_the_modules_outputs_before_anything_overwrites_them() -> None:
    module = stack()
    with Runtime(module, intermediates=("0", "1")) as runtime:
        found = runtime.run({"image": X})
    weight, bias = module[0].weight.detach().numpy(), module[0].bias.detach().numpy()
    np.testing.assert_allclose(found["0"], X @ weight.T + bias, rtol=1e-5, atol=1e-6)
    assert found["0"].min() < 0, "the in-place ReLU behind it must not be seen"
    np.testing.assert_array_equal(found["1"], np.maximum(found["0"], 0))


def test_hooks_and_threads_are_given_back() -> None:
    module, before = stack(), torch.get_num_threads()
    with Runtime(module, threads=before + 1, intermediates=("0",)) as runtime:
        assert runtime.describe()["threads"] == before + 1
    assert torch.get_num_threads() == before
    assert not module[0]._forward_hooks


def test_unknown_module_is_named_and_nothing_is_left_behind() -> None:
    module, before = stack(), torch.get_num_threads()
    with (
        pytest.raises(BadRecipe, match=r"no module named blocks.3"),
        Runtime(module, threads=before + 1, intermediates=("0", "blocks.3")),
    ):
        pass
    assert torch.get_num_threads() == before
    assert not module[0]._forward_hooks


def test_the_input_is_not_altered() -> None:
    kept = X.copy()
    with Runtime(nn.ReLU(inplace=True)) as runtime:
        runtime.run({"image": X})
    np.testing.assert_array_equal(X, kept)
