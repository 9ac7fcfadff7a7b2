# SPDX-License-Identifier: Apache-2.0
"""Packages as other people write them: ``coremltools.convert`` on a module, without vitedge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from vitedge.export.coreml_quiet import load_coremltools, quiet


def convert(
    module: nn.Module,
    shape: tuple[int, ...],
    path: Path,
    target: str = "iOS17",
    *,
    half: bool = False,
    front: str = "trace",
) -> Path:
    """Writes a package with the input ``image`` and the output ``logits``, float32 both.

    Args:
        module: in evaluation mode.
        shape: of the image.
        path: folder to make.
        target: deployment target.
        half: compute in float16, which is coremltools' default.
        front: ``trace`` or ``export``, coremltools' two ways into a module.
    """
    ct = load_coremltools()
    example = torch.zeros(shape)
    with torch.no_grad(), quiet():
        source = (
            torch.jit.trace(module, example)
            if front == "trace"
            else torch.export.export(module, (example,), strict=False).run_decompositions({})
        )
        model = ct.convert(
            source,
            inputs=[ct.TensorType(name="image", shape=shape, dtype=np.float32)],
            outputs=[ct.TensorType(name="logits", dtype=np.float32)],
            convert_to="mlprogram",
            minimum_deployment_target=ct.target[target],
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(path))
    return path
