# SPDX-License-Identifier: Apache-2.0
"""Times of the kernels that a program becomes in ONNX Runtime on a device: the near end of a profiling worker."""

from __future__ import annotations

import tempfile
from pathlib import Path

from vitedge import registry
from vitedge.devices.session import Session
from vitedge.export.formats import LOWERINGS
from vitedge.files.plain import to_dict
from vitedge.latency.model import MeasuredModel
from vitedge.program.program import Program
from vitedge.recipe import ResolvedRecipe
from vitedge.records import Artifact

RUNS = 15
"""Inferences that a time is taken from."""
_LABEL = "the profiled program"
_PATIENCE_S = 600.0


def kernel_times(program: Program, session: Session) -> dict[str, float]:
    """Returns kernel to the microseconds that it takes of one inference, on the physical cores of the device.

    Args:
        program: with a batch of 1.
        session: with the device.

    Raises:
        MissingBackend: ONNX Runtime is not installed, here or there.
        DeviceFailed: the process on the device died, hung or failed.
    """
    target = registry.load(LOWERINGS, "onnx")
    with tempfile.TemporaryDirectory(prefix="vitedge-") as folder:
        path = Path(folder) / "model.onnx"
        artifact: Artifact = target.lower(program, ResolvedRecipe(), path)
        worker = session.start(_LABEL, _PATIENCE_S)
        model = MeasuredModel(_LABEL, "onnxruntime", session.push(path), threads=session.cores())
        answer = worker.ask("profile", model=to_dict(model), inputs=to_dict(artifact.inputs), runs=RUNS)
        worker.ask("end")
    found: dict[str, float] = answer["microseconds"]
    return found
