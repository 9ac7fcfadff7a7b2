# SPDX-License-Identifier: Apache-2.0
"""Finding the family whose signature a checkpoint carries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vitedge.checkpoints.families.family import Converted, Family, Hints, Naming, State
from vitedge.checkpoints.files.unwrap import spellings
from vitedge.errors import UnknownArchitecture
from vitedge.sentences import some

Relatives = tuple[tuple[tuple[str, ...], str], ...]
"""Regular expressions that each have to be found in a name, to what such a network is."""

LOOKALIKES: Relatives = (
    (
        (r"image_encoder\.", r"mask_decoder\."),
        "it is Segment Anything (SAM), whose encoder has windows and relative positions",
    ),
    ((r"attn\.rel_pos_[hw]$",), "it is a ViT of SAM or ViTDet, with windows and relative positions"),
    ((r"attn\.gating_param$",), "it is ConViT, whose attention is gated by positions"),
)
"""Networks that carry the whole signature of a family and are none of its members."""

RELATIVES: Relatives = (
    ((r"roi_heads\.|rpn\.",), "it is a detector (Faster or Mask R-CNN); pass the weights of its backbone alone"),
    ((r"transformer\.(encoder|decoder)\.layers\.", r"class_embed|query_embed"), "it is a detector like DETR"),
    ((r"layers\.\d+\.multihead_attn\.",), "it holds PyTorch's nn.TransformerDecoder, which reads another network's"),
    ((r"token_embedding\.weight|text_model\.embeddings|embeddings\.word_embeddings",), "it is a text encoder"),
    ((r"(^|\.)layer\d\.\d+\.conv1\.weight", r"(^|\.)bn1\."), "it is a ResNet, and no transformer"),
    ((r"dwconv\.weight|conv_dw\.weight", r"grn\.|\.gamma$", r"(downsample_layers|stages)\."), "it is a ConvNeXt"),
    ((r"decoder_embed\.weight|decoder_blocks\.\d+\.",), "it is the decoder of a masked autoencoder, without encoder"),
)
"""Networks of no family, in the order in which they are looked for."""

_DINO_WIDTHS = (384, 768, 1024, 1536)
"""Widths of DINOv2's encoders."""
_MOST = 0.5
"""Share of a signature from which on its family may be called the nearest."""


class Identified(NamedTuple):
    """A family and naming whose signature fits, and the weights in timm's names."""

    family: Family
    naming: Naming
    converted: Converted


def identify(state: State, hints: Hints, families: Sequence[Family], where: str = "The checkpoint") -> Identified:
    """Finds the first naming whose signature fits, and converts the weights.

    The names are tried as they are before a wrapper's prefix is taken off, because some namings need theirs.

    Args:
        state: weights under the names of the file.
        hints: passed on to the converter.
        families: tried in order, the most specific first.
        where: the file, for messages.

    Raises:
        UnknownArchitecture: no signature fits; the message names the nearest and what does not fit.
        WeightsMismatch: from the converter.
    """
    tried = list(spellings(state))
    for spelling in tried:
        for family, naming in _namings(families):
            if not naming.is_last and not naming.missing(spelling):
                return Identified(family, naming, naming.convert(spelling, hints))
    relative = relative_of(tried[-1]) or _lone_layer(state)
    if relative:
        raise UnknownArchitecture(f"{where} is of no architecture that vitedge reads: {relative}.")
    for family, naming in _namings(families):
        if naming.is_last and not naming.missing(tried[-1]):
            return Identified(family, naming, naming.convert(tried[-1], hints))
    raise UnknownArchitecture(f"{where} is of no architecture that vitedge reads: {_nearest(tried, families)}")


def refuse_lookalikes(state: State, where: str) -> None:
    """Refuses networks that only look like a family's, under the names of the whole file.

    Raises:
        UnknownArchitecture: with what it is.
    """
    if found := relative_of(state, LOOKALIKES):
        raise UnknownArchitecture(f"{where} is of no architecture that vitedge reads: {found}.")


def relative_of(state: State, relatives: Relatives = RELATIVES) -> str | None:
    """Returns what network the names of weights tell, of those that vitedge does not read; None if they tell none."""
    for patterns, what in relatives:
        if all(any(re.search(pattern, name) for name in state) for pattern in patterns):
            return what
    return None


def _lone_layer(state: State) -> str | None:
    """Returns what a file is that holds a linear layer and nothing else, as DINOv2's hub has its heads."""
    weight = state.get("weight")
    if weight is None or weight.ndim != 2 or not set(state) <= {"weight", "bias"}:
        return None
    classes, taken = weight.shape
    is_of_blocks = taken in (5 * width for width in _DINO_WIDTHS)
    return f"it is a linear layer alone, which makes {classes} numbers of {taken}, " + (
        "as DINOv2's hub has a linear_head over the last four blocks, which vitedge does not read; export the encoder "
        "with --features"
        if is_of_blocks
        else "such as the linear_head of DINOv2's hub; save it with its encoder in one file, under the name linear_head"
    )


def _namings(families: Sequence[Family]) -> Iterable[tuple[Family, Naming]]:
    return ((family, naming) for family in families for naming in family.NAMINGS)


def _nearest(tried: Sequence[State], families: Sequence[Family]) -> str:
    scored = [
        (_score(naming, spelling), order, family, naming, spelling)
        for order, (family, naming) in enumerate(_namings(families))
        if not naming.is_last
        for spelling in tried
    ]
    score, _, family, naming, spelling = max(scored, key=lambda entry: (entry[0], -entry[1]))
    if score[0] < _MOST:
        return f"no family's weights have these names; the file has {some(tried[0])}."
    lacking = [_readable(pattern) for pattern in naming.missing(spelling)]
    return (
        f"the nearest is {family.TITLE} ({naming.name} naming), but no weight is called {' or '.join(lacking[:2])}; "
        f"the file has {some(spelling)}."
    )


def _score(naming: Naming, state: State) -> tuple[float, float]:
    """Returns the share of the signature that matches, and the share of its words that occur in any name."""
    matched = 1 - len(naming.missing(state)) / len(naming.signature)
    words = {word for pattern in naming.signature for word in re.findall(r"[a-z]{3,}", pattern)}
    known = {word for name in state for word in re.findall(r"[a-z]{3,}", name)}
    return matched, len(words & known) / max(len(words), 1)


def _readable(pattern: str) -> str:
    text = re.sub(r"\\d\+?", "0", pattern)
    text = re.sub(r"\([^()]*\)\?", "", text)
    return re.sub(r"\\(.)", r"\1", text)
