# SPDX-License-Identifier: Apache-2.0
"""Renders the facts of a checkpoint with the origin of each, and the cost of its model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import filesize
from rich.table import Table

from vitedge.checkpoints.assumptions import assumed, said
from vitedge.records import BlockWidths, ModelSpec, Origin, Preprocessing
from vitedge.render.following import export_command
from vitedge.render.prune import step_lines
from vitedge.render.screen import document, lines, next_command, short_path, show, table
from vitedge.verbs.records import Inspection

_NAMED = 2
"""Labels that are shown before their number."""
_UNTOLD: tuple[Any, ...] = ((), 0)
"""Facts of a model that is built by its name alone."""


def render(result: Inspection, *, options: Sequence[str] = (), as_json: bool) -> None:
    """Prints the facts, the cost and the weights that an export leaves out; the next command repeats ``options``."""
    if as_json:
        return document(result)
    spec = result.spec
    file = ("file", short_path(result.source), f"{result.container}, {filesize.decimal(result.size)}")
    show(facts_table(spec, file, ("weights", _weight_sets(result), f"{spec.naming} names")))
    cost = result.cost
    lines(
        f"{cost.parameters:,} parameters, {cost.gmacs:.2f} GMACs, {cost.activations_mb:.1f} MB of activations",
        *step_lines(result.steps),
        *(f"left out: {name} ({reason})" for name, reason in _grouped(result.dropped)),
        *(f"note: {note}" for note in spec.notes),
        *_guesses(spec),
        next_command(export_command(result.source, (*options, *said(spec)))),
    )
    return None


def facts_table(spec: ModelSpec, *first: tuple[str, str, str]) -> Table:
    """Returns the facts of a model with the origin of each, guesses first, below some rows."""
    drawn = table("", "", "from")
    for row in first:
        drawn.add_row(*row)
    for name, value in sorted(_facts(spec), key=lambda fact: spec.origins.get(fact[0]) is not Origin.ASSUMED):
        drawn.add_row(_title(name), value, _origin(spec, name))
    return drawn


def _guesses(spec: ModelSpec) -> Iterable[str]:
    """Yields that the next command says guesses, without which an export would be refused."""
    names = [name.removeprefix("options.") for name in assumed(spec)]
    if names:
        yield f"guessed: {', '.join(names)}: the outputs depend on it; put what is right into the next command"


def _facts(spec: ModelSpec) -> Iterable[tuple[str, str]]:
    """Yields field names of the spec, in reading order, with their values as text."""
    for name in ("family", "variant", "image_size", "in_channels", "patch", "widths", "depths", "heads", "mlp_ratios"):
        if getattr(spec, name) not in _UNTOLD:
            yield name, _text(getattr(spec, name))
    yield "classes", str(spec.classes) if spec.classes else "none: exports as a feature extractor"
    yield "tokens", ", ".join(spec.tokens) or "none"
    if spec.activation:
        yield "activation", spec.activation
        yield "norm_eps", f"{spec.norm_eps:g}"
    for name in ("mean", "std", "interpolation", "crop_mode", "crop", "channel_order"):
        yield f"preprocessing.{name}", _text(getattr(spec.preprocessing, name))
    for name in ("crop_offset", "exif", "transparency", "resizer"):
        if getattr(spec.preprocessing, name) != getattr(Preprocessing, name):
            yield f"preprocessing.{name}", _text(getattr(spec.preprocessing, name))
    yield from _widths(spec.blocks)
    told = {
        name.removeprefix("options.")
        for name, origin in spec.origins.items()
        if origin in (Origin.ASSUMED, Origin.GIVEN)
    }
    for name in (name for name, value in spec.options.items() if value or name in told):
        value = spec.options[name]
        yield f"options.{name}", _text(value)
    if spec.labels:
        more = f", … ({len(spec.labels)})" if len(spec.labels) > _NAMED else ""
        yield "labels", ", ".join(spec.labels[:_NAMED]) + more


def _title(name: str) -> str:
    """Returns the name of a field as it is shown: without its record's, unless the record is that of each block."""
    owner, _, field = name.rpartition(".")
    return f"{field} of each block" if owner == "blocks" else field.replace("_", " ")


def _widths(blocks: Sequence[BlockWidths]) -> Iterable[tuple[str, str]]:
    """Yields the widths of the blocks of a pruned model, one number a block."""
    for name in ("heads", "mlp", "merge"):
        values = [getattr(block, name) for block in blocks]
        if any(values):
            yield f"blocks.{name}", _text(values)


def _origin(spec: ModelSpec, name: str) -> str:
    origin = spec.origins.get(name)
    if origin is None:
        return ""
    return f"{origin.value}: check it" if origin is Origin.ASSUMED else origin.value


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(_text(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _weight_sets(result: Inspection) -> str:
    others = [name for name in result.weight_sets if name != result.weight_set]
    return f"{result.weight_set} (also here: {', '.join(others)})" if others else result.weight_set


def _grouped(dropped: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Yields dropped weights by reason, with their number where there are several."""
    names: dict[str, list[str]] = {}
    for name, reason in dropped.items():
        names.setdefault(reason, []).append(name)
    for reason, group in names.items():
        yield (group[0] if len(group) == 1 else f"{group[0]} and {len(group) - 1} more", reason)
