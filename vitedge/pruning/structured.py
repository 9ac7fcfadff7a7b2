# SPDX-License-Identifier: Apache-2.0
"""Takes heads and hidden units away where they are missed least, and has the layers behind them refitted.

The parts are ranked on the dense model; a budget is shared out between them (`allocation`); then each block is
narrowed in the order of execution (`refitting`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from vitedge.errors import BadRecipe
from vitedge.progress import counted, stage
from vitedge.pruning.allocation import Budget, allocate
from vitedge.pruning.attention import STEPS
from vitedge.pruning.draft import Batches, Draft
from vitedge.pruning.journal import Journal
from vitedge.pruning.observe import channel_weights, input_moments, row_weights
from vitedge.pruning.parts import Kind, Part, find_parts, narrow
from vitedge.pruning.ranking import Ranking, by_activation, magnitudes, normalized, taylor
from vitedge.pruning.recipe import Criterion, PruningRecipe
from vitedge.pruning.records import PartRecord, Structured
from vitedge.pruning.refitting import Refitting, refit_classifiers, set_refit, weight_of
from vitedge.pruning.repair import Refit
from vitedge.sentences import some

_SENSED = 600.0
"""GMACs that the influence of rows is measured with: 34 images of a ViT-B, and more of smaller models."""
_RANKED = 2400.0
"""GMACs that units are ranked with."""
_ATTENDED = 20_000.0
"""GMACs of whole models up to which queries, keys and values are refitted: a ViT-Ti on 256 images needs as many."""
_SPARSE = 0.4
"""Share of zeros from which a layer counts as sparse."""
_LEAST = 32
"""Images for either, at least."""
_UNITS = {Kind.HEADS: "heads", Kind.MLP: "hidden units", Kind.EXPANSION: "channels"}
_OPTIONS = {"heads": (Kind.HEADS,), "mlp": (Kind.MLP, Kind.EXPANSION)}


def rank(draft: Draft, recipe: PruningRecipe, journal: Journal) -> list[Ranking]:
    """Ranks the units of all parts of a draft that is still dense.

    Raises:
        BadRecipe: the architecture has no parts that are known.
    """
    module = draft.module
    parts = find_parts(module, recipe.multiple)
    if draft.spec.family == "timm" or not parts:
        raise BadRecipe(
            f"{draft.spec.variant} cannot be pruned: vitedge knows it by its name in timm alone, and not which of its "
            "layers belong together; --sparsity 2:4 needs no such knowledge."
        )
    if recipe.criterion is Criterion.MAGNITUDE:
        return normalized([(part, magnitudes(module, part)) for part in parts])
    kept = journal.read("ranking")
    if kept is not None:
        return [_restored(part, kept) for part in parts]
    images = _some(draft, _RANKED)
    with stage(f"ranking the units of {len(parts)} parts on {len(images)} images"):
        if recipe.criterion is Criterion.TAYLOR:
            rankings = normalized(taylor(module, parts, images, draft.outputs))
        else:
            weights = _sensitivity(draft, parts, journal)
            moments = input_moments(module, parts, images, weights)
            rankings = [by_activation(part, weight_of(module, part), moments.pop(part.name)) for part in parts]
    tensors = {}
    for ranking in rankings:
        tensors[f"{ranking.part.name}.order"] = torch.tensor(ranking.order)
        tensors[f"{ranking.part.name}.losses"] = torch.tensor(list(ranking.losses.values()), dtype=torch.float64)
    journal.write("ranking", tensors)
    return rankings


def _sensitivity(draft: Draft, parts: Sequence[Part], journal: Journal) -> dict[str, torch.Tensor]:
    """Returns how much each row of the parts' outputs matters in the dense model; see `row_weights`."""
    found = journal.read("sensitivity")
    if found is None:
        found = row_weights(draft.module, parts, _some(draft, _SENSED), draft.outputs)
        journal.write("sensitivity", found)
    return found


def _some(draft: Draft, gmacs: float) -> Batches:
    """Returns as many images as the dense model computes with so many multiply-accumulates."""
    return draft.images.first(max(_LEAST, int(gmacs / draft.gmacs)))


def _restored(part: Part, kept: Mapping[str, torch.Tensor]) -> Ranking:
    losses = zip(part.sizes, kept[f"{part.name}.losses"].tolist(), strict=True)
    return Ranking(part, tuple(kept[f"{part.name}.order"].tolist()), dict(losses))


def sizes_of_fractions(rankings: Sequence[Ranking], recipe: PruningRecipe) -> dict[str, int]:
    """Shares out what ``--heads`` and ``--mlp`` leave.

    Returns:
        Name of every part to the number of its units that stay.

    Raises:
        BadRecipe: there are none of those units, or a fraction would leave a part empty.
    """
    sizes = {ranking.part.name: ranking.part.units for ranking in rankings}
    for option, kinds in _OPTIONS.items():
        fraction = getattr(recipe, option)
        if fraction is None:
            continue
        chosen = [ranking for ranking in rankings if ranking.part.kind in kinds]
        if not chosen:
            raise BadRecipe(
                f"--{option} {fraction:g}: this model has no {option} that could be removed alone; leave it out."
            )
        total = sum(ranking.part.units for ranking in chosen)
        # To the nearest number of units that can be met: steps are as wide as the target's kernels want them.
        step = min(ranking.part.multiple for ranking in chosen)
        sizes |= allocate(chosen, dict.fromkeys(sizes, 1.0), Budget(option, fraction, total, step=step))
    return sizes


def prune_structured(
    draft: Draft,
    recipe: PruningRecipe,
    rankings: Sequence[Ranking],
    sizes: Mapping[str, int],
    journal: Journal,
) -> Structured:
    """Narrows the parts of a draft to given sizes, in place.

    Args:
        draft: still dense.
        recipe: whether to refit.
        rankings: of all parts, in order of execution.
        sizes: name of a part to the number of units that stay.
        journal: keeps what was refitted.
    """
    parts = [ranking.part for ranking in rankings]
    walk = None
    if recipe.repair:
        walk = Refitting(draft, parts, _sensitivity(draft, parts, journal), journal)
    lost = [part for part in parts if part.kind is Kind.HEADS and sizes[part.name] < part.units] if walk else []
    reason = _why_not_attention(draft) if lost else ""
    directions = _directions(draft, lost, journal) if lost and not reason else {}
    filled = 0
    records: list[PartRecord] = []
    for ranking in counted(rankings, unit="part"):
        part, size = ranking.part, sizes[ranking.part.name]
        is_first = all(record.kept == record.units for record in records)
        kept = ranking.kept(size)
        done = None
        if walk is not None and not (is_first and size == part.units):
            done = walk.refitted(part, kept)
            filled += _is_sparse(weight_of(draft.module, part))
        narrow(draft.module, part, kept)
        if done is not None:
            set_refit(draft.module, part, done)
        if walk is not None and part.name in directions:
            again = walk.refit_attention(part, directions[part.name])
            done = replace(again, error_before=done.error_before) if again and done else done
        records.append(_record(part, size, done))
    if walk is not None and any(record.kept < record.units for record in records):
        refit_classifiers(draft, journal)
    draft.settle()
    notes = _notes(records, len(draft.images), filled)
    if reason:
        notes += (f"Queries, keys and values of the heads that stay were not refitted: {reason}.",)
    return Structured(recipe.criterion.value, tuple(records), notes)


def _why_not_attention(draft: Draft) -> str:
    """Returns why queries, keys and values are not refitted, or the empty string."""
    images = len(draft.images)
    if images < _LEAST:
        return f"that takes {_LEAST} images, and there are {images}"
    gmacs = 3 * STEPS * images * draft.gmacs  # a gradient costs as much as two outputs
    if gmacs > _ATTENDED:
        return f"on {images} images that takes up to {gmacs:.0f} GMACs, and more than {_ATTENDED:.0f} take too long"
    return ""


def _directions(draft: Draft, parts: Sequence[Part], journal: Journal) -> dict[str, torch.Tensor]:
    """Returns how much the channels of the parts' outputs matter in the dense model; see `channel_weights`."""
    found = journal.read("directions")
    if found is None:
        found = channel_weights(draft.module, parts, _some(draft, _SENSED), draft.outputs)
        journal.write("directions", found)
    return found


def _record(part: Part, size: int, done: Refit | None) -> PartRecord:
    if done is None:
        return PartRecord(part.name, part.kind.value, part.units, size)
    return PartRecord(
        part.name,
        part.kind.value,
        part.units,
        size,
        done.error_before,
        done.error_after,
        done.rank,
        done.weight.shape[1],
    )


def _is_sparse(weight: torch.Tensor) -> bool:
    return float((weight == 0).float().mean()) >= _SPARSE


def _notes(records: Sequence[PartRecord], images: int, filled: int) -> tuple[str, ...]:
    notes = []
    if filled:
        notes.append(f"The refit filled the zeros of {filled} sparse layers: add --sparsity to make them sparse again.")
    short = [record for record in records if record.rank is not None and record.rank < (record.inputs or 0)]
    if short:
        shown = [f"{record.part} ({record.rank} of {record.inputs})" for record in short]
        notes.append(
            f"{images} images show fewer directions than the layers behind these have inputs, the refit keeps to the "
            f"old weights there, and more --image-count settles it: {some(shown, 2)}."
        )
    return tuple(notes)
