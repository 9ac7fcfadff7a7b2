# SPDX-License-Identifier: Apache-2.0
"""Finds the encoder in a set of weights: its prefix, its head, and what else is there."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitedge.checkpoints.classifier import OWN, HeadChoice, place_head
from vitedge.checkpoints.families.family import Family, Naming, State
from vitedge.checkpoints.files.unwrap import AVERAGED, WeightSet, choose
from vitedge.errors import BadRecipe

LEFT_OVER = (
    (r"(\w*_)?(criterion|criterions|loss|losses|loss_fn|loss_func)", "belongs to the loss"),
    (r"(\w*_)?(metrics?|accuracy|acc|acc\d|auroc|f1|confmat|confusion_matrix)", "belongs to a metric"),
    (r"(\w*_)?(projector|projectors|projection_head|proj_head)", "belongs to the projector of pre-training"),
    (r"(\w*_)?predictor", "belongs to the predictor of pre-training"),
    (r"(\w*_)?decoder", "belongs to the decoder of pre-training"),
    (r"(\w*_)?(dino|ibot)_head", "belongs to the projection head of pre-training"),
    (r"(\w*_)?queue(_ptr)?", "is the queue of negatives of pre-training"),
    (r"logit_scale|logit_bias", "scales the similarity of images and texts"),
    (r"text|text_(model|encoder|tower|projection)|textual", "belongs to the text encoder"),
)
"""First parts of names outside an encoder, as regular expressions, to the reason why an export does not need them."""

_CONVERTED = ("huggingface", "huggingface-siglip", "google", "cvnets", "simmim")
"""Namings whose converters place the heads themselves."""
_MOCO = ("base_encoder", "momentum_encoder")
"""Parts of names under which MoCo v3 keeps the trained encoder and the averaged one."""
ROOT = "."
"""Value of ``--weights`` for the encoder whose names have no prefix."""
_AFTER = ("norm", "fc_norm", "head", "head_dist", "pre_logits", "lm_head")
"""First parts of names that belong to the encoder even where the wrapper leaves them beside it."""


@dataclass(frozen=True)
class Selection:
    """The weights of one network, under names that a family's signature fits."""

    weights: WeightSet
    state: State
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Name in the file to the reason, for weights of anything but the network."""
    notes: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    """Name of each weight of ``state`` to the one that it has in the set."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts that the names tell: ``pretraining``, the method that has these names."""


@dataclass(frozen=True)
class _Parts:
    """The weights of a set, sorted into those of the encoder and the others."""

    prefix: str
    naming: Naming
    inside: State
    outside: Mapping[str, str]
    """Name beside the encoder, without the wrappers that both share, to the name in the file."""


def select(
    sets: Mapping[str, WeightSet],
    weights: WeightSet,
    option: str | None,
    families: Sequence[Family],
    where: str,
    *,
    features: bool = False,
) -> Selection:
    """Picks one network out of the sets of a file.

    Args:
        sets: all sets, the default one first.
        weights: the set to look into, of `find_set`.
        option: what ``--weights`` says: a set, a prefix of weight names, a head, ``.`` for the encoder whose names have
            no prefix, or None for the default.
        families: those whose signatures count.
        where: the file, for messages.
        features: whether only features are asked for, so that a head that cannot be placed is left out.

    Returns:
        The weights with the encoder's prefix taken off; unchanged where no signature fits under any prefix.

    Raises:
        BadRecipe: the option names nothing in the file, or has to choose among several networks or heads.
        WeightsMismatch: a head that cannot be placed.
    """
    wanted = None if option is None or option in sets else _inner(sets, option)
    found = prefixes(weights.state, families)
    head = wanted if wanted is not None and _is_layer(weights.state, wanted) else None
    if not found:
        if wanted is not None:
            raise BadRecipe(f"{where} has no encoder that vitedge reads under {option!r}; leave --weights out.")
        return Selection(weights, weights.state)
    prefix, notes = _prefix(found, None if head else wanted, where)
    others = [other for other in found if other != prefix]
    parts = _sorted(weights.state, prefix, found[prefix])
    alone = wanted is not None and head is None
    choice = HeadChoice(head, alone, features, prefix.rstrip(".") or ".", where)
    assembled = _assembled(weights, parts, others, choice)
    return dataclasses.replace(assembled, notes=(*notes, *assembled.notes))


def find_set(sets: Mapping[str, WeightSet], option: str | None, where: str) -> WeightSet:
    """Returns the set that ``--weights`` names, or the one that holds the prefix or layer that it names.

    Raises:
        BadRecipe: it names nothing in the file.
    """
    return _found(sets, option) or choose(sets, option, where)


def _found(sets: Mapping[str, WeightSet], option: str | None) -> WeightSet | None:
    if option is None or option in sets:
        return None
    if option == ROOT:
        return next(iter(sets.values()))
    return next((found for name, found in sets.items() if _holds(found, _within(name, option))), None)


def _inner(sets: Mapping[str, WeightSet], option: str) -> str:
    """Returns the prefix or layer within its set; empty for the root of the set."""
    return next((inner for name, found in sets.items() if _holds(found, inner := _within(name, option))), option)


def _within(name: str, option: str) -> str:
    return option.removeprefix(f"{name}.").rstrip(".")


def _holds(weights: WeightSet, inner: str) -> bool:
    return not inner or any(key.startswith(f"{inner}.") for key in weights.state)


def prefixes(state: State, families: Sequence[Family]) -> dict[str, Naming]:
    """Returns each prefix of names under which a family's whole signature fits, with the first naming that does."""
    found: dict[str, Naming] = {}
    for family in families:
        for naming in family.NAMINGS:
            if naming.is_last:
                continue
            starts = _starts(naming.signature[0], state)
            for pattern in naming.signature[1:]:
                starts = starts & _starts(pattern, state) if starts else starts
            for start in sorted(starts, key=len):
                found.setdefault(start, naming)
    outermost = _outermost(found)
    return {_deepened(start, naming, state): naming for start, naming in outermost.items()}


def _outermost(found: Mapping[str, Naming]) -> dict[str, Naming]:
    """Leaves out what fits within an encoder: the stages of one, or one whose wrapper a signature allows.

    Where a signature that allows a wrapper fits around several encoders of its own kind, those are the encoders. One of
    the same naming within the names of another is a network of its own.
    """
    kept: dict[str, Naming] = {}
    for start in sorted(found, key=len):
        within = [other for other in found if other != start and other.startswith(start)]
        if sum(found[other] is found[start] for other in within) > 1:
            continue
        outer = [other for other in kept if start.startswith(other)]
        stage = re.search(r"(^|\.)(layers|stages|blocks)\.\d+\.$", start)
        if not outer or (not stage and all(found[other] is found[start] for other in outer)):
            kept[start] = found[start]
    return kept


def _deepened(prefix: str, naming: Naming, state: State) -> str:
    """Adds ``backbone.``, which some signatures allow in front of their names, to the prefix."""
    within = naming.name not in _CONVERTED and any(name.startswith(f"{prefix}backbone.") for name in state)
    return f"{prefix}backbone." if within else prefix


def _starts(pattern: str, state: Iterable[str]) -> set[str]:
    """Returns what stands before the names that a pattern matches."""
    whole = re.compile(rf"((?:[^./]+\.)*?)(?:{pattern})")
    return {match[1] for name in state if (match := whole.fullmatch(name))}


def _is_layer(state: State, name: str) -> bool:
    return f"{name}.weight" in state and state[f"{name}.weight"].ndim == 2


def _prefix(found: Mapping[str, Naming], wanted: str | None, where: str) -> tuple[str, tuple[str, ...]]:
    """Returns the prefix that is asked for, the only one, or that of averaged weights; and a note on the choice.

    Raises:
        BadRecipe: there are several, and none is asked for or the averaged one.
    """
    named = ", ".join(start.rstrip(".") or ROOT for start in found)
    if wanted is not None:
        exact = [start for start in found if start.rstrip(".") == wanted]
        fitting = exact or [start for start in found if start.startswith(f"{wanted}.")]
        if len(fitting) == 1:
            return fitting[0], ()
        raise BadRecipe(f"{where} has no single encoder under {wanted or ROOT!r}; --weights can be {named}.")
    if len(found) == 1:
        return next(iter(found)), ()
    averaged = [start for start in found if set(start.split(".")) & set(AVERAGED)]
    if len(averaged) == 1:
        return averaged[0], ()
    trained, other = (next((start for start in found if part in start.split(".")), "") for part in _MOCO)
    if trained and other and len(found) == 2:
        return trained, (
            f"There are two encoders, as MoCo v3 writes them, and {trained.rstrip('.')} is taken, as its own "
            f"evaluation does; --weights {other.rstrip('.')} takes the averaged one.",
        )
    raise BadRecipe(f"{where} holds {len(found)} encoders, under {named}; choose one with --weights PREFIX.")


def _sorted(state: State, prefix: str, naming: Naming) -> _Parts:
    inside = {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}
    outside = {_beside(name, prefix): name for name in state if not name.startswith(prefix)}
    return _Parts(prefix, naming, inside, outside)


def _beside(name: str, prefix: str) -> str:
    """Takes the wrappers off that a name has in common with the encoder's prefix."""
    for part in prefix.split(".")[:-1]:
        if not name.startswith(f"{part}."):
            break
        name = name.removeprefix(f"{part}.")
    return name


def _assembled(weights: WeightSet, parts: _Parts, others: Sequence[str], choice: HeadChoice) -> Selection:
    state, dropped, rest = dict(parts.inside), {}, dict(parts.outside)
    names = {**parts.outside, **{name: parts.prefix + name for name in state}}
    for name in list(state):
        if reason := _reason(name, parts.naming) or _reason_projector(name, parts):
            dropped[names[name]] = reason
            del state[name]
    for name, original in parts.outside.items():
        reason = _reason_outside(name, original, weights.state, others, parts.naming)
        if choice.alone:
            reason = reason or f"lies outside {choice.encoder}, which --weights chooses"
        if reason:
            dropped[original] = reason
            del rest[name]
    for name in [name for name in rest if _is_own(name, parts.naming) and name not in state]:
        state[name] = weights.state[rest.pop(name)]
    notes: tuple[str, ...] = ()
    if parts.naming.name not in _CONVERTED:
        beside = {name: weights.state[original] for name, original in rest.items()}
        placed = place_head(state, beside, names, choice)
        state, notes = dict(placed.state), placed.notes
        dropped |= placed.dropped
        rest = {name: original for name, original in rest.items() if name not in placed.taken}
        if not any(f"{own}.weight" in state for own in (*OWN, "lm_head")):
            dropped |= dict.fromkeys(rest.values(), f"lies outside the encoder {choice.encoder}")
            rest = {}
    state |= {name: weights.state[original] for name, original in rest.items() if name not in state}
    facts = {"pretraining": "MoCo v3"} if set(parts.prefix.split(".")) & set(_MOCO) else {}
    return Selection(weights, state, dropped, notes, names, facts)


def _reason_projector(name: str, parts: _Parts) -> str | None:
    """Returns why a layer of the projector that MoCo v3 keeps under the name of the head is left out."""
    moco = set(parts.prefix.split(".")) & set(_MOCO) and "head.0.weight" in parts.inside
    return "belongs to the projector of pre-training" if moco and name.startswith("head.") else None


def _is_own(name: str, naming: Naming) -> bool:
    """Returns whether a weight beside the encoder is the family's converter's to place or to drop."""
    first = name.split(".", 1)[0]
    signed = any(re.fullmatch(pattern, name) for pattern in naming.signature)
    return signed or first in _AFTER or first.startswith("decoder_")


def _reason(name: str, naming: Naming) -> str | None:
    """Returns why a weight under the encoder's prefix is none of its own, by its first part."""
    if any(re.fullmatch(pattern, name) for pattern in naming.signature):
        return None
    first = name.split(".", 1)[0]
    return next((reason for pattern, reason in LEFT_OVER if re.fullmatch(pattern, first)), None)


def _reason_outside(name: str, original: str, state: State, others: Sequence[str], naming: Naming) -> str | None:
    other = next((other for other in others if other and original.startswith(other)), None)
    if other is not None:
        return f"belongs to the other encoder {other.rstrip('.')} (--weights chooses)"
    if reason := _reason(name, naming):
        return reason
    weight = state[original]
    if not weight.is_floating_point() and weight.ndim <= 1 and not original.endswith("num_batches_tracked"):
        return "is a whole number that counts, and no weight"
    return None
