# SPDX-License-Identifier: Apache-2.0
"""Finds the layer that is a network's classifier, where the file calls it otherwise than the families do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vitedge.checkpoints.families.family import Converted, State
from vitedge.errors import BadRecipe, WeightsMismatch

_HEAD = re.compile(
    r"(?:.+\.)?(?:fc|classifier|cls|cls_head|linear|linear_head|linear_probe|probe|classification_head|class_head|clf"
    r"|fc_out|output|out|predictions|mlp_head|head)(?:\.(?:\d+|fc|linear|layer|classifier))*"
)
"""Names under which a classifier is kept where the library calls it otherwise."""
OWN = ("head", "head.fc")
"""Names that the families give to the classifier."""
_BLOCKS = ("blocks.", "layers.", "stages.", "transformers.", "patch_embed.", "stem.", "pools.")
"""Starts of names within an encoder."""
_LAST_NORMS = ("norm.weight", "fc_norm.weight", "final_conv.bn.weight")


@dataclass(frozen=True)
class HeadChoice:
    """What is asked for: a layer, the encoder alone, or features."""

    named: str | None
    """Layer that ``--weights`` names as the head."""
    alone: bool
    """Whether ``--weights`` names the encoder, so that no layer beside it counts."""
    features: bool
    """Whether only features are asked for, so that a head which cannot be placed is left out."""
    encoder: str
    """Value of ``--weights`` for the encoder alone."""
    where: str
    """The file, for messages."""


@dataclass(frozen=True)
class Placed:
    """Weights whose classifier has the name that the families know."""

    state: State
    taken: frozenset[str] = frozenset()
    """Names beside the encoder that were taken or left out."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Name in the file to the reason, for the layers of other heads."""
    notes: tuple[str, ...] = ()


def place_head(state: State, beside: State, names: Mapping[str, str], choice: HeadChoice) -> Placed:
    """Gives the classifier the name that the families know.

    Args:
        state: weights of the encoder, without its prefix.
        beside: weights next to the encoder.
        names: each name of both to the one in the file.
        choice: what is asked for.

    Raises:
        BadRecipe: two layers could be the head.
        WeightsMismatch: a head of another width than the encoder's, or of several layers.
    """
    width = next((int(state[name].shape[0]) for name in _LAST_NORMS if name in state), None)
    everything = {**beside, **state}
    heads = _heads(everything)
    if width is None or not (heads or choice.named) or _of_training(everything, heads):
        return Placed(state)
    layers = _Layers(everything, {name: names.get(name, name) for name in everything}, heads, width)
    if choice.named is not None:
        head = layers.named(choice.named, choice.where)
        layers.check_width(head, choice.encoder)
        return _with(head, layers, state, f"{layers.title(head)} is the head, as --weights says.")
    own = next((head for head in OWN if f"{head}.weight" in state), None)
    if own is not None:
        odd = choice.features and "pre_logits.fc.weight" not in state and not layers.fits(own)
        spare = [head for head in heads if head != own] if choice.alone or choice.features else []
        return _without([own, *spare] if odd else spare, layers, state)
    if choice.alone:
        return _without(heads, layers, state)
    try:
        head = layers.only(choice)
    except (BadRecipe, WeightsMismatch):
        if choice.features:
            return _without(heads, layers, state)
        raise
    return _with(head, layers, state, f"{layers.title(head)} is taken for the head, by its name and width.")


def without_odd_head(converted: Converted) -> Converted:
    """Leaves a head out that does not take the encoder's features; for those who ask for features alone.

    Args:
        converted: weights in the families' names, whose head a converter may have placed.
    """
    state = converted.state
    width = next((int(state[name].shape[0]) for name in _LAST_NORMS if name in state), None)
    own = next((head for head in OWN if f"{head}.weight" in state), None)
    if width is None or own is None or "pre_logits.fc.weight" in state:
        return converted
    shape = state[f"{own}.weight"].shape
    if len(shape) != 2 or int(shape[1]) in (width, 2 * width):
        return converted
    gone = {name: "belongs to a head of another width: features need none" for name in state if name.startswith("head")}
    kept = {name: weight for name, weight in state.items() if name not in gone}
    return Converted(kept, {**converted.dropped, **gone}, converted.facts)


@dataclass(frozen=True)
class _Layers:
    """Layers that are called as classifiers are."""

    weights: State
    names: Mapping[str, str]
    heads: Sequence[str]
    width: int

    def title(self, head: str) -> str:
        """Returns the name of a layer in the file."""
        return self.names[f"{head}.weight"].removesuffix(".weight")

    def named(self, option: str, where: str) -> str:
        """Returns the layer of that name in the file.

        Raises:
            BadRecipe: it lies within the encoder.
        """
        found = next((name for name, title in self.names.items() if title == f"{option}.weight"), "")
        if not found or found.startswith(_BLOCKS):
            raise BadRecipe(f"{where}: {option} is no head, because it lies within the encoder; leave --weights out.")
        return found.removesuffix(".weight")

    def takes(self, head: str) -> int:
        return int(self.weights[f"{head}.weight"].shape[1])

    def fits(self, head: str) -> bool:
        """Returns whether a layer takes the encoder's features; DINOv2's takes the class token and the mean."""
        double = head in OWN or head.rpartition(".")[2] == "linear_head"
        return self.takes(head) == self.width or (double and self.takes(head) == 2 * self.width)

    def check_width(self, head: str, encoder: str) -> None:
        if self.fits(head):
            return
        joined = f"and the encoder gives {self.width}, so how they are joined is not known"
        instead = "save the model with one Linear as its head"
        if head.rpartition(".")[2] == "linear_head" and self.takes(head) == 5 * self.width:
            joined = (
                "(the class tokens of the last four blocks and the mean of the patches, as DINOv2's larger head does), "
                "and vitedge builds the head on the last block alone"
            )
            instead = "load DINOv2's classifier with layers=1"
        raise WeightsMismatch(
            f"{self.title(head)} takes {self.takes(head)} numbers {joined}; take the encoder alone with "
            f"--weights {encoder}, or {instead}."
        )

    def only(self, choice: HeadChoice) -> str:
        """Returns the one layer that can be the head."""
        fitting = [head for head in self.heads if self.fits(head)]
        if not fitting:
            self.check_width(self.heads[0], choice.encoder)
        if len(fitting) > 1:
            titles = [self.title(head) for head in fitting]
            raise BadRecipe(
                f"{choice.where} holds {len(fitting)} layers that could be the head, {' and '.join(titles)}; "
                f"choose one with --weights {titles[0]}, or the encoder alone with --weights {choice.encoder}."
            )
        (head,) = fitting
        after = next((other for other in self.heads if other != head and self._follows(other, head)), None)
        if after is not None:
            raise WeightsMismatch(
                f"{self.title(head)} and {self.title(after)} form a head of several layers, which vitedge does not "
                f"read; take the encoder alone with --weights {choice.encoder}."
            )
        return head

    def _follows(self, other: str, head: str) -> bool:
        """Returns whether another layer may take what the head puts out, or is a part of the same sequence."""
        sequence = head.rpartition(".")[0]
        within = bool(sequence) and re.fullmatch(r"\d+", head.rpartition(".")[2]) is not None
        beside = within and other.startswith(f"{sequence}.")
        return beside or self.takes(other) == int(self.weights[f"{head}.weight"].shape[0])


def _heads(state: State) -> list[str]:
    layers = [name.removesuffix(".weight") for name in state if name.endswith(".weight") and state[name].ndim == 2]
    return [layer for layer in layers if _HEAD.fullmatch(layer) and not layer.startswith(_BLOCKS)]


def _of_training(state: State, heads: Sequence[str]) -> bool:
    """Returns whether a converter places the heads: DINO's projection, or MAE's linear probe with its batch norm."""
    return "head.0.running_mean" in state or any(head.split(".")[:2] == ["head", "mlp"] for head in heads)


def _with(head: str, layers: _Layers, state: State, note: str) -> Placed:
    target = "head.fc" if "final_conv.bn.weight" in state else "head"
    others = _without([other for other in layers.heads if other != head], layers, state, head)
    moved = {f"{head}.{kind}": f"{target}.{kind}" for kind in ("weight", "bias") if f"{head}.{kind}" in layers.weights}
    kept = {name: weight for name, weight in others.state.items() if name not in moved}
    kept |= {new: layers.weights[old] for old, new in moved.items()}
    notes = () if head == target else (note,)
    return Placed(kept, others.taken | set(moved), others.dropped, notes)


def _without(heads: Sequence[str], layers: _Layers, state: State, taken: str = "") -> Placed:
    """Leaves heads out, with what else their sequences hold, but for a head that is taken."""
    why = f"{layers.title(taken)} is it" if taken else "features need none"
    keep = {f"{taken}.weight", f"{taken}.bias"}
    starts = tuple(re.sub(r"(\.\d+)+$", "", head) + "." for head in heads)
    gone = frozenset(name for name in layers.weights if heads and name.startswith(starts) and name not in keep)
    dropped = {layers.names[name]: f"belongs to a head that is not taken: {why}" for name in gone}
    return Placed({name: weight for name, weight in state.items() if name not in gone}, gone, dropped)
