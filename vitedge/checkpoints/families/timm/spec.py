# SPDX-License-Identifier: Apache-2.0
"""Infers the spec of a model that is built by its name in timm."""

from __future__ import annotations

from vitedge.checkpoints.families.configuration import find_image_size, find_labels
from vitedge.checkpoints.families.family import Hints, State
from vitedge.checkpoints.families.processor import find_preprocessing
from vitedge.checkpoints.families.timm.signature import Known, shapes_of, signature
from vitedge.errors import UnknownArchitecture
from vitedge.records import ModelSpec, Origin, Preprocessing

NAME = "timm"


def infer(state: State, known: Known, origin: Origin, hints: Hints) -> ModelSpec:
    """Infers the spec from the index's entry, and from the shapes of the first and the last weights.

    Heads, depth and the like have no entries: timm's name stands for them.

    Args:
        state: weights in timm's names.
        known: the model that they are taken for.
        origin: what says that it is this model.
        hints: configuration and the user's overrides.

    Raises:
        UnknownArchitecture: the image size is another than the model's own, and has to be given.
    """
    channels = _first_of(state, known.first, axis=1, default=known.input_size[0])
    classes = _first_of(state, known.classifier, axis=0, default=0)
    size, size_origin = _image_size(state, known, hints)
    table = Preprocessing(known.mean, known.std, known.interpolation, known.crop)
    preprocessing, origins, notes = find_preprocessing(hints, table, channels)
    return ModelSpec(
        family=NAME,
        variant=known.name,
        naming="timm",
        image_size=size,
        in_channels=channels,
        classes=classes,
        widths=(known.width,),
        depths=(),
        heads=(),
        mlp_ratios=(),
        patch=0,
        tokens=(),
        norm_eps=0.0,
        activation="",
        preprocessing=preprocessing,
        labels=find_labels(hints, classes),
        options={"model": known.name},
        origins={
            **origins,
            "variant": origin,
            "options.model": origin,
            "image_size": size_origin,
            "in_channels": Origin.SHAPE,
            "classes": Origin.SHAPE,
            "widths": Origin.SHAPE,
        },
        notes=notes,
    )


def _first_of(state: State, modules: tuple[str, ...], *, axis: int, default: int) -> int:
    """Returns the size of an axis of the first module's weight that is there."""
    for module in modules:
        weight = state.get(f"{module}.weight")
        if weight is not None and weight.ndim > axis:
            return int(weight.shape[axis])
    return default


def _image_size(state: State, known: Known, hints: Hints) -> tuple[tuple[int, int], Origin]:
    named = find_image_size(hints)
    if named is not None:
        return named
    own = (known.input_size[1], known.input_size[2])
    if signature(shapes_of(state)).sized == known.signature.sized:
        return own, Origin.TABLE
    raise UnknownArchitecture(
        f"The weights are those of timm's {known.name} at another image size than {own[0]}x{own[1]}; "
        "say which with --set image_size=HxW."
    )
