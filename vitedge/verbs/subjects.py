# SPDX-License-Identifier: Apache-2.0
"""Subjects of `evaluate`: bundles, artifacts and checkpoints as predictors of class scores.

In two steps, because what a reference has to be is known only when the artifacts were looked at: `find` opens nothing
large, `opened` loads one subject for the time of a ``with``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitedge import registry
from vitedge.accuracy.count import Predictor, Scores
from vitedge.devices.checking import refusal_there, runtimes_there
from vitedge.devices.runtime import Runtime as RemoteRuntime
from vitedge.devices.session import Session
from vitedge.errors import BadRecipe, MissingBackend, UnreadableArtifact
from vitedge.export.formats import CHECKERS, FORMATS, of_file
from vitedge.files.bundle import MANIFEST, check_files, read_manifest
from vitedge.files.own_files import instead_of_artifact
from vitedge.files.plain import from_dict
from vitedge.parity.artifact import image_size
from vitedge.recipe import ResolvedRecipe
from vitedge.records import Artifact, ModelSpec
from vitedge.runtimes.base import Runtime
from vitedge.runtimes.feeding import run

if TYPE_CHECKING:
    from vitedge.checkpoints.read import CheckpointSource
    from vitedge.models.reference import Reference

_LOGITS = "logits"


@dataclass(frozen=True)
class Weights:
    """How a checkpoint is read, where the file leaves a choice."""

    name: str | None = None
    """Which set of weights, where a file holds several."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Facts that the file does not tell."""
    image_size: tuple[int, int] | None = None
    """Height and width; None is the checkpoint's own."""


@dataclass(frozen=True)
class Subject:
    """One checkpoint or artifact, not loaded."""

    label: str
    source: CheckpointSource
    """A path, a name on the hub, or weights in memory, which are always a checkpoint's."""
    kind: str = "checkpoint"
    """A key of `LOADERS`."""
    artifact: Artifact | None = None
    """None where it is none."""
    image_size: tuple[int, int] | None = None
    """Height and width that it was made for; None for a checkpoint, which is built for any."""
    spec: ModelSpec | None = None
    """The model that an artifact says it is; None where it says nothing."""
    recipe: ResolvedRecipe | None = None
    """The recipe that a bundle's artifact was exported by."""


def find(sources: Iterable[CheckpointSource], left_out: dict[str, str] | None = None) -> list[Subject]:
    """All subjects that a user names, every artifact of a bundle by itself.

    Args:
        sources: checkpoints, artifacts and bundles.
        left_out: gets the engines of bundles that do not run here, with the reason.

    Raises:
        UnreadableArtifact: a bundle or an artifact that cannot be opened as one, or that has no class scores.
        BundleDamaged: a file of a bundle is not the one that its manifest describes.
    """
    left_out = {} if left_out is None else left_out
    found = [subject for source in sources for subject in _find(source, left_out)]
    count = Counter(subject.label for subject in found)
    return [replace(subject, label=str(subject.source)) if count[subject.label] > 1 else subject for subject in found]


def checkpoint(source: CheckpointSource) -> Subject:
    """A file, a folder, or a name on the hub that is taken for a checkpoint; or weights in memory."""
    return Subject(Path(str(source)).name, source)


def opened(
    subject: Subject, weights: Weights, borrowed: ModelSpec | None = None, session: Session | None = None
) -> AbstractContextManager[Predictor]:
    """Loads a subject, for the time of a ``with``.

    Args:
        subject: what to load.
        weights: what the user says about checkpoints.
        borrowed: the model whose preprocessing an artifact takes that does not tell its own.
        session: with the device on which artifacts run; None is this machine, where checkpoints run in any case.

    Raises:
        BadRecipe: an artifact does not tell its preprocessing, and there is nothing to borrow it from.
        UserError: it cannot be read, or it has no class scores.
        MissingBackend: what it runs in is not installed.
    """
    if session is not None and subject.artifact is not None:
        return _run_artifact(subject, weights, borrowed, session)
    return LOADERS[subject.kind](subject, weights, borrowed)


@contextmanager
def _run_artifact(
    subject: Subject, _weights: Weights, borrowed: ModelSpec | None, session: Session | None = None
) -> Iterator[Predictor]:
    artifact = subject.artifact
    if artifact is None:
        raise ValueError(f"{subject.label} is no artifact")
    spec = subject.spec or borrowed
    if spec is None:
        raise BadRecipe(
            f"{subject.source} does not tell how images are prepared for it: add --against CHECKPOINT, whose "
            "preprocessing it then takes."
        )
    spec = replace(spec, image_size=image_size(artifact))
    output = _scores_of(artifact)
    size = artifact.outputs[[entry.name for entry in artifact.outputs].index(output)].shape[-1:]
    classes = size[0] if size and isinstance(size[0], int) else spec.classes
    with _open(str(subject.source), artifact, session) as (name, runtime):

        def scores(pixels: NDArray[np.uint8]) -> Scores:
            found = run(runtime, artifact, pixels, spec, {_LOGITS: output})
            return _checked(found[_LOGITS], classes, str(subject.source))

        note = runtime.describe().get("caveat", "")
        yield Predictor(subject.label, str(subject.source), name, spec, classes, scores, note)


@contextmanager
def _open(source: str, artifact: Artifact, session: Session | None) -> Iterator[tuple[str, Runtime]]:
    """Yields the runtime that an artifact is loaded in, and its name.

    Raises:
        MissingBackend: no runtime of the format works there.
    """
    if session is None:
        name = FORMATS[artifact.format].runtimes[0]
        with registry.load(registry.RUNTIMES, name).Runtime(source) as runtime:
            yield name, runtime
        return
    refused = refusal_there(session, artifact.format)
    if refused:
        raise MissingBackend(refused)
    name = runtimes_there(session, artifact)[0]
    with RemoteRuntime(session, name, Path(source), artifact) as there:
        yield f"{name} on {session.name}", there


def as_predictor(reference: Reference, subject: Subject) -> Predictor:
    """A reference that is already built."""
    spec = reference.spec
    if spec.classes == 0:
        raise BadRecipe(f"{subject.source} is an encoder without classes: nothing of it can be right or wrong.")

    def scores(pixels: NDArray[np.uint8]) -> Scores:
        return reference.outputs(pixels, features=False)[_LOGITS]

    return Predictor(subject.label, str(subject.source), "torch", spec, spec.classes, scores)


@contextmanager
def _run_checkpoint(subject: Subject, weights: Weights, _borrowed: ModelSpec | None) -> Iterator[Predictor]:
    # PyTorch from here on, and only here: artifacts are scored without it where their runtime can do so.
    from vitedge.checkpoints.read import read  # noqa: PLC0415
    from vitedge.models.reference import load_reference  # noqa: PLC0415

    found = read(subject.source, weights=weights.name, overrides=weights.overrides)
    yield as_predictor(load_reference(found, weights.image_size), subject)


@contextmanager
def _run_program(subject: Subject, _weights: Weights, _borrowed: ModelSpec | None) -> Iterator[Predictor]:
    from vitedge.parity.simulation import simulate  # noqa: PLC0415
    from vitedge.quantization.file.model import read_model  # noqa: PLC0415  (PyTorch, which artifacts do without)

    program = read_model(Path(str(subject.source))).program
    spec = program.spec
    if _LOGITS not in (output.name for output in program.outputs):
        raise BadRecipe(f"{subject.source} puts out features: nothing of it can be right or wrong.")

    def scores(pixels: NDArray[np.uint8]) -> Scores:
        return simulate(program, pixels)[_LOGITS]

    yield Predictor(subject.label, str(subject.source), "torch", spec, spec.classes, scores)


LOADERS: Mapping[str, Callable[[Subject, Weights, ModelSpec | None], AbstractContextManager[Predictor]]] = {
    "checkpoint": _run_checkpoint,
    "artifact": _run_artifact,
    "program": _run_program,
}
"""`Subject.kind` to what loads it."""


def _find(source: CheckpointSource, left_out: dict[str, str]) -> Iterator[Subject]:
    if not isinstance(source, str):
        yield checkpoint(source)
        return
    path = Path(source)
    if (path / MANIFEST).is_file():
        yield from _of_bundle(path, left_out)
    else:
        if path.name == MANIFEST and (said := instead_of_artifact(path)):
            raise UnreadableArtifact(f"{source} {said}.")
        yield FINDERS.get(path.suffix, checkpoint)(source)


def _of_bundle(folder: Path, left_out: dict[str, str]) -> Iterator[Subject]:
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    recipe = from_dict(ResolvedRecipe, manifest.recipe)
    for artifact in manifest.artifacts:
        kind = FORMATS[artifact.format]
        refused = registry.refusal(registry.RUNTIMES, kind.runtimes[0]) if kind.made_from else ""
        if refused:  # what it was made from is evaluated
            left_out[f"{folder.name}/{artifact.path}"] = refused
            continue
        place = folder / artifact.path
        _scores_of(replace(artifact, path=str(place)))
        size = image_size(artifact)
        yield Subject(f"{folder.name}/{artifact.path}", str(place), "artifact", artifact, size, manifest.spec, recipe)


def _artifact(source: str) -> Subject:
    path = Path(source)
    if not path.exists():
        raise UnreadableArtifact(f"{source} is not there.")
    name = str(of_file(path))
    if FORMATS[name].made_from:
        raise BadRecipe(f"{source} does not say what it takes and returns: evaluate the bundle that it lies in.")
    check = registry.load(CHECKERS, name)
    artifact: Artifact = check.describe(path)
    _scores_of(artifact)
    return Subject(path.name, source, "artifact", artifact, image_size(artifact), check.carried_spec(path))


def _program(source: str) -> Subject:
    from vitedge.quantization.file.model import read_model  # noqa: PLC0415  (as above)

    path = Path(source)
    spec = read_model(path).program.spec
    return Subject(path.name, source, "program", image_size=spec.image_size, spec=spec)


FINDERS: Mapping[str, Callable[[str], Subject]] = {
    **{kind.suffix: _artifact for kind in FORMATS.values() if kind.suffix},
    ".pt2": _program,
}
"""By suffix; what has another one is taken for a checkpoint."""


def _scores_of(artifact: Artifact) -> str:
    """The output that holds the class scores.

    Raises:
        UnreadableArtifact: there is none.
    """
    names = [output.name for output in artifact.outputs]
    if _LOGITS in names:
        return _LOGITS
    # Core ML does not always tell a shape.
    flat = [output.name for output in artifact.outputs if len(output.shape) in (0, 2)]
    if len(names) == 1 and flat:
        return flat[0]
    raise UnreadableArtifact(
        f"{artifact.path} returns {', '.join(names) or 'no tensors'}, and no class scores (images, classes): "
        "nothing of it can be right or wrong."
    )


def _checked(scores: NDArray[Any], classes: int, source: str) -> Scores:
    if scores.ndim != 2 or scores.shape[1] != classes:
        raise UnreadableArtifact(f"{source} returns scores of shape {scores.shape} for {classes} classes.")
    return scores


def sizes(subjects: Sequence[Subject]) -> tuple[tuple[int, int], ...]:
    """The image sizes that subjects were made for, each once, in their order."""
    return tuple(dict.fromkeys(subject.image_size for subject in subjects if subject.image_size))
