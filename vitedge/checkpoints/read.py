# SPDX-License-Identifier: Apache-2.0
"""Reads a file, a folder or a name on the hub into a spec and weights in timm's names."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vitedge.checkpoints import saved
from vitedge.checkpoints.encoders import Selection, find_set, select
from vitedge.checkpoints.families.family import Family, Hints, State
from vitedge.checkpoints.families.processor import size_notes
from vitedge.checkpoints.families.table import FAMILIES
from vitedge.checkpoints.files import hub
from vitedge.checkpoints.files.container import Container, open_container
from vitedge.checkpoints.files.facts import facts_of
from vitedge.checkpoints.files.stored import masked, refuse_forms, same_shapes, unwrapped
from vitedge.checkpoints.files.unwrap import AVERAGED, WeightSet, weight_sets
from vitedge.checkpoints.identify import identify, refuse_lookalikes
from vitedge.checkpoints.keys import check
from vitedge.checkpoints.keys import configuration as configurations
from vitedge.checkpoints.keys.configuration import Configuration
from vitedge.checkpoints.keys.processor import check_processor
from vitedge.checkpoints.memory import InMemory
from vitedge.checkpoints.overrides import apply_overrides, parse_overrides
from vitedge.checkpoints.recognize import recognize
from vitedge.errors import BadRecipe, UserError, WeightsMismatch
from vitedge.records import ModelSpec, Origin, Step
from vitedge.sentences import some

_COUNTED = ("num_batches_tracked", "relative_position_index", "attention_bias_idxs", "position_ids")
"""Last parts of the names of buffers that hold integers: counters and indices."""

CheckpointSource = str | InMemory
"""What a verb takes for a checkpoint: a path or a name on the hub, or weights in memory."""

_NETWORK = ("family", "widths", "depths", "patch", "in_channels")
"""Fields of a spec in which an average and the weights that it was taken over are the same."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose family was found, with its weights in timm's names."""

    source: str
    file: Container
    """The opened file or folder, without its content."""
    weight_set: str
    weight_sets: tuple[str, ...]
    spec: ModelSpec
    state: State
    """float32 weights in timm's names; views of the file where its format allows."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Name in the file to the reason, for what the export does not need."""
    steps: tuple[Step, ...] = ()
    """What vitedge did to the weights before, oldest first."""

    @property
    def container(self) -> str:
        """Kind of container, as in `vitedge.verbs.records.Inspection`."""
        return self.file.kind

    @property
    def size(self) -> int:
        """Bytes."""
        return self.file.size

    @property
    def accepted(self) -> bool:
        """Whether its guessed facts were taken as they are when vitedge made it."""
        return any(step.recipe.get("accept_assumptions") for step in self.steps)

    def sha256(self) -> str:
        """Returns the SHA-256 of the file or folder; it is read on each call."""
        return self.file.sha256()


def read(
    source: CheckpointSource,
    *,
    weights: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    features: bool = False,
    families: Sequence[Family] = FAMILIES,
) -> Checkpoint:
    """Opens a checkpoint, finds out what it is, and converts its weights.

    Args:
        source: path of a file or folder, ``timm:NAME`` or ``hf:NAME``; or weights in memory.
        weights: which set, prefix of names or head, where the file holds several; None takes the averaged set.
        overrides: names of `ModelSpec` or `Preprocessing` fields to values, which go before what was found; ``model``
            is the name in timm of the model that the weights are of.
        features: whether no logits are asked for, so that a head that cannot be placed is left out.
        families: tried in order.

    Raises:
        UserError: one of its kinds, each with one sentence about the file.
    """
    opened, configuration, told = _open(source)
    given = parse_overrides({**told, **(overrides or {})})
    source, is_confirmed = str(source), isinstance(source, InMemory) and source.confirmed
    described = saved.described(opened.metadata, source)
    if described is not None:
        if weights not in (None, saved.SET):
            raise BadRecipe(f"{source} has no weights {weights!r}; --weights can be {saved.SET}.")
        return _as_saved(opened, described, given, source)
    sets = weight_sets(opened.content, source)
    selection = _selected(sets, weights, families, source, features=features)
    chosen = selection.weights
    state, notes = _as_float32(selection.state)
    # A configuration beside the weights was written for them; a training's settings may name another size or crop.
    facts = facts_of(opened.content, opened.metadata)
    hints = Hints({**facts, **selection.facts, **configuration.facts}, opened.preprocessor, given)
    try:
        check_processor(opened.preprocessor)
        found, converted = recognize(state, hints, families, configuration, source, features=features)
        _check_values(converted.state)
        spec = apply_overrides(found, given)
        _check_size(spec)
        keys = check.check_agreement(configuration, spec, given)
        sizes = () if "image_size" in given else size_notes(opened.preprocessor, spec.image_size)
        if weights is None:
            _check_alike(sets, chosen, spec, families)
    except UserError as error:
        raise _located(error, source) from error
    notes = (
        *spec.notes,
        *keys,
        *sizes,
        *opened.notes,
        *_headless(spec),
        *_choice(sets, chosen),
        *selection.notes,
        *notes,
    )
    return Checkpoint(
        source,
        dataclasses.replace(opened, content=None),
        chosen.name,
        tuple(sets),
        dataclasses.replace(spec, notes=notes, origins=_confirmed(spec) if is_confirmed else spec.origins),
        dict(converted.state),
        {**chosen.dropped, **selection.dropped, **_in_file(converted.dropped, selection.names)},
    )


def _as_saved(opened: Container, described: saved.Saved, given: Mapping[str, Any], source: str) -> Checkpoint:
    """Returns a checkpoint that vitedge wrote, whose spec the file holds."""
    settled = sorted(name for name in given if name not in saved.SETTABLE)
    if settled:
        raise BadRecipe(
            f"{source} was written by vitedge, and its {', '.join(settled)} cannot be set: say it when the original "
            f"checkpoint is pruned; here there are {', '.join(saved.SETTABLE)}."
        )
    _check_values(opened.content)
    spec = apply_overrides(described.spec, given)
    file = dataclasses.replace(opened, content=None)
    return Checkpoint(source, file, saved.SET, (saved.SET,), spec, dict(opened.content), steps=described.steps)


def _selected(
    sets: Mapping[str, WeightSet], option: str | None, families: Sequence[Family], where: str, *, features: bool = False
) -> Selection:
    cleaned = {name: dataclasses.replace(found, state=unwrapped(found.state)) for name, found in sets.items()}
    weights = find_set(cleaned, option, where)
    refuse_forms(weights.state, where)
    refuse_lookalikes(weights.state, where)
    state, notes = masked(weights.state)
    found = select(cleaned, dataclasses.replace(weights, state=state), option, families, where, features=features)
    # Wrappers' parts are taken out of names in their order.
    written = dict(zip(weights.state, sets[weights.name].state, strict=True))
    dropped = _in_file(found.dropped, written)
    names = {name: written.get(inner, inner) for name, inner in found.names.items()}
    return dataclasses.replace(found, dropped=dropped, names=names, notes=(*found.notes, *_left_out(dropped), *notes))


def _in_file(dropped: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    return {names.get(name, name): reason for name, reason in dropped.items()}


def _left_out(dropped: Mapping[str, str]) -> tuple[str, ...]:
    if not dropped:
        return ()
    return (f"{len(dropped)} weights are left out, being none of the model's: {some(dropped)}.",)


def _check_alike(sets: Mapping[str, WeightSet], chosen: WeightSet, spec: ModelSpec, families: Sequence[Family]) -> None:
    """Refuses to choose where the averaged weights and the trained ones are different networks.

    Raises:
        BadRecipe: the two differ in architecture.
    """
    if not set(chosen.name.split(".")) & set(AVERAGED):
        return
    for name, other in sets.items():
        if name == chosen.name or same_shapes(other.state, chosen.state):
            continue
        found = _described(sets, name, families)
        if found is None or any(getattr(found, fact) != getattr(spec, fact) for fact in _NETWORK):
            what = "no network that vitedge reads" if found is None else _sized(found)
            raise BadRecipe(
                f"{chosen.name} is {_sized(spec)} and {name} is {what}: two networks and not an average; "
                f"choose with --weights {name} or --weights {chosen.name}."
            )


def _described(sets: Mapping[str, WeightSet], name: str, families: Sequence[Family]) -> ModelSpec | None:
    """Returns the spec of another set of the file, or None where it is of no known architecture."""
    try:
        state, _ = _as_float32(_selected(sets, name, families, name, features=True).state)
        family, naming, converted = identify(state, Hints(), families)
        return family.infer(converted.state, naming.name, Hints(config=converted.facts))
    except UserError:
        return None


def _sized(spec: ModelSpec) -> str:
    return f"{spec.variant} (width {'-'.join(map(str, spec.widths))}, depth {sum(spec.depths)})"


def _open(source: CheckpointSource) -> tuple[Container, Configuration, Mapping[str, Any]]:
    """Returns the opened source, its configuration, and the facts that a module in memory tells."""
    if isinstance(source, InMemory):
        opened = source.container()
        return opened, configurations.read(opened.config, f"The config of {source}"), source.told
    if not hub.is_hub(source):
        opened = open_container(source)
        return opened, configurations.read(opened.config, opened.configured_by), {}
    fetched = hub.fetch(source)
    opened = open_container(fetched.folder)
    return opened, configurations.read({**opened.config, **fetched.config}, f"The configuration of {source}"), {}


def _confirmed(spec: ModelSpec) -> dict[str, Origin]:
    """Returns origins in which guesses about the network are facts: it computes what the module computes."""
    return {
        name: Origin.GIVEN if origin is Origin.ASSUMED and not name.startswith("preprocessing.") else origin
        for name, origin in spec.origins.items()
    }


def _headless(spec: ModelSpec) -> tuple[str, ...]:
    if spec.classes:
        return ()
    return ("There is no classifier: it exports as a feature extractor, with tokens and pooled features.",)


def _choice(sets: Mapping[str, WeightSet], chosen: WeightSet) -> tuple[str, ...]:
    if len(sets) == 1:
        return ()
    return (f"The file holds the weights {', '.join(sets)}; these are {chosen.name} (--weights chooses).",)


def _as_float32(state: State) -> tuple[State, tuple[str, ...]]:
    narrow = (torch.float16, torch.bfloat16, torch.float64)
    counts = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.dtype in narrow)
    widened = {name: tensor.float() if tensor.dtype in narrow else tensor for name, tensor in state.items()}
    return widened, tuple(
        f"{count} weights are stored as {kind}; they are computed with as float32." for kind, count in counts.items()
    )


def _check_values(state: State) -> None:
    foreign = {
        name: str(tensor.dtype).removeprefix("torch.")
        for name, tensor in state.items()
        if tensor.dtype != torch.float32 and not name.endswith(_COUNTED)
    }
    if foreign:
        name, kind = next(iter(foreign.items()))
        raise WeightsMismatch(
            f"{len(foreign)} weights are no floating-point numbers ({name} is {kind}); "
            "pass the weights in float: a quantized file's are those from before quantization."
        )
    bad = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if bad:
        raise WeightsMismatch(
            f"{len(bad)} weights hold NaN or infinity ({some(bad)}); "
            "pass a checkpoint from before the training diverged."
        )


def _check_size(spec: ModelSpec) -> None:
    """Refuses an image without a single patch, which only a configuration or the user can have said.

    Raises:
        BadRecipe: names the size and the patch.
    """
    height, width = spec.image_size
    if min(height, width) < spec.patch:
        raise BadRecipe(
            f"image_size {height}x{width} is smaller than a patch of {spec.patch} pixels: correct it in the "
            "configuration, or say it with --set image_size=."
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    """Returns whether all elements are finite: a finite sum shows it without a copy, an overflowing one does not."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _located(error: UserError, source: str) -> UserError:
    return error if source in str(error) else type(error)(f"{source}: {error}")
