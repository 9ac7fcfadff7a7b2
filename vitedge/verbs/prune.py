# SPDX-License-Identifier: Apache-2.0
"""The verb ``prune``: a checkpoint and images in, a smaller model out, with what that cost."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from vitedge.accuracy.count import count_top1
from vitedge.calibration.cache import hash_key
from vitedge.checkpoints import saved
from vitedge.checkpoints.assumptions import refuse_assumed
from vitedge.checkpoints.read import Checkpoint, CheckpointSource, read
from vitedge.errors import BadImages, BadRecipe, CheckFailed
from vitedge.files.plain import to_dict
from vitedge.files.replacing import clear_debris, refuse_existing_file, replacing_file
from vitedge.images.class_names import classes_of
from vitedge.images.image_set import ImageSet, load
from vitedge.images.labelled import find_labelled
from vitedge.images.stream import open_images
from vitedge.models.cost import count_gmacs
from vitedge.models.reference import Reference, load_reference, skeleton
from vitedge.parity.metrics import compare, degeneracy
from vitedge.progress import Progress, reporting, stage
from vitedge.pruning.costs import count_prices
from vitedge.pruning.draft import Batches, Draft
from vitedge.pruning.journal import Journal
from vitedge.pruning.merging import merge_tokens
from vitedge.pruning.ranking import Ranking
from vitedge.pruning.recipe import PruningRecipe
from vitedge.pruning.records import (
    Distance,
    Merging,
    PrunedPoint,
    PruningRecord,
    PruningResult,
    Recovery,
    Sparsification,
    Structured,
)
from vitedge.pruning.recover import recover
from vitedge.pruning.sparse import sparsify
from vitedge.pruning.structured import prune_structured, rank, sizes_of_fractions
from vitedge.quantization.file.header import SUFFIX as QUANTIZED
from vitedge.records import CheckpointIdentity, Step
from vitedge.verbs.pruned_latency import Clock, find_sizes

R = TypeVar("R")
MEASURED = 64
"""Further images that the distance to the dense model is measured on: on those of a refit it would look too small."""
_DOING = {
    "fewer heads and units": "removing heads and units",
    "sparse weights": "zeroing weights",
    "merged tokens": "merging tokens",
    "recovered": "recovering",
}
"""Name of a stage's result to the title of the stage."""
_RECOVERY_IMAGES = 1_000_000
"""Most images that a model learns from."""


def prune(
    source: CheckpointSource,
    out: Path,
    recipe: PruningRecipe,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> PruningResult:
    """Writes a pruned model: plain weights with its spec, which every other verb reads.

    Args:
        source: a file, a folder, ``timm:NAME`` or ``hf:NAME``; or weights in memory.
        out: the ``.safetensors`` file to write; what is there stays until the new one is complete.
        recipe: what is to be pruned, and how.
        force: replace a file that is there.
        progress: as `vitedge.progress.reporting` takes it: who is told how far it is; None tells nobody.

    Raises:
        UserError: the checkpoint, the images, the recipe or the output is not usable.
        CheckFailed: the outputs of the dense model are degenerate, so that nothing could be compared with them.
    """
    _refuse_output(out, force=force)
    if recipe.images is None:
        raise BadRecipe(
            "Pruning ranks and refits on images, and assumes none: add --images DIR, a list, an array, or the word "
            "synthetic."
        )
    with reporting(progress), stage("prune", whole=True):
        return _read_and_pruned(source, out, recipe)


def _read_and_pruned(source: CheckpointSource, out: Path, recipe: PruningRecipe) -> PruningResult:
    if Path(str(source)).suffix == QUANTIZED:
        raise BadRecipe(f"{source} is quantized: prune the checkpoint that it was made from, then quantize.")
    with stage("reading the checkpoint"):
        read_checkpoint = read(source, weights=recipe.weights, overrides=recipe.overrides)
    return _pruned(read_checkpoint, out, recipe)


def _refuse_output(out: Path, *, force: bool) -> None:
    if out.suffix != saved.SUFFIX:
        name = shlex.quote(str(out.with_suffix(saved.SUFFIX)))
        raise BadRecipe(f"A pruned model is a {saved.SUFFIX} file; name the output {name}.")
    refuse_existing_file(out, force=force)
    clear_debris(out)


def _pruned(checkpoint: Checkpoint, out: Path, recipe: PruningRecipe) -> PruningResult:
    """Prunes a checkpoint that was read."""
    source = checkpoint.source
    refuse_assumed(checkpoint.spec, source, accepted=recipe.accept_assumptions or checkpoint.accepted)
    dense = load_reference(checkpoint, recipe.image_size)
    images = load(str(recipe.images), dense.spec, recipe.image_count + MEASURED, recipe.seed)
    job = Job(dense, images, recipe, out)
    job.check(source)
    identity = CheckpointIdentity(source, checkpoint.sha256(), checkpoint.size, checkpoint.weight_set)
    journal = Journal(_key(identity, recipe, images))
    try:
        record, draft = job.run(journal)
    except BadRecipe:
        journal.clear()  # another recipe has another one
        raise
    step = Step("prune", identity, to_dict(recipe), to_dict(record))
    with replacing_file(out) as partial:
        saved.save(partial, draft.module.state_dict(), draft.spec, (*checkpoint.steps, step))
    journal.clear()
    job.state_path.unlink(missing_ok=True)
    return PruningResult(str(out), out.stat().st_size, draft.spec.variant, record, job.missed(record))


def _key(identity: CheckpointIdentity, recipe: PruningRecipe, images: ImageSet) -> str:
    """Returns the digest of everything that decides what pruning computes."""
    parts = {"weights": identity.sha256, "set": identity.weight_set, "images": images.sha256}
    return hash_key({**parts, "recipe": repr(to_dict(recipe)), "torch": torch.__version__})


@dataclass
class Job:
    """One pruning: the dense model, what was asked for, and what was seen on the way."""

    dense: Reference
    images: ImageSet
    recipe: PruningRecipe
    out: Path
    seconds: dict[str, float] = field(default_factory=dict)
    frontier: list[PrunedPoint] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Holds every few images out, so that both sets have all classes of a sorted folder."""
        pixels = self.images.pixels
        spare = max(0, len(pixels) - self.recipe.image_count)
        held = np.zeros(len(pixels), bool)
        held[np.linspace(0, len(pixels) - 1, spare).round().astype(int)] = True
        self.fitted = pixels[~held]
        self.measured = pixels[held] if spare > 1 else pixels

    @property
    def state_path(self) -> Path:
        """Returns where an unfinished recovery is kept."""
        return self.out.with_name(f".{self.out.name}.recovery")

    @property
    def features(self) -> bool:
        """Whether the model has no classes, so that tokens and pooled features are compared."""
        return self.dense.spec.classes == 0

    def check(self, source: str) -> None:
        """Refuses a dense model that nothing can be compared with, and evaluation images that do not fit.

        Raises:
            CheckFailed: its outputs are degenerate.
            BadRecipe: classes are to be counted, and there are none.
        """
        self.reference = self.dense.outputs(self.measured, features=self.features)
        unusable = degeneracy(self.reference)
        if unusable:
            raise CheckFailed(
                f"{source}: {unusable}, on {self.images.source}: check the checkpoint with vitedge inspect, or name "
                "images that differ."
            )
        self.notes += [f"skipped: {name}: {reason}" for name, reason in self.images.skipped.items()]
        if len(self.fitted) < self.recipe.image_count:
            self.notes.append(f"{len(self.fitted)} images were found; {self.recipe.image_count} were asked for.")
        if self.measured is self.images.pixels:
            self.notes.append(
                "There are no images beside those of the refit, so the distance is measured on these, and looks too "
                "small."
            )
        if self.recipe.eval_images is not None and self.features:
            raise BadRecipe("--eval counts classes, and features are none: ask for --min-sqnr instead.")
        self._check_later_stages()

    def _check_later_stages(self) -> None:
        """Refuses now what a later stage would refuse after an hour.

        Raises:
            UserError: the schedule of merging does not fit, or there are no images to recover on.
        """
        spec = self.dense.spec
        if self.recipe.merge is not None:
            images = Batches(self.fitted, spec.preprocessing)
            merge_tokens(Draft(skeleton(spec), self.dense, images, spec), self.recipe)
        if self.recipe.recover is not None:
            with _asked_by("--recover"):
                open_images(self.recipe.recover, spec, _RECOVERY_IMAGES, self.recipe.seed)

    def run(self, journal: Journal) -> tuple[PruningRecord, Draft]:
        """Prunes, stage by stage, and measures after each of them."""
        recipe = self.recipe
        draft = Draft.of(self.dense, Batches(self.fitted, self.dense.spec.preprocessing))
        before = (draft.gmacs, _parameters(draft))
        self._measure("dense", draft)
        structured = (
            self._stage("fewer heads and units", draft, self._structured, journal) if recipe.is_structured else None
        )
        sparse = self._stage("sparse weights", draft, self._sparse) if recipe.sparsity is not None else None
        merging = self._stage("merged tokens", draft, self._merged) if recipe.merge is not None else None
        recovery = self._stage("recovered", draft, self._recovered) if recipe.recover is not None else None
        notes = (*self.notes, *(structured.notes if structured else ()), *_kept(journal))
        record = PruningRecord(
            images=len(self.fitted),
            image_source=self.images.source,
            gmacs=(before[0], self.frontier[-1].macs * before[0]),
            parameters=(before[1], _parameters(draft)),
            structured=structured,
            sparsification=sparse,
            merging=merging,
            recovery=recovery,
            distance=self._distance(draft),
            frontier=tuple(self.frontier),
            seconds=self.seconds,
            notes=notes,
        )
        return record, draft

    def missed(self, record: PruningRecord) -> str:
        """Returns the budget that the result exceeds, or the empty string."""
        asked, found = self.recipe, record.distance.sqnr_db
        if asked.min_sqnr is not None and not found >= asked.min_sqnr:
            return f"{found:.1f} dB centred SQNR against the dense model, and {asked.min_sqnr:g} dB were asked for"
        first, last = self.frontier[0].top1, self.frontier[-1].top1
        if asked.max_drop is not None and first is not None and last is not None:
            drop = 100 * (first - last)
            if drop > asked.max_drop:
                return f"{drop:.2f} points of top-1 are lost, and {asked.max_drop:g} were allowed"
        return ""

    def _stage(self, name: str, draft: Draft, run: Callable[..., R], *arguments: Any) -> R:
        """Runs one stage, and adds what it left to the frontier."""
        begun = time.monotonic()
        with stage(_DOING[name]):
            done = run(draft, *arguments)
        self.seconds[name] = round(time.monotonic() - begun, 2)
        self._measure(name, draft)
        return done

    def _sparse(self, draft: Draft) -> Sparsification:
        done = sparsify(draft, self.recipe)
        self.notes.append(done.note)
        return done

    def _merged(self, draft: Draft) -> Merging:
        return merge_tokens(draft, self.recipe)

    def _structured(self, draft: Draft, journal: Journal) -> Structured:
        rankings = rank(draft, self.recipe, journal)
        names = [ranking.part.name for ranking in rankings]
        kept = journal.read("sizes")
        if kept is None:  # measured times differ from run to run, and what was refitted has the first run's sizes
            sizes = self._sizes(draft, rankings)
            journal.write("sizes", {"sizes": torch.tensor([sizes[name] for name in names])})
        else:
            sizes = dict(zip(names, kept["sizes"].tolist(), strict=True))
        return prune_structured(draft, self.recipe, rankings, sizes, journal)

    def _sizes(self, draft: Draft, rankings: Sequence[Ranking]) -> dict[str, int]:
        """Returns the number of units that each part keeps."""
        recipe = self.recipe
        if recipe.macs is None and recipe.latency is None:
            return sizes_of_fractions(rankings, recipe)
        prices = count_prices(draft.spec, recipe.multiple)
        if recipe.macs is not None:
            return prices.sizes(rankings, recipe.macs, "macs")
        clock = Clock(self.dense, recipe.runtime)
        sizes, took = find_sizes(clock, rankings, prices, recipe.latency or 1.0)
        self.notes.append(f"It takes {took:.3f} of the dense model's time in {recipe.runtime} here.")
        return sizes

    def _recovered(self, draft: Draft) -> Recovery:
        recipe = self.recipe
        stream = open_images(str(recipe.recover), draft.spec, _RECOVERY_IMAGES, recipe.seed)
        done = recover(draft, stream, recipe, state_path=self.state_path)
        self.notes += [done.note] * bool(done.note)
        return done

    def _measure(self, name: str, draft: Draft) -> None:
        """Adds what the draft is now to the frontier."""
        top1 = None
        if self.recipe.eval_images is not None:
            with stage(f"counting top-1: {name}"):
                top1 = self._top1(draft)
        module = Reference(draft.module, draft.spec)
        sqnr = None if name == "dense" else self._distance(draft).sqnr_db
        macs = count_gmacs(module.spec) / draft.gmacs
        self.frontier.append(PrunedPoint(name, macs, sqnr, top1))

    def _top1(self, draft: Draft) -> float:
        spec = draft.spec
        classes = classes_of(spec)
        source = str(self.recipe.eval_images)
        with _asked_by("--eval"):
            labelled = find_labelled(source, classes, seed=self.recipe.seed, channels=spec.in_channels)
        module = Reference(draft.module, spec)

        def scores(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            return module.outputs(pixels, features=False)["logits"]

        right, images = count_top1(labelled, spec, scores)
        return right / images

    def _distance(self, draft: Draft) -> Distance:
        found: Mapping[str, Any] = Reference(draft.module, draft.spec).outputs(self.measured, features=self.features)
        parity = compare(self.reference, found, None if self.features else "logits")[-1]
        return Distance(len(self.measured), self.images.source, parity.centred_sqnr_db, parity.agreement)


@contextmanager
def _asked_by(option: str) -> Iterator[None]:
    """Has errors about images name the option that asked for them."""
    try:
        yield
    except BadImages as error:
        raise BadImages(str(error).replace("--images", option)) from error


def _parameters(draft: Draft) -> int:
    return sum(parameter.numel() for parameter in draft.module.parameters())


def _kept(journal: Journal) -> Iterator[str]:
    """Yields what an earlier run has left, and why this one leaves nothing."""
    if journal.resumed:
        yield f"{journal.resumed} results were those of an earlier run that had not ended."
    if journal.refused:
        yield f"Nothing was kept for the case that this run is killed: {journal.refused}"
