# SPDX-License-Identifier: Apache-2.0
"""Capturing: one module becomes one ``torch.export`` program whose names are those of the reference."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from vitedge.program.interpolation import write_as_products
from vitedge.program.program import Program
from vitedge.records import ModelSpec, TensorSpec

INPUT_NAME = "image"
LOGITS = ("logits",)
FEATURES = ("tokens", "pooled")
BATCH_AXIS = "batch"
"""Name of the dynamic axis."""

_DTYPES = {"float32": torch.float32, "uint8": torch.uint8}


def capture(
    module: nn.Module,
    spec: ModelSpec,
    blocks: tuple[str, ...],
    *,
    batch: int | str = 1,
    dtype: str = "float32",
    features: bool = False,
) -> Program:
    """Captures what a module computes for one image tensor.

    Args:
        module: the reference, or a wrapper that holds it as a submodule; in evaluation mode. It takes one tensor
            ``(batch, channels, height, width)`` and returns the logits, or with ``features`` the tokens and the pooled
            features. It is not altered, and its tensors are shared with the program, not copied.
        spec: gives channels and image size, and travels with the program.
        blocks: module names of the reference; they also tell the wrapper from the reference.
        batch: a fixed batch size, or ``dynamic`` for an axis named ``batch`` that allows 1 and more.
        dtype: element type of the input, ``float32`` or ``uint8``.
        features: whether the module returns tokens and pooled features instead of logits.
    """
    dynamic = batch == "dynamic"
    # An example of 1 would let the tracer specialize the axis; 2 leaves it free down to its declared minimum.
    size = 2 if isinstance(batch, str) else batch
    example = torch.zeros((size, spec.in_channels, *spec.image_size), dtype=_DTYPES[dtype])
    axes = ({0: Dim(BATCH_AXIS, min=1)},) if dynamic else None
    with torch.no_grad(), _third_party_notices_ignored():
        exported = torch.export.export(module, (example,), dynamic_shapes=axes, strict=False)
    _strip_prefix(exported, _reference_prefix(module, blocks))
    write_as_products(exported)
    axis = BATCH_AXIS if dynamic else size
    image = TensorSpec(INPUT_NAME, (axis, *example.shape[1:]), dtype)
    outputs = _output_specs(exported, FEATURES if features else LOGITS, axis)
    return Program(exported, spec, (image,), outputs, blocks)


@contextmanager
def _third_party_notices_ignored() -> Iterator[None]:
    """Ignores warnings: tracing touches deprecated parts of PyTorch and timm, which are no concern of the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _output_specs(exported: ExportedProgram, names: tuple[str, ...], axis: int | str) -> tuple[TensorSpec, ...]:
    (node,) = (node for node in exported.graph.nodes if node.op == "output")
    values = [argument.meta["val"] for argument in node.args[0]]
    return tuple(
        TensorSpec(name, (axis, *(int(edge) for edge in value.shape[1:])), str(value.dtype).removeprefix("torch."))
        for name, value in zip(names, values, strict=True)
    )


def _reference_prefix(module: nn.Module, blocks: tuple[str, ...]) -> str:
    """Returns the path of the reference inside its wrapper, with a trailing dot; empty without a wrapper."""
    modules = {name for name, _ in module.named_modules()}
    for name in sorted(modules, key=len):
        prefix = f"{name}." if name else ""
        if all(prefix + block in modules for block in blocks):
            return prefix
    raise ValueError(f"no part of the module has all of the blocks {', '.join(blocks)}")


def _strip_prefix(exported: ExportedProgram, prefix: str) -> None:
    """Removes the wrapper's prefix from every name that a lowering reads."""
    if not prefix:
        return
    for store in (exported.state_dict, exported.constants):
        for name in [name for name in store if name.startswith(prefix)]:
            store[name.removeprefix(prefix)] = store.pop(name)
    for spec in exported.graph_signature.input_specs:
        if spec.target is not None:
            spec.target = spec.target.removeprefix(prefix)
    root = prefix.removesuffix(".")
    for node in exported.graph.nodes:
        stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack", {})
        node.meta["nn_module_stack"] = {
            key: ("" if path == root else path.removeprefix(prefix), kind) for key, (path, kind) in stack.items()
        }
