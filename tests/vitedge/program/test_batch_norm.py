# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import torch
from torch import nn

from vitedge.program.batch_norm import BatchNorm, batch_norm_of, folds_into
from vitedge.program.constants import constant_values

IMAGE = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Normalized(nn.Module):
    def __init__(self, *, bias: bool, residual: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=bias)
        self.norm = nn.BatchNorm2d(4)
        self.residual = residual
        for index, tensor in enumerate((*self.norm.parameters(), self.norm.running_mean, self.norm.running_var)):
            tensor.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(index))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        value = self.conv(image)
        return self.norm(value) + value if self.residual else self.norm(value)


def folded(module: Normalized) -> list[tuple[torch.Tensor, torch.Tensor]]:
    exported = torch.export.export(module.eval(), (IMAGE,))
    values = constant_values(exported)
    found = []
    for node in exported.graph.nodes:
        convolution = folds_into(node)
        norm = None if convolution is None else batch_norm_of(node, values.get)
        if convolution is not None and norm is not None:
            bias = module.conv.bias
            found.append(norm.fold(module.conv.weight, bias, torch.sqrt))
    return found


def test_a_convolution_computes_its_batch_normalization_too() -> None:
    for bias in (True, False):
        module = Normalized(bias=bias)
        (parts,) = folded(module)
        with torch.no_grad():
            torch.testing.assert_close(nn.functional.conv2d(IMAGE, *parts), module(IMAGE), atol=1e-5, rtol=1e-5)


def test_a_convolution_that_something_else_reads_is_left_alone() -> None:
    assert not folded(Normalized(bias=True, residual=True))


def test_a_normalization_of_something_that_depends_on_the_image_is_left_alone() -> None:
    exported = torch.export.export(Normalized(bias=True).eval(), (IMAGE,))
    (norm,) = (node for node in exported.graph.nodes if folds_into(node) is not None)
    assert batch_norm_of(norm, lambda _: None) is None


def test_arrays_fold_like_tensors() -> None:
    tensors = [torch.rand(4, generator=torch.Generator().manual_seed(index)) for index in range(4)]
    weight = torch.rand(4, 3, 1, 1)
    expected = BatchNorm(tensors[0], tensors[1], tensors[2], tensors[3], 1e-5).fold(weight, None, torch.sqrt)
    arrays = [tensor.numpy() for tensor in tensors]
    found = BatchNorm(arrays[0], arrays[1], arrays[2], arrays[3], 1e-5).fold(weight.numpy(), None, np.sqrt)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-6)
