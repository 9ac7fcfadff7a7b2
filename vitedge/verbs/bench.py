# SPDX-License-Identifier: Apache-2.0
"""The verb ``bench``: bundles, artifacts and checkpoints, measured in turn, on one device after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitedge.devices.checking import check_there
from vitedge.devices.session import connect
from vitedge.errors import BadRecipe, DeviceFailed, VitedgeError
from vitedge.files.bundle import MANIFEST, read_manifest
from vitedge.guide.pages import reseal
from vitedge.latency.interleave import measure_in_turn
from vitedge.latency.sampling import Rule
from vitedge.progress import Progress, note, reporting, say, stage
from vitedge.recipe import check_image_size, check_whole
from vitedge.records import BenchReport, LatencyReport, ParityReport
from vitedge.registry import LOCAL, RUNTIMES, check_device
from vitedge.sentences import nearest
from vitedge.stopping import keep
from vitedge.verbs.measured import Place, Subjects, find_models, is_checkpoint
from vitedge.verbs.saved_runs import SavedRun, is_saved_run, read_run

if TYPE_CHECKING:
    from vitedge.checkpoints.read import CheckpointSource


@dataclass(frozen=True)
class BenchOptions:
    """How subjects are measured, and where."""

    devices: tuple[str, ...] = (LOCAL,)
    """Keys of `vitedge.registry.DEVICES`, with an address after a colon where that kind has one."""
    threads: int | None = None
    """Processor threads; None is all physical cores of the device, the same for every runtime."""
    image_size: tuple[int, int] | None = None
    """Height and width for checkpoints; an artifact has its own."""
    rule: Rule | None = None
    """How long; None is the rule of a result to be published."""
    runtime: str | None = None
    """The runtime that every artifact has to run in; None is the usual one of its format."""
    save: Path | None = None
    """A ``.json`` file that keeps everything, from which an interrupted run goes on; or a ``.csv`` of the figures."""

    lock_clocks: bool = False
    """Whether the device's clocks are locked at their largest values for the time of the measurement."""

    def __post_init__(self) -> None:
        check_whole("--threads", self.threads, 1)
        check_image_size(self.image_size)
        if self.runtime is not None and self.runtime not in RUNTIMES:
            near = nearest(self.runtime, RUNTIMES)
            raise BadRecipe(f"There is no runtime {self.runtime!r}; choose from {', '.join(RUNTIMES)}{near}")
        for device in self.devices:
            check_device(device)
        if not self.devices or len(set(self.devices)) < len(self.devices):
            raise BadRecipe(f"Each device is named once; got {', '.join(self.devices) or 'none'}.")


def bench(
    subjects: Sequence[CheckpointSource],
    options: BenchOptions | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Measures bundles, artifacts and checkpoints in turn, each in a process of its own, and each against the first.

    Args:
        subjects: bundles (every artifact that the device has a runtime for), artifacts, checkpoints, which run as
            PyTorch eager on this machine and as an fp32 ONNX file elsewhere, and ``.json`` files of
            earlier runs; or weights in memory.
        options: how, and where.
        progress: as `vitedge.progress.reporting` takes it: who is told how far it is; None tells nobody.

    Returns:
        Reports of every device, ratios within each, and what failed on one of several devices.

    Raises:
        BadRecipe: a number of threads or of pixels below one, a device twice, a size without a checkpoint, or nothing
            to measure.
        UserError: a subject is not there or cannot be read.
        MissingBackend: nothing that was named runs on the device; what does not beside others is left out.
        CheckFailed: the runtime did not take the provider that was asked for.
        DeviceFailed: a process died, hung or failed, or the device cannot be reached; all devices, of several.
        BundleDamaged: a file of a bundle is not the one that its manifest describes.
    """
    with reporting(progress), stage("bench", whole=True):
        return _measured(subjects, options or BenchOptions())


def _measured(subjects: Sequence[CheckpointSource], options: BenchOptions) -> BenchReport:
    runs = [subject for subject in subjects if isinstance(subject, str) and is_saved_run(subject)]
    live = [subject for subject in subjects if subject not in runs]
    earlier = {subject: read_run(Path(subject)).reports for subject in runs}
    found = BenchReport((), asked={})
    if earlier and not live:
        _refuse_unmeasured(next(iter(earlier)), options)
    if live:
        named = Subjects.of(live, options.image_size)
        named.check()
        _refuse_idle(named, options)
        found = _on_devices(named, options)
    report = _with_earlier(found, earlier)
    if options.devices == (LOCAL,) and len(subjects) == 1 and _is_bundle(Path(str(subjects[0]))):
        bundle = Path(str(subjects[0]))
        reseal(bundle, replace(read_manifest(bundle), latency=report))
    return report


def _refuse_idle(subjects: Subjects, options: BenchOptions) -> None:
    """Refuses an option that has no effect on anything that was named.

    Raises:
        BadRecipe: names the option.
    """
    if options.image_size is not None and not any(is_checkpoint(name) for name in subjects.names):
        height, width = options.image_size
        raise BadRecipe(
            f"--image-size is for checkpoints, and {subjects.names[0]} has a size of its own: leave it out, "
            f"or export the checkpoint again with --image-size {height}x{width}."
        )


def _refuse_unmeasured(file: str, options: BenchOptions) -> None:
    """Refuses every option where nothing is measured.

    Raises:
        BadRecipe: names the option.
    """
    plain = BenchOptions()
    for entry in (
        field.name for field in fields(options) if getattr(options, field.name) != getattr(plain, field.name)
    ):
        option = "--device" if entry == "devices" else f"--{entry.replace('_', '-')}"
        raise BadRecipe(f"{option} is for what is measured, and {file} was measured before: leave it out.")


def _on_devices(subjects: Subjects, options: BenchOptions) -> BenchReport:
    """Measures on each device, and keeps what others have done where one fails."""
    settings = {"runtime": options.runtime, "lock_clocks": options.lock_clocks}
    saved = SavedRun(options.save, {**subjects.asked(options.threads, options.rule), **settings})
    kinds: set[type[VitedgeError]] = set()
    for device in options.devices:
        if device in saved.done:
            say(f"{device}: taken from {options.save}")
            continue
        try:
            found = _on_device(device, subjects, options)
        except VitedgeError as error:
            if len(options.devices) == 1:
                raise
            kinds.add(type(error))
            say(f"{device} failed")  # the reason is told once, at the end
            saved.fail(device, str(error))
        else:
            saved.add(found)
            if options.save is not None:
                keep(device, f"the results of {device}, in {options.save}: the same command goes on with the others.")
    if not saved.report.reports:
        kind = kinds.pop() if len(kinds) == 1 else DeviceFailed
        raise kind(" ".join(dict.fromkeys(saved.report.failed.values())))
    return saved.report


def _on_device(device: str, subjects: Subjects, options: BenchOptions) -> BenchReport:
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        session = stack.enter_context(connect(device))
        place = Place(session, options.runtime, stack)
        if options.lock_clocks:
            place.notes.append(f"{device}: clocks were locked: {', '.join(session.lock_clocks())}")
        models = find_models(subjects, place, left_out)
        parity: list[ParityReport] = []
        for model in models if device != LOCAL else ():
            if model.artifact is None or model.reference_outputs is None:
                note(f"{model.measured.label} has no reference with it, so its outputs are not checked")
                continue
            source, runtime = Path(model.measured.source), model.measured.runtime
            with stage(f"checking {model.measured.label} on {device}"):
                found = check_there(session, source, model.artifact, model.reference_outputs, runtime)
            parity += [replace(report, artifact=model.measured.label) for report in found]
        measured = [replace(model.measured, threads=options.threads) for model in models]
        report = measure_in_turn(measured, session, options.rule)
    notes = (*report.notes, *place.notes, *(_wrong(one) for one in parity if not one.passed))
    return replace(report, left_out=left_out, parity=tuple(parity), notes=notes)


def _wrong(report: ParityReport) -> str:
    return f"{report.artifact} does not compute what its reference computes, so its time says nothing: {report.reason}"


def _with_earlier(found: BenchReport, runs: Mapping[str, Sequence[LatencyReport]]) -> BenchReport:
    """Returns a report with the reports of saved runs, by their files, behind its own."""
    reports, notes = found.reports, found.notes
    for file, earlier in runs.items():
        reports += tuple(replace(one, subject=f"{Path(file).stem}: {one.subject}") for one in earlier)
        notes += (f"{file} was measured at another time, so nothing is compared with it",)
    if not reports:
        raise BadRecipe("Nothing was named to measure: give a bundle, an artifact, a checkpoint or a saved run.")
    return replace(found, reports=reports, notes=notes)


def _is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file()
