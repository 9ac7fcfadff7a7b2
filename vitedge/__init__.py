# SPDX-License-Identifier: Apache-2.0
"""Vision transformer checkpoints in, verified ONNX and Core ML out.

The verbs of the command line, as functions that return the records of `vitedge.records`. Importing this package
imports nothing heavy; a verb imports what it needs when it is called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitedge.accuracy.records import Evaluation
    from vitedge.models.reference import Reference
    from vitedge.quantization.records import QuantizationResult
    from vitedge.recipe import ExportRecipe
    from vitedge.records import BenchReport, ExportResult, Inspection, Validation
    from vitedge.verbs.validate import Against

__all__ = ["bench", "evaluate", "export", "inspect", "load", "quantize", "validate"]


def inspect(source: str, *, weights: str | None = None, overrides: Mapping[str, Any] | None = None) -> Inspection:
    """Says what is in a checkpoint. See `vitedge.verbs.inspect.inspect`."""
    from vitedge.verbs.inspect import inspect as run

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
    """Writes a verified bundle of a checkpoint. See `vitedge.verbs.export.export`."""
    from vitedge.verbs.export import export as run

    return run(source, Path(bundle), recipe, force=force)


def quantize(source: str, out: str | Path, recipe: ExportRecipe, *, force: bool = False) -> QuantizationResult:
    """Writes a quantized program of a checkpoint. See `vitedge.verbs.quantize.quantize`."""
    from vitedge.verbs.quantize import quantize as run

    return run(source, Path(out), recipe, force=force)


def validate(
    subject: str | Path,
    *,
    against: str | Against | None = None,
    layers: bool = False,
    compute: str = "declared",
    stress: bool = False,
) -> Validation:
    """Checks a bundle, or compares an artifact with a checkpoint. See `vitedge.verbs.validate.validate`.

    Args:
        subject: a bundle, an ``.onnx`` file or an ``.mlpackage``.
        against: a checkpoint, or an `Against` with the images, the weight set and the facts given by hand.
        layers: compare layer by layer with a checkpoint.
        compute: ``declared``, or ``fp32`` for a Core ML package without the rounding of half precision.
        stress: watch the ranges of a Core ML package's values.
    """
    from vitedge.verbs.validate import Against, Manner
    from vitedge.verbs.validate import validate as run

    reference = Against(against, layers=layers) if isinstance(against, str) else against
    return run(Path(subject), reference, Manner(compute, stress))


def bench(subjects: Sequence[str], *, device: str = "local", threads: int | None = None) -> BenchReport:
    """Measures latency, interleaved. See `vitedge.benchmark.bench`."""
    from vitedge.benchmark import bench as run

    return run(subjects, device=device, threads=threads)


def evaluate(
    subjects: str | Path | Sequence[str | Path],
    images: str | Path,
    *,
    against: str | None = None,
    image_count: int | None = None,
    seed: int = 0,
    max_drop: float | None = None,
    weights: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    image_size: tuple[int, int] | None = None,
) -> Evaluation:
    """Counts what is classified correctly. See `vitedge.verbs.evaluate.evaluate`.

    Args:
        subjects: checkpoints, artifacts and bundles, or one of them.
        images: class folders, a ``.csv`` of path and label, or an ``.npz`` of images and labels.
        against: the checkpoint that agreement is with.
        image_count: how many images, drawn evenly from the classes; None takes all.
        seed: decides which are drawn.
        max_drop: percentage points of top-1 that may be lost against the reference, or else the first subject.
        weights: which set of weights of a checkpoint.
        overrides: facts that a checkpoint does not tell.
        image_size: height and width for checkpoints; None is their own.
    """
    from vitedge.verbs.evaluate import Request
    from vitedge.verbs.evaluate import evaluate as run
    from vitedge.verbs.subjects import Weights

    named = [subjects] if isinstance(subjects, (str, Path)) else subjects
    choice = Weights(weights, overrides or {}, image_size)
    request = Request(str(images), image_count, seed, against, max_drop, choice)
    return run([str(subject) for subject in named], request)


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


_VERBS: dict[str, Callable[..., Any]] = {"export": export, "quantize": quantize}
sys.modules[__name__].__class__ = _Package
