# SPDX-License-Identifier: Apache-2.0
"""Signatures of timm's models: digests of the names and shapes of their weights, and the index of them.

``benchmarks/timm_index.py`` writes the index from timm itself; nothing here imports timm.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vitedge.checkpoints.families.family import State

INDEX = Path(__file__).with_name("index.json.gz")

Shapes = Mapping[str, tuple[int, ...]]

HEAD = re.compile(r"(head|head_dist|fc|classifier|last_linear|logits)\..+")
"""Weights of what follows the body."""
_SIZED = re.compile(
    r".*(pos_embed|relative_position|relative_coords|rel_pos|attention_bias|attn_mask|position_bias|pos_emb)[^/]*"
)
"""Weights whose shape depends on the image size, or on the window that follows from it."""
_MOST_CHANNELS = 16
"""Input channels of a convolution up to which it may be the first, whose number is that of the image."""


@dataclass(frozen=True)
class Signature:
    """Digests of the names and shapes of a model's weights."""

    whole: str
    """All weights, with the number of classes, of image channels, and shapes that follow the image size left open."""
    body: str
    """The same without the classifier."""
    sized: str
    """The shapes that ``whole`` leaves open because of the image size."""


@dataclass(frozen=True)
class Known:
    """A model of timm."""

    name: str
    signature: Signature
    function: str
    """Digest of the settings of all its modules: models of one signature and two functions compute different logits."""
    by_family: bool
    """Whether vitedge's own families build the same modules from weights of this signature."""
    input_size: tuple[int, int, int]
    """Channels, height, width."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop: float
    pool: str
    """The ``global_pool`` that it has without an argument; empty where it has none."""
    width: int
    """Channels of the features that the classifier takes."""
    first: tuple[str, ...]
    """Names of the first convolutions, whose second axis is the channels of the image."""
    classifier: tuple[str, ...]
    """Names of the modules whose rows are the classes."""


def shapes_of(state: State) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of weights by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def signature(shapes: Shapes) -> Signature:
    """Returns the signature of weights; batch norms' counters have no part in it."""
    named = {name: shape for name, shape in sorted(shapes.items()) if not name.endswith("num_batches_tracked")}
    return Signature(
        whole=_digest(_opened(name, shape) for name, shape in named.items()),
        body=_digest(_opened(name, shape) for name, shape in named.items() if not HEAD.fullmatch(name)),
        sized=_digest((name, shape) for name, shape in named.items() if _SIZED.fullmatch(name)),
    )


def lookup(shapes: Shapes) -> tuple[Known, ...]:
    """Returns the models of timm with this signature, those of the same image size first; a head may be missing."""
    asked = signature(shapes)
    entries = index().values()
    found = [known for known in entries if known.signature.whole == asked.whole]
    if not found or asked.whole == asked.body:  # the head may have been taken off
        found = [known for known in entries if known.signature.body == asked.body]
    return tuple(sorted(found, key=lambda known: known.signature.sized != asked.sized))


@cache
def index() -> dict[str, Known]:
    """Returns the index, by name."""
    return {entry["name"]: _known(entry) for entry in _content()["models"]}


@cache
def timm_version() -> str:
    """Returns the version of timm that the index was made with."""
    return str(_content()["timm"])


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(gzip.decompress(INDEX.read_bytes()))
    return content


def _known(entry: Mapping[str, Any]) -> Known:
    lists = {name: tuple(entry[name]) for name in ("input_size", "mean", "std", "first", "classifier")}
    return Known(**{**entry, **lists, "signature": Signature(*entry["signature"])})


def _opened(name: str, shape: tuple[int, ...]) -> tuple[str, object]:
    if _SIZED.fullmatch(name):
        return name, len(shape)
    if HEAD.fullmatch(name):
        return name, shape[1:]
    if len(shape) == 4 and shape[1] <= _MOST_CHANNELS:
        return name, (shape[0], 0, *shape[2:])
    return name, shape


def _digest(entries: Iterable[object]) -> str:
    return hashlib.sha256(repr(list(entries)).encode()).hexdigest()[:16]
