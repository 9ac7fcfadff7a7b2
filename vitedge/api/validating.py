# SPDX-License-Identifier: Apache-2.0
"""The function `vitedge.validate`. It does without PyTorch where no model is given to compare with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.api.images import as_images
from vitedge.api.settings import combined, facts
from vitedge.api.sources import as_source
from vitedge.errors import BadRecipe
from vitedge.progress import Progress
from vitedge.recipe import IMAGE_COUNT
from vitedge.records import Preprocessing, Tolerance, Validation
from vitedge.verbs.validate import ReferenceOptions, ValidationOptions
from vitedge.verbs.validate import validate as run

if TYPE_CHECKING:
    from vitedge.api.images import Images
    from vitedge.api.sources import Model


def validate(
    subject: str | os.PathLike[str],
    *,
    against: Model | ReferenceOptions | None = None,
    images: Images | None = None,
    image_count: int | None = None,
    normalized: bool = False,
    layers: bool | None = None,
    tolerance: Tolerance | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    compute: str = "declared",
    overflow: bool = False,
    device: str = "local",
    progress: Progress | None = None,
) -> Validation:
    """Checks a bundle again, or compares an artifact with a model.

    A bundle is compared with its own reference outputs, without the checkpoint and without PyTorch.

    Args:
        subject: a bundle, an ``.onnx`` file or an ``.mlpackage``, or what `export` returned; an artifact outside of a
            bundle needs ``against``.
        against: a checkpoint, a module in memory, a state dict or what `load` returned to compare with; or
            `ReferenceOptions` that also say what follows, and which set of weights.
        images: those to compare on, as `export` takes them; None is synthetic ones.
        image_count: how many of them; None is 8.
        normalized: whether arrays are the model's input: of its size, and normalized with its mean and std.
        layers: compare layer by layer.
        tolerance: of parity; None is the bundle's, or the default of the precision and the family.
        preprocessing: how images are prepared: a record, or a mapping of some of its fields.
        overrides: fields of `ModelSpec` or `Preprocessing` to the values that they really have.
        compute: ``declared``, or ``fp32`` for a Core ML package without the rounding of half precision.
        overflow: check how near the values of a Core ML package come to what float16 can hold.
        device: where artifacts run besides, such as ``ssh:HOST``.
        progress: who is told how far it is: such as ``print``, or a ``rich.progress.Progress``.

    Returns:
        A report for every artifact and runtime; ``passed`` sums them up.

    Raises:
        BundleDamaged: a file of the bundle is not the one that its manifest describes.
        UnreadableArtifact: the subject is neither a bundle nor an artifact.
        BadRecipe: an artifact without a model to compare with, or settings of one where none is given.

    Example:
        >>> vitedge.validate("bundle").passed
        True
        >>> found = vitedge.validate("bundle/model.onnx", against="mystery.pth", layers=True)
        >>> [layer.output for layer in found.parity[0].layers if layer.relative_error > 1e-3]
        []
    """
    said: dict[str, Any] = {"image_count": image_count, "layers": layers or None, "tolerance": tolerance}
    reference = against if isinstance(against, ReferenceOptions) else None
    count = image_count or (IMAGE_COUNT if reference is None else reference.image_count)
    said["images"] = as_images(images, count, 0, normalized=normalized)
    said["overrides"] = facts(overrides, None, preprocessing) or None
    if against is None:
        _refuse_idle(said)
    elif not isinstance(against, ReferenceOptions):
        said["checkpoint"] = as_source(against, said["overrides"])
    chosen = None if against is None else combined(ReferenceOptions, reference, said)
    return run(Path(subject), chosen, ValidationOptions(compute, overflow, device), progress=progress)


def _refuse_idle(said: Mapping[str, Any]) -> None:
    """Refuses settings of a comparison with a checkpoint, where there is none.

    Raises:
        BadRecipe: names them.
    """
    if said["layers"]:
        raise BadRecipe("Layers are compared with those of a checkpoint: say which one with against.")
    idle = [name for name, value in said.items() if value is not None]
    if idle:
        raise BadRecipe(
            f"{' and '.join(idle)} would do nothing: a bundle has its own reference outputs; say against=CHECKPOINT to "
            "compare with that."
        )
