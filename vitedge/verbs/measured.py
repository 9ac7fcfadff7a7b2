# SPDX-License-Identifier: Apache-2.0
"""The subjects of ``bench`` as models that a device can run, each with what it is compared with there."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitedge.devices.checking import too_old
from vitedge.devices.session import Session
from vitedge.errors import BadRecipe, MissingBackend, UnreadableArtifact
from vitedge.export.formats import FORMATS, of_file
from vitedge.files.bundle import MANIFEST, check_listed, read_manifest
from vitedge.files.digest import hash_file, hash_listing
from vitedge.files.plain import to_dict
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule
from vitedge.parity.artifact import ReferenceOutputs, sealed_outputs
from vitedge.progress import stage
from vitedge.quantization.file.header import SUFFIX
from vitedge.recipe import ExportRecipe
from vitedge.records import Artifact
from vitedge.registry import LOCAL

if TYPE_CHECKING:
    from vitedge.checkpoints.memory import InMemory
    from vitedge.checkpoints.read import CheckpointSource

HUBS = ("timm:", "hf:")
"""How names of the hub begin."""
REFERENCE = "vitedge.models.reference:measured"
"""The function that the process that measures PyTorch calls for a checkpoint."""


@dataclass(frozen=True)
class Subjects:
    """What is measured, as users name it."""

    names: tuple[CheckpointSource, ...]
    """Paths, names on the hub, and weights in memory."""
    image_size: tuple[int, int] | None
    """Height and width for checkpoints."""

    @staticmethod
    def of(names: Sequence[CheckpointSource], image_size: tuple[int, int] | None) -> Subjects:
        """Returns the subjects of these names."""
        return Subjects(tuple(names), image_size)

    def check(self) -> None:
        """Refuses what is not there, before a device is reached for it.

        Raises:
            UnreadableArtifact: there is no such file or folder, and it is no name of the hub.
            BadRecipe: one is named twice.
        """
        for name, times in Counter(self.names).items():
            if times > 1:
                raise BadRecipe(f"Each subject is named once; got {name} {times} times.")
            if isinstance(name, str) and not Path(name).exists() and not name.startswith(HUBS):
                raise UnreadableArtifact(
                    f"{name} is not there: give a bundle, an artifact or a checkpoint, or timm:NAME or hf:NAME for "
                    "the hub."
                )

    def asked(self, threads: int | None, rule: Rule | None) -> dict[str, Any]:
        """Returns what a saved run is told by from another: subjects with their hashes, and how they are measured."""
        hashes = {str(name): _hash(name) for name in self.names}
        size = list(self.image_size) if self.image_size else None
        return {"subjects": hashes, "image_size": size, "threads": threads, "rule": to_dict(rule or Rule())}


@dataclass(frozen=True)
class Model:
    """One model to be measured."""

    measured: MeasuredModel
    artifact: Artifact | None = None
    """Its record, where it lies in a bundle."""
    reference_outputs: ReferenceOutputs | None = None
    """What its reference computes, where it lies in a bundle."""


@dataclass
class Place:
    """A device, and what is made for it while it is measured on."""

    session: Session
    runtime: str | None
    """The runtime that artifacts have to run in; None is the usual one of their format."""
    stack: ExitStack
    """Holds temporary bundles."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what was made."""

    def runtime_of(self, form: str, name: str) -> tuple[str, str]:
        """Returns the runtime that an artifact is measured in, and why it does not work there, or empty."""
        known = (*FORMATS[form].runtimes, *FORMATS[form].further)
        if self.runtime is not None and self.runtime not in known:
            return self.runtime, f"{name} does not run in {self.runtime}: its format has {', '.join(known)}."
        chosen = self.runtime or FORMATS[form].runtimes[-1]
        return chosen, self.session.refusal(chosen)


def is_checkpoint(name: CheckpointSource) -> bool:
    """Returns whether a subject is neither a bundle nor an artifact, so that its image size can be chosen."""
    if not isinstance(name, str):
        return True
    path = Path(name)
    return not (path / MANIFEST).is_file() and of_file(path) is None and path.suffix != SUFFIX


def find_models(subjects: Subjects, place: Place, left_out: dict[str, str]) -> list[Model]:
    """Returns the models that a device measures of all subjects.

    Args:
        subjects: what was named.
        place: the device.
        left_out: gets the artifacts of bundles that do not run there, with the reason.

    Raises:
        UserError: a subject is not there or cannot be read.
        MissingBackend: nothing of any subject runs there.
    """
    found = {name: tuple(_models(name, subjects, place, left_out)) for name in subjects.names}
    models = [model for of_one in found.values() for model in of_one]
    if not models:
        raise MissingBackend(" ".join(dict.fromkeys(left_out.values())))
    first = subjects.names[0]
    if len(models) > 1 and not found[first]:
        place.notes.append(f"{first} was left out, so the others are compared with {models[0].measured.label}")
    return _told_apart(models)


def _models(name: CheckpointSource, subjects: Subjects, place: Place, left_out: dict[str, str]) -> Iterator[Model]:
    """Yields the models of a subject that the device can run; what it cannot goes into ``left_out``."""
    if not isinstance(name, str):
        yield from _held(name, subjects, place, left_out)
        return
    path = Path(name)
    kind = of_file(path)
    if (path / MANIFEST).is_file():
        yield from _of_bundle(path, path.name, place, left_out)
    elif kind is not None:
        runtime, refused = place.runtime_of(kind, path.name)
        if refused:
            left_out[path.name if path.name not in left_out else name] = refused
        else:
            yield Model(MeasuredModel(path.name, runtime, name))
    elif place.session.name == LOCAL and path.suffix != SUFFIX:
        if place.runtime not in (None, "torch"):
            raise BadRecipe(f"{name} is a checkpoint, which runs in torch here: export it to measure it elsewhere.")
        options = {} if subjects.image_size is None else {"image_size": list(subjects.image_size)}
        yield Model(MeasuredModel(path.name, "torch", name, factory=REFERENCE, options=options))
    else:
        yield from _exported(path, subjects.image_size, place, left_out)


def _held(source: InMemory, subjects: Subjects, place: Place, left_out: dict[str, str]) -> Iterator[Model]:
    """Yields weights in memory as a checkpoint: other processes and devices read them from a temporary file."""
    from vitedge.checkpoints.read import read  # noqa: PLC0415  (PyTorch, which artifacts do without)
    from vitedge.checkpoints.saved import SUFFIX as WEIGHTS  # noqa: PLC0415
    from vitedge.checkpoints.saved import save  # noqa: PLC0415

    folder = Path(place.stack.enter_context(tempfile.TemporaryDirectory(prefix="vitedge-")))
    found = read(source)
    save(folder / f"model{WEIGHTS}", found.state, found.spec, found.steps)
    for model in _models(str(folder / f"model{WEIGHTS}"), subjects, place, left_out):
        yield replace(model, measured=replace(model.measured, label=str(source)))


def _of_bundle(path: Path, name: str, place: Place, left_out: dict[str, str]) -> Iterator[Model]:
    """Yields every artifact that the device can run; the others go into ``left_out``, with the reason.

    Raises:
        BundleDamaged: a file is not the one that the manifest describes.
    """
    manifest = read_manifest(path)
    check_listed(path, manifest)
    reference_outputs: ReferenceOutputs | None = None
    for artifact in manifest.artifacts:
        runtime, refused = place.runtime_of(artifact.format, artifact.path)
        refused = refused or too_old(place.session, artifact, runtime)
        label, source = f"{name}/{artifact.path}", str(path / artifact.path)
        if refused:
            left_out[label if label not in left_out else source] = refused
            continue
        reference_outputs = reference_outputs or sealed_outputs(path, manifest)
        yield Model(MeasuredModel(label, runtime, source, declared=declared(artifact)), artifact, reference_outputs)


def declared(artifact: Artifact) -> Mapping[str, Any]:
    """Returns the inputs and outputs of an artifact as plain values, for `MeasuredModel.declared`."""
    found: dict[str, Any] = to_dict({"inputs": artifact.inputs, "outputs": artifact.outputs})
    return found


def _exported(
    path: Path, image_size: tuple[int, int] | None, place: Place, left_out: dict[str, str]
) -> Iterator[Model]:
    """Yields the fp32 ONNX file of a checkpoint: devices run no PyTorch."""
    from vitedge.verbs.export import export  # noqa: PLC0415  (PyTorch, which artifacts do without)

    folder = Path(place.stack.enter_context(tempfile.TemporaryDirectory(prefix="vitedge-")))
    written = "ONNX" if path.suffix == SUFFIX else "ONNX in fp32"  # a quantized program keeps its precision
    with stage(f"exporting {path} to {written} for {place.session.name}"):
        export(str(path), folder / path.stem, ExportRecipe(formats=("onnx",), image_size=image_size))
    why = "which runs no PyTorch" if place.session.name != LOCAL else "where programs run in no other form"
    place.notes.append(f"{path.name} was exported to {written} for {place.session.name}, {why}")
    refused: dict[str, str] = {}
    for model in _of_bundle(folder / path.stem, path.stem, place, refused):
        yield replace(model, measured=replace(model.measured, label=path.name))
    left_out.update({str(path): reason for reason in refused.values()})


def _told_apart(models: Sequence[Model]) -> list[Model]:
    """Models of one name, such as ``model.onnx`` of two bundles, go by their whole paths."""
    count = Counter(model.measured.label for model in models)
    return [
        replace(model, measured=replace(model.measured, label=model.measured.source))
        if count[model.measured.label] > 1
        else model
        for model in models
    ]


def _hash(source: CheckpointSource) -> str:
    """Returns the SHA-256 of a file, of a folder's files or of weights in memory; empty of what is none of them.

    The weights of a checkpoint lie in its folder itself: what is below may be anything, as below a home folder.
    """
    if not isinstance(source, str):
        return source.container().sha256()
    path = Path(source)
    if path.is_dir():
        is_ours = of_file(path) is not None or (path / MANIFEST).is_file()
        found = path.rglob("*") if is_ours else path.glob("*")
        return hash_listing({file.relative_to(path).as_posix(): hash_file(file) for file in found if file.is_file()})
    return hash_file(path) if path.is_file() else ""
