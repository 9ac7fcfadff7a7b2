# SPDX-License-Identifier: Apache-2.0
"""Seeded weights at a scale at which the logits depend on the image."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fills every floating parameter and buffer of a module, each from its own shape and the seed; returns it in eval.

    Buffers that no checkpoint holds, such as Swin's attention masks, keep what the module computed for them.
    Matrices keep the variance of what goes in, norms are near one, embeddings are small beside the patches.
    """
    stored = set(module.state_dict())
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in list(module.named_parameters()) + list(module.named_buffers()):
        if not tensor.is_floating_point() or name not in stored:
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.2 * noise.abs())
        elif name.endswith(("gamma", "gamma_1", "gamma_2", "lambda1")):
            tensor.copy_(0.5 + 0.1 * noise)
        elif tensor.ndim >= 2 and name.endswith("weight"):
            tensor.copy_(noise * (tensor[0].numel() ** -0.5) * 1.5)
        elif name.endswith("weight"):
            tensor.copy_(1 + 0.2 * noise)
        else:
            tensor.copy_(0.2 * noise)
    return module.eval()
