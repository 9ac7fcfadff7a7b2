# SPDX-License-Identifier: Apache-2.0
"""Packages as other people write them: ``coremltools.convert`` on a module, without vitedge."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitedge.export.coreml.quiet import load_coremltools, quiet


def convert(
    module: nn.Module,
    size: int,
    path: Path,
    target: str = "iOS17",
    *,
    half: bool = False,
    front: str = "trace",
    single: Collection[str] = (),
) -> Path:
    """Writes a package whose values have the names that coremltools makes up.

    Args:
        module: in evaluation mode.
        size: edge of its image of three channels.
        path: folder to make.
        target: deployment target.
        half: compute in float16, which is coremltools' default.
        front: ``trace`` or ``export``, coremltools' two ways into a module.
        single: modules that a traced program keeps in float32 all the same, by coremltools' own selector.
    """
    ct = load_coremltools()
    example = torch.zeros(1, 3, size, size)
    precision: Any = ct.precision.FLOAT16 if half else ct.precision.FLOAT32
    if half and single:
        precision = ct.transform.FP16ComputePrecision(op_selector=lambda operation: _module(operation) not in single)
    options: dict[str, Any] = {"compute_precision": precision}
    with quiet(), torch.no_grad():
        if front == "trace":
            source: Any = torch.jit.trace(module, example)
            options["inputs"] = [ct.TensorType(name="x", shape=example.shape)]
        else:
            source = torch.export.export(module, (example,), strict=False).run_decompositions({})
        model = ct.convert(source, skip_model_load=True, minimum_deployment_target=ct.target[target], **options)
        model.save(str(path))
    return path


def _module(operation: Any) -> str:
    """The module that the trace says an operation came from."""
    names = next((data for source, data in operation.scopes.items() if source.name == "TORCHSCRIPT_MODULE_NAME"), [])
    return ".".join(str(name) for name in names[:-1] if name)
