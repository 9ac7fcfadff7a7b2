# SPDX-License-Identifier: Apache-2.0
"""Measures the kernels of a program in ONNX Runtime on a device, by asking a worker there to profile it."""

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
"""Inferences that are profiled."""
_LABEL = "the profiled program"
_PATIENCE_S = 600.0


def kernel_times(program: Program, session: Session) -> dict[str, float]:
    """Returns the microseconds of one inference that each kernel takes on the physical cores of the device, by name.

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
        worker = session.start(_LABEL, _PATIENCE_S, "onnxruntime")
        model = MeasuredModel(_LABEL, "onnxruntime", session.push(path), threads=session.cores())
        answer = worker.ask("profile", model=to_dict(model), inputs=to_dict(artifact.inputs), runs=RUNS)
        worker.ask("end")
    found: dict[str, float] = answer["microseconds"]
    return found
