# SPDX-License-Identifier: Apache-2.0
"""Recognizes the architecture of weights: by a family of vitedge, or by the index of timm's models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from vitedge.checkpoints.classifier import without_odd_head
from vitedge.checkpoints.families.family import Converted, Family, Hints, State
from vitedge.checkpoints.families.ranks import check_ranks
from vitedge.checkpoints.families.timm.signature import Known, index, lookup, shapes_of, signature
from vitedge.checkpoints.families.timm.spec import infer
from vitedge.checkpoints.files.unwrap import spellings
from vitedge.checkpoints.identify import identify
from vitedge.checkpoints.keys.check import check_keys, check_values
from vitedge.checkpoints.keys.configuration import TIMM, Configuration
from vitedge.errors import BadRecipe, UnknownArchitecture, WeightsMismatch
from vitedge.records import ModelSpec, Origin

MODEL = "model"
"""Override that says by hand which model of timm the weights are of."""
_SIZES = ("num_classes", "img_size", "in_chans")
_NAMED = 6


class _Told(NamedTuple):
    """What is known of weights beside their names and shapes."""

    hints: Hints
    configuration: Configuration

    @property
    def arguments(self) -> dict[str, Any]:
        """Returns the arguments that a configuration gives to a model of timm, but for those that shapes tell."""
        if self.configuration.library != TIMM:
            return {}
        keys = [key for key in self.configuration.keys if key.section == "model_args"]
        return {key.name: key.value for key in keys if key.name not in _SIZES}


class Recognized(NamedTuple):
    """The spec of weights, and the weights in timm's names."""

    spec: ModelSpec
    converted: Converted


def recognize(
    state: State,
    hints: Hints,
    families: Sequence[Family],
    configuration: Configuration,
    where: str,
    *,
    features: bool = False,
) -> Recognized:
    """Finds out which architecture weights are of.

    A family comes first, because it knows image sizes and layers. A model of timm is taken where no family claims the
    weights, where the family would build other modules than every model of timm with this signature has, and where the
    user or a configuration names it.

    Args:
        state: weights under the names of the file.
        hints: configuration and the user's overrides; the override ``model`` is a name in timm.
        families: tried in order.
        configuration: whose keys have to be known; where no family claims the weights, a key that says why goes first.
        where: the file, for messages.
        features: whether no logits are asked for, so that a head which takes anything else is left out.

    Raises:
        UnknownArchitecture: neither knows it, or a key of the configuration is not known.
        WeightsMismatch: from the family's converter, or the weights are not those of the model that was given.
        BadRecipe: timm has no model of the name that was given.
    """
    asked = hints.overrides.get(MODEL)
    spelled, known = _known(state)
    if asked is not None:
        return _given(str(asked), spelled, known, _Told(hints, configuration))
    named = [entry for entry in known if entry.name == hints.config.get("architecture")]
    if named and not named[0].by_family:
        return _as_timm(spelled, (named[0],), Origin.CONFIG, _Told(hints, configuration))
    if known and not any(entry.by_family for entry in known):
        return _as_timm(spelled, known, Origin.SHAPE, _Told(hints, configuration))
    try:
        family, naming, converted = identify(state, hints, families, where=where)
    except (UnknownArchitecture, WeightsMismatch):
        if known:
            return _as_timm(spelled, known, Origin.SHAPE, _Told(hints, configuration))
        check_keys(configuration, configuration.family)
        raise
    check_keys(configuration, family.NAME)
    converted = without_odd_head(converted) if features else converted
    try:
        check_ranks(converted.state)
        merged = dataclasses.replace(hints, config={**hints.config, **converted.facts})
        spec = family.infer(converted.state, naming.name, merged)
    except (UnknownArchitecture, WeightsMismatch):
        if not known:
            raise
        return _as_timm(spelled, known, Origin.SHAPE, _Told(hints, configuration))
    notes = (*spec.notes, *([] if named else _others(known, signature(shapes_of(spelled)).sized)))
    return Recognized(dataclasses.replace(spec, notes=notes), converted)


def _known(state: State) -> tuple[State, tuple[Known, ...]]:
    """Returns the spelling of the names that timm knows, with its models; without one, the last spelling."""
    spelled = state
    for spelled in spellings(state):
        found = lookup(shapes_of(spelled))
        if found:
            return spelled, found
    return spelled, ()


def _given(name: str, state: State, known: Sequence[Known], told: _Told) -> Recognized:
    entry = index().get(name)
    if entry is None:
        names = ", ".join(entry.name for entry in known) or "timm.list_models() lists its names"
        raise BadRecipe(f"There is no model {name!r} in the index of timm's models; for these weights: {names}.")
    if entry.signature.body != signature(shapes_of(state)).body:
        fitting = f"; timm's {_listed([entry.name for entry in known])} fit" if known else ""
        raise WeightsMismatch(f"The weights are not those of timm's {name}: other names or shapes{fitting}.")
    return _as_timm(state, (entry,), Origin.GIVEN, told)


def _as_timm(state: State, known: Sequence[Known], origin: Origin, told: _Told) -> Recognized:
    """Reads weights as the first of the models, with a note that names those of them that compute something else."""
    check_values(told.configuration)
    chosen = known[0]
    spec = infer(state, chosen, origin, told.hints)
    if told.arguments:
        options = {**spec.options, "arguments": told.arguments}
        spec = dataclasses.replace(spec, options=options, origins={**spec.origins, "options.arguments": Origin.CONFIG})
    others = [entry.name for entry in known if entry.function != chosen.function]
    notes = [f"It is built as timm's {chosen.name}."]
    if others:
        notes = [
            f"The names and shapes of these weights are those of timm's {chosen.name}, which is assumed, and of "
            f"{_listed(others)}, which compute something else; --model NAME says which it is."
        ]
        assumed = {"variant": Origin.ASSUMED, "options.model": Origin.ASSUMED}
        spec = dataclasses.replace(spec, origins={**spec.origins, **assumed})
    notes += _other_sizes(known, chosen, spec)
    return Recognized(dataclasses.replace(spec, notes=(*spec.notes, *notes)), Converted(state))


def _other_sizes(known: Sequence[Known], chosen: Known, spec: ModelSpec) -> list[str]:
    """Returns the note on models that compute the same at another image size, where nothing but a name tells it."""
    alike = [entry for entry in known if entry.function == chosen.function and entry.name != chosen.name]
    others = [entry for entry in alike if entry.input_size != chosen.input_size]
    if not others or spec.origins.get("image_size") is not Origin.TABLE:
        return []
    height, width = spec.image_size
    return [
        f"No file tells the image size: {height}x{width} is that of timm's {chosen.name}, and "
        f"{_listed([entry.name for entry in others])} has the same weights (--set image_size=HxW)."
    ]


def _others(known: Sequence[Known], sized: str) -> tuple[str, ...]:
    """Returns the note on models of the same signature that compute something else than what the family builds."""
    ours = [entry for entry in known if entry.by_family]
    of_this_size = [entry for entry in ours if entry.signature.sized == sized]
    functions = {entry.function for entry in of_this_size or ours}
    # A window or a grid that the family reads from the shapes is no other model.
    candidates = [entry for entry in known if not entry.by_family] + (of_this_size or ours)
    others = [entry.name for entry in candidates if len(functions) > 1 or entry.function not in functions]
    if not others:
        return ()
    return (
        f"These weights have the names and shapes of timm's {_listed(others)} as well, of other settings than are read "
        "here; if they are of one of them, --model NAME says so.",
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
