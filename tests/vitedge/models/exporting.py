# SPDX-License-Identifier: Apache-2.0
"""A module through ``torch.export`` and ONNX with a batch of any size."""

from __future__ import annotations

import io

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

BATCHES = (1, 2, 5)


def worst_error_over_batches(module: nn.Module, size: tuple[int, int]) -> float:
    """Largest relative error, over batches of several sizes, of the ONNX file and of the program that it came from."""
    with torch.no_grad():
        example = torch.zeros(2, 3, *size)
        program = torch.export.export(module, (example,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False)
        exported = torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False)
        assert exported is not None
        buffer = io.BytesIO()
        exported.save(buffer)
        session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
        errors = []
        for batch in BATCHES:
            images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(batch))
            expected = module(images)
            assert expected.std() > 1e-2
            (run,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
            errors += [_relative(program.module()(images), expected), _relative(torch.from_numpy(run), expected)]
    return float(np.max(errors))


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())
