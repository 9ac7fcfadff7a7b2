# SPDX-License-Identifier: Apache-2.0
"""What was asked for, as one frozen record that goes into the pruned file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitedge.errors import BadRecipe
from vitedge.recipe import Setting, check_finite, check_image_count, check_image_size, check_whole, named_setting

CALIBRATION_COUNT = 256
"""Images that units are ranked and weights are refitted on, unless told otherwise."""
TWO_OF_FOUR = "2:4"
"""Pattern of which each four weights of a row, one after the other, hold two zeros."""


_MULTIPLE = 8
_RUNTIME = "onnxruntime"


class Criterion(Setting):
    """How heads and units are ranked."""

    ACTIVATION = "activation"
    """By the part of the layer's output that the others cannot replace, measured on the calibration images."""
    TAYLOR = "taylor"
    """By the first-order change of the outputs when they become zero (after Molchanov et al., 2019, equation 8)."""
    MAGNITUDE = "magnitude"
    """By the norm of the weights that use them."""


class Selection(Setting):
    """How the weights are selected that become zero in a sparse layer."""

    SPARSEGPT = "sparsegpt"
    """By the error that the update of the others leaves (Frantar and Alistarh, 2023)."""
    WANDA = "wanda"
    """By magnitude times norm of the activation (Sun et al., 2023); the others stay."""
    MAGNITUDE = "magnitude"
    """By magnitude; the others stay."""


@dataclass(frozen=True)
class PruningRecipe:
    """Everything that decides what pruning leaves. Every fraction is the one that is kept."""

    heads: float | None = None
    """Fraction of the heads of attention that stays, over all blocks as ``criterion`` ranks them."""
    mlp: float | None = None
    """Fraction of the hidden units of MLPs, and of the channels of MobileViT's inverted residuals, that stays."""
    macs: float | None = None
    """Fraction of the multiply-accumulates; which heads and units go is chosen."""
    latency: float | None = None
    """Fraction of the time on this machine in ``runtime``; which heads and units go is chosen."""
    sparsity: str | float | None = None
    """``2:4``, or the fraction of the weights of linear layers that becomes zero."""
    merge: int | tuple[int, ...] | None = None
    """Tokens that each transformer block merges, or one number a block."""
    criterion: Criterion = Criterion.ACTIVATION
    selection: Selection = Selection.SPARSEGPT
    repair: bool = True
    """Refit the layer behind what was removed, by least squares on the calibration images."""
    multiple: int = _MULTIPLE
    """Widths of hidden layers stay multiples of it."""
    runtime: str = _RUNTIME
    """Key of `vitedge.registry.RUNTIMES`, in which ``latency`` is measured."""
    images: str | None = None
    """Images for ranking and refitting: a folder, a list, an array or ``synthetic``; never assumed."""
    image_count: int = CALIBRATION_COUNT
    seed: int = 0
    image_size: tuple[int, int] | None = None
    """Height and width in pixels; None keeps the checkpoint's own."""
    recover: str | None = None
    """Images, without labels, on which the pruned model learns from the dense one."""
    epochs: int = 0
    """Passes over them."""
    weights: str | None = None
    """Which set of weights, where the file holds several."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ModelSpec or Preprocessing that the user gave by hand."""
    accept_assumptions: bool = False
    """Whether guessed facts that the outputs depend on are taken as they are."""
    max_drop: float | None = None
    """Budget: points of top-1 that may be lost on ``eval_images``."""
    eval_images: str | None = None
    """A labelled folder or list."""
    min_sqnr: float | None = None
    """Budget: centred SQNR in dB against the dense model, on images that nothing was fitted to."""

    def __post_init__(self) -> None:
        for name, kind in (("criterion", Criterion), ("selection", Selection)):
            object.__setattr__(self, name, named_setting(kind, name, getattr(self, name)))
        self._check_what()
        for name in ("heads", "mlp", "macs", "latency"):
            check_fraction(f"--{name}", getattr(self, name))
        if self.sparsity is not None and self.sparsity != TWO_OF_FOUR:
            check_sparsity(self.sparsity)
        for count in self.merge if isinstance(self.merge, tuple) else (self.merge,):
            check_whole("--merge", count, 0)
        check_whole("--multiple", self.multiple, 1)
        check_whole("--epochs", self.epochs, 0)
        check_whole("--seed", self.seed, 0)
        check_image_size(self.image_size)
        check_image_count("Pruning", self.image_count)
        check_finite("--max-drop, in percentage points,", self.max_drop, 0, 100)
        check_finite("--min-sqnr, in dB,", self.min_sqnr)
        if self.max_drop is not None and self.eval_images is None:
            raise BadRecipe("--max-drop counts labelled images: add --eval LABELLED_DIR.")
        if bool(self.epochs) != (self.recover is not None):
            raise BadRecipe("--recover DIR and --epochs N belong together: give both, or neither.")

        self._check_used()

    @property
    def is_structured(self) -> bool:
        """Whether heads or units are removed."""
        return any(value is not None for value in (self.heads, self.mlp, self.macs, self.latency))

    def _check_used(self) -> None:
        """Refuses a setting of something that is not done."""
        structured = "--heads F, --mlp F, --macs F or --latency F"
        needed = (
            ("--criterion", self.criterion is not Criterion.ACTIVATION, self.is_structured, structured),
            ("--multiple", self.multiple != _MULTIPLE, self.is_structured, structured),
            ("--no-repair", not self.repair, self.is_structured, structured),
            ("--selection", self.selection is not Selection.SPARSEGPT, self.sparsity is not None, "--sparsity 2:4"),
            ("--runtime", self.runtime != _RUNTIME, self.latency is not None, "--latency F"),
        )
        for option, given, used, by in needed:
            if given and not used:
                raise BadRecipe(f"{option} is a setting of {by}, which was not asked for: leave it out, or add that.")

    def _check_what(self) -> None:
        budgets = [name for name in ("macs", "latency") if getattr(self, name) is not None]
        parts = [name for name in ("heads", "mlp") if getattr(self, name) is not None]
        if len(budgets) > 1 or (budgets and parts):
            both = " and ".join(f"--{name}" for name in (*budgets, *parts))
            raise BadRecipe(
                f"{both} exclude each other: --macs and --latency choose heads and units themselves; give one."
            )
        if not self.is_structured and self.sparsity is None and self.merge is None:
            raise BadRecipe(
                "Nothing was asked to be pruned: give --heads F, --mlp F, --macs F, --latency F, --sparsity 2:4 or "
                "--merge R."
            )


def check_fraction(name: str, value: float | None) -> None:
    """Refuses a fraction that is kept and that is not above 0 and at most 1; None is what was not said.

    Raises:
        BadRecipe: names the option.
    """
    check_finite(name, value)
    if value is not None and not 0 < value <= 1:
        raise BadRecipe(f"{name} is the fraction that is kept, above 0 and at most 1, such as 0.75; got {value:g}.")


def check_sparsity(value: str | float) -> None:
    """Refuses a sparsity that is neither ``2:4`` nor a fraction below 1.

    Raises:
        BadRecipe: names the option.
    """
    if isinstance(value, (str, bool)) or not 0 <= value < 1:
        raise BadRecipe(
            f"--sparsity is 2:4, or the fraction of the weights that becomes zero, from 0 to below 1; got {value}."
        )
