# SPDX-License-Identifier: Apache-2.0
"""The functions `vitedge.inspect` and `vitedge.load`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitedge.api.settings import facts, size
from vitedge.api.sources import as_source
from vitedge.checkpoints.read import read
from vitedge.models.reference import Reference, load_reference
from vitedge.records import Preprocessing
from vitedge.verbs.inspect import inspect as run
from vitedge.verbs.records import Inspection

if TYPE_CHECKING:
    from vitedge.api.sources import Model


def inspect(
    source: Model,
    *,
    weights: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    labels: Sequence[str] | Mapping[Any, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
) -> Inspection:
    """Finds out what a model is, what it costs to run, and that its weights fit. Nothing of a file is executed.

    Args:
        source: a file, a Hugging Face folder, ``timm:NAME`` or ``hf:NAME``; or a module in memory, a state dict, or
            what `load` returned.
        weights: name of a set of weights, where the file holds several; None takes the averaged one.
        overrides: fields of `ModelSpec` or `Preprocessing` to the values that they really have, such as
            ``{"heads": (3,)}``.
        labels: names of the classes, in their order or by their number.
        preprocessing: how images are prepared: a record, or a mapping of some of its fields.

    Returns:
        The model's spec with the origin of every fact, and its cost.

    Raises:
        UserError: it cannot be read, is of no known family, or does not fit its family.

    Example:
        >>> found = vitedge.inspect("mystery.pth")
        >>> found.spec.variant, found.spec.image_size, found.cost.parameters
        ('custom ViT (width 64, depth 4, heads 2)/8', (32, 32), 148170)
    """
    stated = facts(overrides, labels, preprocessing)
    return run(as_source(source, stated, weights), weights=weights, overrides=stated)


def load(
    source: Model,
    *,
    image_size: int | tuple[int, int] | None = None,
    weights: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    labels: Sequence[str] | Mapping[Any, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
) -> Reference:
    """Builds the PyTorch model of a checkpoint, with the checkpoint's own weights.

    Args:
        source: a file, a Hugging Face folder, ``timm:NAME`` or ``hf:NAME``; or a module in memory or a state dict,
            whose weights are copied.
        image_size: height and width in pixels, one number for both; None is the checkpoint's own size.
        weights: name of a set of weights, where the file holds several; None takes the averaged one.
        overrides: fields of `ModelSpec` or `Preprocessing` to the values that they really have.
        labels: names of the classes, in their order or by their number.
        preprocessing: how images are prepared: a record, or a mapping of some of its fields.

    Returns:
        The ``nn.Module`` (float32, in evaluation mode) with its spec; every other verb takes it.

    Raises:
        UserError: it cannot be read, is of no known family, or does not fit its family.
        ImpossibleSize: the family cannot be rebuilt at that image size; the message names sizes that can.

    Example:
        >>> reference = vitedge.load("mystery.pth", image_size=48)
        >>> type(reference.module).__name__, reference.spec.image_size
        ('VisionTransformer', (48, 48))
    """
    stated = facts(overrides, labels, preprocessing)
    model = as_source(source, stated, weights)
    checkpoint = read(model, weights=weights, overrides=stated)
    if not isinstance(model, str):  # what is done to the module later is not done to what was loaded
        checkpoint = replace(checkpoint, state={name: tensor.clone() for name, tensor in checkpoint.state.items()})
    return load_reference(checkpoint, size(image_size))
