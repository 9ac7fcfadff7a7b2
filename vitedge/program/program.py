# SPDX-License-Identifier: Apache-2.0
"""The captured program, from which every lowering starts."""

from __future__ import annotations

from dataclasses import dataclass

from torch.export import ExportedProgram

from vitedge.records import ModelSpec, TensorSpec


@dataclass(frozen=True)
class Program:
    """One ``torch.export`` program of the reference, with its interface and the names of its blocks."""

    exported: ExportedProgram
    """Not decomposed; its parameters are the reference's own tensors."""
    spec: ModelSpec
    inputs: tuple[TensorSpec, ...]
    """One entry: ``image``, ``(batch, channels, height, width)``, ``float32`` normalized or ``uint8`` RGB."""
    outputs: tuple[TensorSpec, ...]
    """``logits``, or ``tokens`` and ``pooled``."""
    blocks: tuple[str, ...]
    """Module names of the reference at which artifacts are compared, in order of execution."""
