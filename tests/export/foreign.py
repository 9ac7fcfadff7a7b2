# SPDX-License-Identifier: Apache-2.0
"""Packages as other people write them: ``coremltools.convert`` on a module, without vitedge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitedge.export.coreml_quiet import load_coremltools, quiet


def convert(
    module: nn.Module, size: int, path: Path, target: str = "iOS17", *, half: bool = False, front: str = "trace"
) -> Path:
    """Writes a package whose values have the names that coremltools makes up.

    Args:
        module: in evaluation mode.
        size: edge of its image of three channels.
        path: folder to make.
        target: deployment target.
        half: compute in float16, which is coremltools' default.
        front: ``trace`` or ``export``, coremltools' two ways into a module.
    """
    ct = load_coremltools()
    example = torch.zeros(1, 3, size, size)
    options: dict[str, Any] = {"compute_precision": ct.precision.FLOAT16 if half else ct.precision.FLOAT32}
    with quiet(), torch.no_grad():
        if front == "trace":
            source: Any = torch.jit.trace(module, example)
            options["inputs"] = [ct.TensorType(name="x", shape=example.shape)]
        else:
            source = torch.export.export(module, (example,), strict=False).run_decompositions({})
        model = ct.convert(source, skip_model_load=True, minimum_deployment_target=ct.target[target], **options)
        model.save(str(path))
    return path
