# SPDX-License-Identifier: Apache-2.0
"""Compares an artifact that runs on a device with its reference. The outputs come here, and are compared here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitedge.devices.runtime import Runtime
from vitedge.devices.session import Session
from vitedge.errors import MissingBackend
from vitedge.export.formats import FORMATS
from vitedge.export.onnx.oldest_runtimes import NO_RELEASE, TITLES, UNKNOWN, reaches
from vitedge.parity.artifact import ReferenceOutputs, outputs_of, report_on
from vitedge.records import Artifact, ParityReport

_FACTS = ("device", "model", "processor", "architecture", "os", "l4t")
"""Entries of a device's identity that go into reports."""


def runtimes_there(session: Session, artifact: Artifact) -> tuple[str, ...]:
    """Returns the runtimes of an artifact's format that work on a device, the one that is measured last."""
    return tuple(name for name in FORMATS[artifact.format].runtimes if not session.refusal(name))


def refusal_there(session: Session, form: str) -> str:
    """Returns why no runtime of a format works on a device; empty where one does."""
    refusals = [session.refusal(name) for name in FORMATS[form].runtimes]
    return refusals[-1] if all(refusals) else ""


def too_old(session: Session, artifact: Artifact, runtime: str) -> str:
    """Returns why a device's release of a runtime does not compute an artifact right; empty where it does, or may."""
    needed = artifact.oldest_runtimes.get(runtime, UNKNOWN)
    release = str(session.identity().get("versions", {}).get(runtime, ""))
    if not release or needed in (UNKNOWN, NO_RELEASE) or reaches(release, needed):
        return ""
    return (
        f"{artifact.path} needs {TITLES[runtime]} {needed} or newer, and {session.name} has {release}: export it with "
        f"--device {session.name}, which writes what that release computes right, or update it there."
    )


def check_there(
    session: Session,
    path: Path,
    artifact: Artifact,
    reference_outputs: ReferenceOutputs,
    runtime: str | None = None,
) -> tuple[ParityReport, ...]:
    """Runs an artifact over the reference's images on a device, and compares its outputs.

    Args:
        session: with the device.
        path: the artifact on this machine.
        artifact: its inputs and outputs.
        reference_outputs: the images, the reference's outputs for them, and the tolerance.
        runtime: the one that it runs in; None is every one of its format that works there.

    Returns:
        One report a runtime, with the device's facts; none where no runtime of the format works there.

    Raises:
        MissingBackend: the runtime is there, in a release that does not compute the artifact right.
        DeviceFailed: it failed there, or the device is out of reach.
    """
    names = runtimes_there(session, artifact) if runtime is None else (runtime,)
    for name in names:
        refused = too_old(session, artifact, name)
        if refused:
            raise MissingBackend(refused)
    return tuple(_report(session, name, path, artifact, reference_outputs) for name in names)


def _report(
    session: Session, name: str, path: Path, artifact: Artifact, reference_outputs: ReferenceOutputs
) -> ParityReport:
    with Runtime(session, name, path, artifact) as runtime:
        report = report_on(name, artifact, outputs_of(runtime, artifact, reference_outputs), reference_outputs)
        described = runtime.describe()
    reason = f"on {session.name} {report.reason}" if report.reason else ""
    machine = {**facts(session), **{entry: str(described[entry]) for entry in ("library", "version", "provider")}}
    return replace(report, note=described.get("caveat", ""), machine=machine, reason=reason)


def facts(session: Session) -> dict[str, str]:
    """Returns the facts of a device that identify it in a report."""
    identity: Mapping[str, Any] = session.identity()
    return {"device": session.name, **{name: str(identity[name]) for name in _FACTS if name in identity}}
