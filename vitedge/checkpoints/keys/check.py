# SPDX-License-Identifier: Apache-2.0
"""Holds a configuration against a model: every key is honoured, known to be irrelevant, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitedge.checkpoints.keys import timm
from vitedge.checkpoints.keys.configuration import HUGGING_FACE, OPEN_CLIP, TIMM, Configuration, Key, table_of
from vitedge.checkpoints.keys.meaning import Fact, Meaning, is_possible
from vitedge.errors import UnknownArchitecture, WeightsMismatch
from vitedge.records import ModelSpec
from vitedge.sentences import abridged, some

_LABELS = ("label_names", "labels", "id2label")


def check_keys(configuration: Configuration, family: str) -> None:
    """Refuses keys that nobody knows, and values that the family cannot be built with.

    Args:
        configuration: of the file whose weights were recognized.
        family: the `Family.NAME` that they were recognized as; one without a table is not checked.

    Raises:
        UnknownArchitecture: names the key, its value, the file, and what to do.
    """
    if family not in timm.MODEL_ARGS:
        return
    _check_family(configuration, family)
    unknown = [key.written for key in configuration.keys if _is_unknown(configuration, key, family)]
    if unknown:
        raise UnknownArchitecture(
            f"{configuration.where} holds {'keys' if len(unknown) > 1 else 'the key'} {some(unknown)}, which vitedge "
            "does not know and which may change what the model computes; take "
            f"{'them' if len(unknown) > 1 else 'it'} out of the file if the weights need nothing of "
            f"{'them' if len(unknown) > 1 else 'it'}."
        )
    _check_values(configuration, family)


def check_values(configuration: Configuration) -> None:
    """Refuses values that no model can have, where timm builds the model by its name and judges all other keys.

    Raises:
        UnknownArchitecture: names the key, its value, the file, and what to do.
    """
    _check_values(configuration, timm.NAMED)


def _check_values(configuration: Configuration, family: str) -> None:
    for key in configuration.keys:
        if not is_possible(_meaning(configuration, key, family), key.value):
            raise UnknownArchitecture(
                f"{configuration.where} says {key.written} = {abridged(key.value)}, which vitedge cannot build this "
                "model with; take the key out of the file if the weights were trained without it."
            )


def check_agreement(configuration: Configuration, spec: ModelSpec, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Refuses a configuration that says anything else than the spec of the model.

    Args:
        configuration: as `check_keys` passed it.
        spec: as inferred from the weights, the configuration and the family's table.
        given: fields that the user stated; these go before the configuration.

    Returns:
        Notes.

    Raises:
        WeightsMismatch: names the key, its value, the file, and what the model has instead.
    """
    if spec.family not in (*timm.MODEL_ARGS, timm.NAMED):
        return ()
    for key in configuration.keys:
        meaning = _meaning(configuration, key, spec.family)
        if not isinstance(meaning, Fact) or meaning.field.removeprefix("options.") in given:
            continue
        if not meaning.agrees(key.value, spec):
            raise WeightsMismatch(
                f"{configuration.where} says {key.written} = {abridged(key.value)}, but the model that the weights fit "
                f"has {abridged(meaning.shown(spec))}; pass the configuration that belongs to these weights."
            )
    if "pool" not in given:
        _check_derived(configuration, spec)
    if "labels" not in given:
        _check_numbers(configuration, spec)
    notes = () if "pool" in given else _pool_note(configuration, spec)
    notes += () if "image_size" in given else _size_note(configuration, spec)
    return (*notes, *_architecture_note(configuration, spec), *_label_note(configuration, spec))


def _check_derived(configuration: Configuration, spec: ModelSpec) -> None:
    """Refuses a pooling with which timm would build other weights than these, because another argument follows it."""
    if configuration.library != TIMM:
        return
    arguments = {
        key.name: key.value for key in configuration.keys if key.section == "model_args" and not key.is_outside
    }
    for name, value in timm.derived(str(configuration.facts["architecture"]), arguments).items():
        meaning, pool = timm.MODEL_ARGS.get(spec.family, {}).get(name), abridged(arguments["global_pool"])
        if isinstance(meaning, Fact) and not meaning.agrees(value, spec):
            raise WeightsMismatch(
                f"{configuration.where} says model_args.global_pool = {pool}, which makes timm build "
                f"{name} = {value}, but the model that the weights fit has {meaning.shown(spec)}; pass the "
                f"configuration that belongs to these weights, or state {name} in model_args."
            )


def _pool_note(configuration: Configuration, spec: ModelSpec) -> tuple[str, ...]:
    """Returns a note on a pooling that timm wrote for readers, and that it would not build the model with."""
    pool = next((key.value for key in configuration.keys if key.is_outside), None)
    architecture = str(configuration.facts.get("architecture", ""))
    default = timm.default_pool(architecture)
    is_pooled = "pooled" in (spec.options.get("norm"), spec.options.get("final_norm"))
    fitting = all(value == is_pooled for value in timm.derived(architecture, {"global_pool": pool}).values())
    is_proven = pool == "map" or (fitting and (pool == default or (pool == "avg" and is_pooled)))
    if pool is None or not default or not spec.classes or is_proven:
        return ()
    return (
        f"{configuration.where} says global_pool = {abridged(pool)} outside of model_args, where timm writes what a "
        f"model has, and from where it builds none: {abridged(pool)} is taken.",
    )


def _size_note(configuration: Configuration, spec: ModelSpec) -> tuple[str, ...]:
    """Returns a note on images that timm would prepare at another size than the model is built for."""
    for key in configuration.keys:
        if configuration.library == TIMM and key.name == "input_size" and tuple(key.value[1:]) != spec.image_size:
            own = "x".join(map(str, spec.image_size))
            return (
                f"{configuration.where} says {key.written} = {abridged(key.value)}, and the model is built for {own}: "
                "images are brought to that size.",
            )
    return ()


def _check_numbers(configuration: Configuration, spec: ModelSpec) -> None:
    """Refuses names of classes under other numbers than the outputs have: each would be the name of another class."""
    for key in configuration.keys:
        if key.name not in _LABELS or not isinstance(key.value, Mapping) or not spec.classes:
            continue
        numbers = sorted(int(number) for number in key.value)
        if numbers != list(range(len(numbers))) or not numbers:
            told = f"names the classes {some(map(str, numbers))}" if numbers else "names no class"
            raise WeightsMismatch(
                f"{configuration.where} {told} in {key.written}, and the outputs of the head are those of classes "
                f"0 to {spec.classes - 1}; mend the key, or take it out (--set labels=…)."
            )


def _check_family(configuration: Configuration, family: str) -> None:
    """An architecture that is registered by the user may be of any family: `_architecture_note` speaks of it."""
    key = {TIMM: "architecture", HUGGING_FACE: "model_type", OPEN_CLIP: "vision_cfg"}.get(configuration.library)
    if configuration.family == family or key is None:
        return
    if configuration.family or configuration.library == HUGGING_FACE:
        raise UnknownArchitecture(
            f"{configuration.where} says {key} = {abridged(configuration.facts[key])}, but the names of the weights "
            f"are those of the family {family}; pass the configuration that belongs to these weights, or the file of "
            "weights alone, outside of its folder."
        )


def _meaning(configuration: Configuration, key: Key, family: str) -> Meaning | None:
    return table_of(configuration, family).get(key.section, {}).get(key.name)


def _is_unknown(configuration: Configuration, key: Key, family: str) -> bool:
    """Returns whether a key is in no table; names with an underscore in front and empty values say nothing."""
    says_nothing = key.name.startswith("_") or key.value in ("", [], {})
    return not says_nothing and _meaning(configuration, key, family) is None


def _architecture_note(configuration: Configuration, spec: ModelSpec) -> tuple[str, ...]:
    name = str(configuration.facts.get("architecture", ""))
    is_known = name == spec.variant if spec.family == timm.NAMED else timm.family_of(name)
    if configuration.library != TIMM or is_known:
        return ()
    return (
        f"{configuration.where} names the architecture {abridged(name)}, which is not one of timm's for these weights: "
        "what its own code changes is not known.",
    )


def _label_note(configuration: Configuration, spec: ModelSpec) -> tuple[str, ...]:
    for key in configuration.keys:
        if key.name in _LABELS and spec.classes and key.value and len(key.value) != spec.classes:
            return (
                f"{configuration.where} names {len(key.value)} classes in {key.written}, and the head has "
                f"{spec.classes}: the names are left out (--set labels=…).",
            )
    return ()
