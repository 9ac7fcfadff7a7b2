# SPDX-License-Identifier: Apache-2.0
"""Vision transformer checkpoints in, verified ONNX and Core ML out.

The verbs of the command line, as functions that return the records of `vitedge.records`. Importing this package
imports nothing heavy; a verb imports what it needs when it is called.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitedge.models.reference import Reference
    from vitedge.recipe import ExportRecipe
    from vitedge.records import BenchReport, ExportResult, Inspection, Validation
    from vitedge.validation import Against

__all__ = ["bench", "export", "inspect", "load", "validate"]


def inspect(source: str, *, weights: str | None = None, overrides: Mapping[str, Any] | None = None) -> Inspection:
    """Says what is in a checkpoint. See `vitedge.inspection.inspect`."""
    from vitedge.inspection import inspect as run

    return run(source, weights=weights, overrides=overrides)


def load(
    source: str,
    *,
    image_size: tuple[int, int] | None = None,
    weights: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Reference:
    """Builds the PyTorch reference of a checkpoint. See `vitedge.models.reference.load_reference`."""
    from vitedge.checkpoints.read import read
    from vitedge.models.reference import load_reference

    return load_reference(read(source, weights=weights, overrides=overrides), image_size)


def export(source: str, bundle: str | Path, recipe: ExportRecipe | None = None, *, force: bool = False) -> ExportResult:
    """Writes a verified bundle of a checkpoint. See `vitedge.pipeline.export`."""
    from vitedge.pipeline import export as run

    return run(source, Path(bundle), recipe, force=force)


def validate(
    subject: str | Path,
    *,
    against: str | Against | None = None,
    layers: bool = False,
    compute: str = "declared",
    stress: bool = False,
) -> Validation:
    """Checks a bundle, or compares an artifact with a checkpoint. See `vitedge.validation.validate`.

    Args:
        subject: a bundle, an ``.onnx`` file or an ``.mlpackage``.
        against: a checkpoint, or an `Against` with the images, the weight set and the facts given by hand.
        layers: compare layer by layer with a checkpoint.
        compute: ``declared``, or ``fp32`` for a Core ML package without the rounding of half precision.
        stress: watch the ranges of a Core ML package's values.
    """
    from vitedge.validation import Against, Manner
    from vitedge.validation import validate as run

    reference = Against(against, layers=layers) if isinstance(against, str) else against
    return run(Path(subject), reference, Manner(compute, stress))


def bench(subjects: Sequence[str], *, device: str = "local", threads: int | None = None) -> BenchReport:
    """Measures latency, interleaved. See `vitedge.benchmark.bench`."""
    from vitedge.benchmark import bench as run

    return run(subjects, device=device, threads=threads)


class _VerbPackage(ModuleType):
    """A subpackage that shares its name with a verb, such as `vitedge.export`: it can be called as the verb."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _VERBS[self.__name__.rpartition(".")[2]](*arguments, **named)


class _Package(ModuleType):
    """This package: importing a subpackage binds its name here, and must not take a verb away."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _VERBS and isinstance(value, ModuleType):
            value.__class__ = _VerbPackage
        super().__setattr__(name, value)


_VERBS = {"export": export}
sys.modules[__name__].__class__ = _Package
