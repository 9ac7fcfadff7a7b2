# SPDX-License-Identifier: Apache-2.0
"""What Python code has for a model, as a source that the verbs take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from vitedge.errors import BadRecipe

if TYPE_CHECKING:
    from torch import nn

    from vitedge.checkpoints.read import CheckpointSource
    from vitedge.models.reference import Reference

    Model: TypeAlias = "str | os.PathLike[str] | nn.Module | Mapping[str, Any] | Reference"
    """A path or a name on the hub, a module in memory, a state dict, or what `vitedge.load` returned."""


def as_source(model: Model, overrides: Mapping[str, Any] | None = None, weights: str | None = None) -> CheckpointSource:
    """Returns the source of a verb: a path as text, or the weights in memory.

    Args:
        model: what a user names or holds.
        overrides: facts that the user states, for a module, which is compared with what they say.
        weights: which set of weights, where there are several.

    Raises:
        BadRecipe: it is neither, or a class in the place of a module.
        UserError: a module of no architecture that vitedge reads, or that computes something else than that.
    """
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    if isinstance(model, type) or not (isinstance(model, Mapping) or hasattr(model, "state_dict") or _loaded(model)):
        what = f"the class {model.__name__}: give a module of it" if isinstance(model, type) else type(model).__name__
        raise BadRecipe(
            f"A model is a path, a module in memory, a state dict, or what vitedge.load returned; got {what}."
        )
    from vitedge.verbs.in_memory import in_memory  # noqa: PLC0415  (PyTorch, which artifacts do without)

    return in_memory(model, overrides, weights)


def as_sources(models: Model | Sequence[Model], overrides: Mapping[str, Any] | None = None) -> list[CheckpointSource]:
    """Returns the sources of one or several subjects; two modules of one class are told apart by their number."""
    several = models if isinstance(models, Sequence) and not isinstance(models, str) else [models]
    found: list[CheckpointSource] = []
    for model in several:
        source = as_source(model, overrides)
        same = sum(str(one).startswith(str(source)) for one in found)
        found.append(source if isinstance(source, str) or not same else replace(source, label=f"{source} ({same + 1})"))
    return found


def _loaded(model: object) -> bool:
    return hasattr(model, "module") and hasattr(model, "spec")
