# SPDX-License-Identifier: Apache-2.0
"""Facts that change what a model computes and that were only guessed: which they are, and their refusal."""

from __future__ import annotations

from vitedge.errors import BadRecipe
from vitedge.records import ModelSpec, Origin

_MENDED_BY = {
    "options.stride": "image_size",
    "options.position_prefix": "image_size",
    "options.norm_first": "norm_first",
    "options.pool": "pool",
}
"""Fact to the one that settles it with `--set`."""
_ANY_SIZE = ("swin", "mobilevit", "mobilevitv2")
"""Families without position embeddings: their weights mean the same at every image size."""


def assumed(spec: ModelSpec) -> tuple[str, ...]:
    """Returns the guessed facts that the model's outputs depend on, in the order of the spec's origins.

    Preprocessing is not among them, nor the image size of a family that has no position embedding, nor the pooling of
    an encoder, which has no classifier that the pooling would have to fit: two published models share these, so they
    stay notes.
    """
    guessed = [name for name, origin in spec.origins.items() if origin is Origin.ASSUMED]
    free = {"image_size"} if spec.family in _ANY_SIZE or not spec.options.get("position_embedding", True) else set()
    if not spec.classes:
        free.add("options.pool")
    return tuple(name for name in guessed if not name.startswith("preprocessing.") and name not in free)


def refuse_assumed(spec: ModelSpec, source: str, *, accepted: bool) -> None:
    """Refuses a model of which a fact is guessed.

    Args:
        spec: what was found out about the model.
        source: the checkpoint, for the message.
        accepted: whether the user takes the guesses.

    Raises:
        BadRecipe: names the facts, their guessed values, and what to type.
    """
    names = () if accepted else assumed(spec)
    if not names:
        return
    told = ", ".join(f"{name.removeprefix('options.')} ({_value(spec, name)})" for name in names)
    options = " ".join(said(spec))
    raise BadRecipe(
        f"{source} does not tell its {told}, which the outputs depend on and parity cannot check: "
        + (f"say what it is, such as {options}, or " if options else "")
        + "take the guess with --accept-assumptions."
    )


def said(spec: ModelSpec) -> tuple[str, ...]:
    """Returns the options that say a model's guessed facts, such as ``--set heads=3``, with the guesses as values."""
    settable = dict.fromkeys(_MENDED_BY.get(name, name) for name in assumed(spec))
    pairs = (f"{name}={_typed(spec, name)}" for name in settable if not name.startswith("options."))
    return tuple(word for pair in pairs for word in ("--set", pair))


def _typed(spec: ModelSpec, name: str) -> str:
    """Returns a fact's value as ``--set`` takes it."""
    value = getattr(spec, name) if hasattr(spec, name) else spec.options[name]
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _value(spec: ModelSpec, name: str) -> str:
    option = name.removeprefix("options.")
    value = getattr(spec, name) if option == name else spec.options[option]
    values = value if isinstance(value, (list, tuple)) else (value,)
    return ("x" if name == "image_size" else "-").join(f"{each}" for each in values)
