# SPDX-License-Identifier: Apache-2.0
"""Weights that vitedge itself wrote: a safetensors file in timm's names, whose metadata hold the spec.

Nothing has to be found out about such a file, and nothing beside it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save as as_bytes

from vitedge.checkpoints.families.family import State
from vitedge.errors import BadRecipe, UnreadableCheckpoint
from vitedge.files.plain import from_dict, to_dict
from vitedge.records import ModelSpec, Preprocessing, Step

SUFFIX = ".safetensors"
KEY = "vitedge"
"""Key of the metadata; its value is a `Saved` as JSON."""
FORMAT = 1
SET = "model"
"""Name of the only set of weights."""
SETTABLE = (*Preprocessing.__dataclass_fields__, "labels")
"""Facts that a user can still correct: the weights do not depend on them."""


@dataclass(frozen=True)
class Saved:
    """What the metadata of a file say."""

    spec: ModelSpec
    steps: tuple[Step, ...] = ()
    """What was done to the weights, oldest first."""
    format_version: int = FORMAT


def save(path: Path, state: State, spec: ModelSpec, steps: tuple[Step, ...]) -> None:
    """Writes weights with everything that is needed to build their model.

    Args:
        path: the file to write.
        state: weights in timm's names, float32.
        spec: the model.
        steps: what was done to them, oldest first.

    Raises:
        OSError: it cannot be written, or the disk is full.
    """
    content = json.dumps(to_dict(Saved(spec, steps)), ensure_ascii=False, allow_nan=False)
    # Not by `save_file`: it leaves a temporary file of its own where it is killed, and has errors of its own.
    path.write_bytes(as_bytes({name: tensor.contiguous() for name, tensor in state.items()}, {KEY: content}))


def described(metadata: Mapping[str, str], source: str) -> Saved | None:
    """Returns what the metadata of a safetensors file say, or None where vitedge did not write it.

    Raises:
        UnreadableCheckpoint: they are damaged, or of a newer vitedge.
    """
    if KEY not in metadata:
        return None
    try:
        content = json.loads(metadata[KEY])
        if not isinstance(content, dict):
            raise BadRecipe("no object")
        version = content.get("format_version")
        if isinstance(version, int) and version > FORMAT:
            raise UnreadableCheckpoint(
                f"{source} has format {version} of vitedge's weights, and this vitedge reads up to {FORMAT}: "
                "pip install -U vitedge."
            )
        return from_dict(Saved, content)
    except (ValueError, RecursionError, BadRecipe) as error:
        raise UnreadableCheckpoint(
            f"{source}: the description that vitedge wrote into its metadata is damaged ({error}); prune again from "
            "the original checkpoint."
        ) from error
