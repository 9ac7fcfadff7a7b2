# SPDX-License-Identifier: Apache-2.0
"""The quantized programs of tiny models as ONNX files, and what ONNX Runtime makes of them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto

from tests.export.quantized_programs import quantized
from vitedge.export.to_onnx import lower
from vitedge.recipe import ResolvedRecipe


def written(name: str, scheme: str = "uint8", batch: int | str = 1) -> tuple[bytes, dict[str, str]]:
    """The file, and which of its values are which block's; written once."""
    return _written(name, scheme, batch)


@cache
def _written(name: str, scheme: str, batch: int | str) -> tuple[bytes, dict[str, str]]:
    opset = 17 if scheme == "int8" else None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.onnx"
        artifact = lower(quantized(name, scheme, batch), ResolvedRecipe(batch=batch, opset=opset), out)
        return out.read_bytes(), dict(artifact.blocks)


def run(content: bytes, images: torch.Tensor, *, at_once: bool = False) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    parts = [images] if at_once else images.split(1)
    return np.concatenate([session.run(None, {"image": part.numpy()})[0] for part in parts])


def optimized(content: bytes, folder: Path) -> ModelProto:
    """Returns the graph that ONNX Runtime optimizes a file to."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


def kinds(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]
