# SPDX-License-Identifier: Apache-2.0
"""Finds the encoder in a set of weights: its prefix, its head, and what else is there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vitedge.checkpoints.families.family import Family, Naming, State
from vitedge.checkpoints.files.unwrap import AVERAGED, WeightSet, choose
from vitedge.errors import BadRecipe, WeightsMismatch
from vitedge.sentences import some

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

_HEAD = re.compile(
    r"(?:.+\.)?(?:fc|classifier|cls|cls_head|linear|linear_head|linear_probe|probe|classification_head|class_head|clf"
    r"|fc_out|output|out|predictions|mlp_head|head)(?:\.(?:\d+|fc|linear|layer|classifier))*"
)
"""Names under which a classifier is kept where the library calls it otherwise."""
_OWN_HEADS = ("head.weight", "head.fc.weight", "lm_head.weight")
_CONVERTED = ("huggingface", "google", "cvnets", "simmim")
"""Namings whose converters place the heads themselves."""
_LAST_NORMS = ("norm.weight", "fc_norm.weight", "final_conv.bn.weight")
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


@dataclass(frozen=True)
class _Parts:
    """The weights of a set, sorted into those of the encoder and the others."""

    prefix: str
    naming: Naming
    inside: State
    outside: Mapping[str, str]
    """Name beside the encoder, without the wrappers that both share, to the name in the file."""


def select(
    sets: Mapping[str, WeightSet], option: str | None, families: Sequence[Family], where: str, chosen: WeightSet | None
) -> Selection:
    """Picks one network out of the sets of a file.

    Args:
        sets: all sets, the default one first.
        option: what ``--weights`` says: a set, a prefix of weight names, a head, or None for the default.
        families: those whose signatures count.
        where: the file, for messages.
        chosen: the set to look into, cleaned; None looks it up by the option.

    Returns:
        The weights with the encoder's prefix taken off; unchanged where no signature fits under any prefix.

    Raises:
        BadRecipe: the option names nothing in the file, or has to choose among several networks or heads.
        WeightsMismatch: a head that cannot be placed.
    """
    weights = chosen or find_set(sets, option, where)
    wanted = None if option is None or option in sets else _inner(sets, option)
    found = prefixes(weights.state, families)
    head = wanted if wanted is not None and _is_layer(weights.state, wanted) else None
    if not found:
        if wanted is not None:
            raise BadRecipe(f"{where} has no encoder that vitedge reads under {wanted!r}; leave --weights out.")
        return Selection(weights, weights.state)
    prefix = _prefix(found, None if head else wanted, where)
    others = [other for other in found if other != prefix]
    naming = found[prefix]
    parts = _sorted(weights.state, prefix, naming)
    alone = wanted is not None and head is None
    return _assembled(weights, parts, others, _Choice(head, alone, where))


@dataclass(frozen=True)
class _Choice:
    head: str | None
    alone: bool
    where: str


def find_set(sets: Mapping[str, WeightSet], option: str | None, where: str) -> WeightSet:
    """Returns the set that ``--weights`` names, or the one that holds the prefix or layer that it names.

    Raises:
        BadRecipe: it names nothing in the file.
    """
    if option is None or option in sets:
        return choose(sets, option, where)
    for name, weights in sets.items():
        inner = option.removeprefix(f"{name}.").rstrip(".")
        if any(key.startswith(f"{inner}.") for key in weights.state):
            return weights
    return choose(sets, option, where)


def prefixes(state: State, families: Sequence[Family]) -> dict[str, Naming]:
    """Returns each prefix of names under which a family's whole signature fits, with the first naming that does."""
    found: dict[str, Naming] = {}
    for family in families:
        for naming in family.NAMINGS:
            starts = _starts(naming.signature[0], state)
            for pattern in naming.signature[1:]:
                starts = starts & _starts(pattern, state) if starts else starts
            for start in sorted(starts, key=len):
                found.setdefault(start, naming)
    outermost = _outermost(found)
    return {_deepened(start, naming, state): naming for start, naming in outermost.items()}


def _outermost(found: Mapping[str, Naming]) -> dict[str, Naming]:
    """Leaves out what fits within an encoder: the stages of one, or one whose wrapper a signature allows.

    Where a signature that allows a wrapper fits around several encoders of its own kind, those are the encoders.
    """
    kept: dict[str, Naming] = {}
    for start in sorted(found, key=len):
        within = [other for other in found if other != start and other.startswith(start)]
        if sum(found[other] is found[start] for other in within) > 1:
            continue
        if not any(start.startswith(other) for other in kept):
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


def _inner(sets: Mapping[str, WeightSet], option: str) -> str:
    for name, weights in sets.items():
        inner = option.removeprefix(f"{name}.").rstrip(".")
        if any(key.startswith(f"{inner}.") for key in weights.state):
            return inner
    return option.rstrip(".")


def _is_layer(state: State, name: str) -> bool:
    return f"{name}.weight" in state and state[f"{name}.weight"].ndim == 2


def _prefix(found: Mapping[str, Naming], wanted: str | None, where: str) -> str:
    """Returns the prefix that is asked for, the only one, or that of averaged weights.

    Raises:
        BadRecipe: there are several, and none is asked for or the averaged one.
    """
    named = ", ".join(start.rstrip(".") or "(no prefix)" for start in found)
    if wanted is not None:
        fitting = [start for start in found if start.rstrip(".") == wanted or start.startswith(f"{wanted}.")]
        if len(fitting) == 1:
            return fitting[0]
        raise BadRecipe(f"{where} has no single encoder under {wanted!r}; --weights can be {named}.")
    if len(found) == 1:
        return next(iter(found))
    averaged = [start for start in found if set(start.split(".")) & set(AVERAGED)]
    if len(averaged) == 1:
        return averaged[0]
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


def _assembled(weights: WeightSet, parts: _Parts, others: Sequence[str], choice: _Choice) -> Selection:
    state, dropped, rest = dict(parts.inside), {}, dict(parts.outside)
    for name in [name for name in state if _reason(name, parts.naming)]:
        dropped[parts.prefix + name] = str(_reason(name, parts.naming))
        del state[name]
    for name, original in parts.outside.items():
        reason = _reason_outside(name, original, weights.state, others, parts.naming)
        if choice.alone:
            reason = reason or f"lies outside {parts.prefix.rstrip('.')}, which --weights chooses"
        if reason:
            dropped[original] = reason
            del rest[name]
    for name in [name for name in rest if _is_own(name, parts.naming) and name not in state]:
        state[name] = weights.state[rest.pop(name)]
    notes: tuple[str, ...] = ()
    if parts.naming.name not in _CONVERTED and not choice.alone:
        beside = {name: weights.state[original] for name, original in rest.items()}
        state, adopted, notes = _with_head(state, beside, choice, dropped)
        rest = {name: original for name, original in rest.items() if name not in adopted}
    headed = any(name in state for name in _OWN_HEADS)
    if parts.naming.name not in _CONVERTED and not headed:
        dropped |= dict.fromkeys(rest.values(), f"lies outside the encoder {parts.prefix.rstrip('.')}")
        rest = {}
    state |= {name: weights.state[original] for name, original in rest.items() if name not in state}
    return Selection(weights, state, dropped, (*notes, *_said(dropped)))


def _is_own(name: str, naming: Naming) -> bool:
    """Returns whether a weight beside the encoder is the family's converter's to place or to drop."""
    first = name.split(".", 1)[0]
    signed = any(re.fullmatch(pattern, name) for pattern in naming.signature)
    return signed or first in _AFTER or first.startswith("decoder_")


def _said(dropped: Mapping[str, str]) -> tuple[str, ...]:
    if not dropped:
        return ()
    return (f"{len(dropped)} weights are left out, being none of the model's: {some(dropped)}.",)


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


def _with_head(
    state: State, beside: State, choice: _Choice, dropped: dict[str, str]
) -> tuple[State, set[str], tuple[str, ...]]:
    """Gives the classifier the name that the families know, where the file calls it otherwise.

    Returns:
        The weights, the names of ``beside`` that were taken, and the notes.

    Raises:
        BadRecipe: two layers could be the head.
        WeightsMismatch: a head of another width than the encoder's.
    """
    width = next((state[name].shape[0] for name in _LAST_NORMS if name in state), None)
    if width is None or any(name in state for name in _OWN_HEADS[:2]):
        return state, set(), ()
    everything = {**beside, **state}
    heads = _heads(everything)
    if choice.head is not None:
        heads = [head for head in heads if head == choice.head or choice.head.endswith(f".{head}")]
    if not heads or any(head.split(".")[0] == "head" and head.split(".")[1:2] in (["mlp"],) for head in heads):
        return state, set(), ()
    if "head.0.running_mean" in everything:  # the batch norm of MAE's linear probe, which its converter folds
        return state, set(), ()
    if len(heads) > 1:
        raise BadRecipe(
            f"{choice.where} holds {len(heads)} layers that could be the head, {' and '.join(heads)}; "
            f"choose one with --weights {heads[0]}, or the encoder alone with --weights and its prefix."
        )
    (head,) = heads
    _check_width(head, everything, int(width))
    target = "head.fc" if "final_conv.bn.weight" in state else "head"
    names = {f"{head}.{kind}": f"{target}.{kind}" for kind in ("weight", "bias") if f"{head}.{kind}" in everything}
    kept = {name: weight for name, weight in state.items() if name not in names}
    kept |= {new: everything[old] for old, new in names.items()}
    spare = [name for name in everything if name not in names and _is_other_head(name, everything)]
    for name in spare:
        kept.pop(name, None)
        dropped[name] = f"belongs to another head than {head}, which --weights chooses"
    return kept, {*names, *spare}, (f"{head} is taken for the head: it is the only layer of that kind and width.",)


def _heads(state: State) -> list[str]:
    layers = [name.removesuffix(".weight") for name in state if name.endswith(".weight") and state[name].ndim == 2]
    return [layer for layer in layers if _HEAD.fullmatch(layer) and not layer.startswith(("blocks.", "layers."))]


def _is_other_head(name: str, state: State) -> bool:
    return name.rpartition(".")[0] in _heads(state)


def _check_width(head: str, state: State, width: int) -> None:
    taken = state[f"{head}.weight"].shape[1]
    double = taken == 2 * width and head.rpartition(".")[2] == "linear_head"  # DINOv2's: class token and mean
    if taken != width and not double:
        raise WeightsMismatch(
            f"{head} takes {taken} numbers and the encoder gives {width}, so how they are joined is not known; "
            "pass the encoder alone with --weights and its prefix, or save the model with one Linear as its head."
        )
