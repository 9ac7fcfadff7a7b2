# SPDX-License-Identifier: Apache-2.0
"""The records of an engine: how it was built, and what its kernels compute. Field names are keys of manifests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EngineLayer:
    """One kernel, or one fused group of operators, of a built engine."""

    name: str
    """Name in the builder's log or in the engine inspector."""
    kind: str
    """The builder's own type, such as ``gemm``, ``correlation`` or ``kgen``."""
    inputs: tuple[str, ...]
    """Element types of the activations that it reads: ``int8``, ``fp16``, ``fp32``, …, in lower case."""
    constants: tuple[str, ...]
    """Element types of the weights that it reads; scalars are left out."""
    outputs: tuple[str, ...]
    """Element types of its outputs."""
    nodes: tuple[str, ...]
    """Names of the ONNX nodes that it computes."""


@dataclass(frozen=True)
class EngineProduct:
    """A product of an ONNX file, or an attention of it, and the arithmetic in which an engine computes it."""

    node: str
    """Name of the ONNX node: a MatMul, Gemm or Conv; of an attention, its Softmax."""
    module: str
    """The module of the reference that it belongs to; empty where that is not known."""
    asked: str
    """Element type that the file asks for: ``int8``, ``fp16`` or ``fp32``."""
    found: str
    """Element type in which its kernel multiplies; of an attention, that of its fused kernel. Empty where the kernels
    list none for it."""
    macs: int = 0
    """Multiply-accumulates of one inference, with every dynamic side as 1; of an attention, of its two products."""
    stored_weights: str = ""
    """Element type of weights that the file stores narrower than ``asked``, to be dequantized: ``int8`` or ``int4``."""
    read_weights: str = ""
    """Element type in which the kernel reads such weights: that of ``found`` where another kernel dequantizes them
    first, at every inference."""
    expected: bool = True
    """Whether such a kernel can be expected; False for an attention whose heads are too narrow, too wide or odd, or
    that has one head of one image."""


@dataclass(frozen=True)
class EngineRecord:
    """A built engine: how it was built, and what it computes."""

    builder: str
    """``tensorrt-rtx`` or ``tensorrt``."""
    version: str
    """Of the builder, to the last part; another version does not read the engine."""
    targets: tuple[str, ...]
    """Compute capabilities that it runs on, such as ``SM86``; ``CURRENT`` is the GPU of the machine that built it."""
    shapes: Mapping[str, tuple[tuple[int, ...], ...]]
    """Name of an input to its smallest, usual and largest shape; one shape where it is fixed."""
    options: Mapping[str, Any]
    """What the builder was told beside that."""
    onnx_sha256: str
    """SHA-256 of the ONNX file that it was built from."""
    seconds: float
    """Wall time of the build."""
    layers: tuple[EngineLayer, ...] | None
    """Its kernels in the order of execution; None where the builder did not tell."""
    products: tuple[EngineProduct, ...] = ()
    """Every product of the ONNX file; empty where the kernels are not known."""
    attentions: tuple[EngineProduct, ...] = ()
    """Every attention of the ONNX file; empty likewise."""
