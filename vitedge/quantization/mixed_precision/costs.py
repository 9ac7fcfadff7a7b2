# SPDX-License-Identifier: Apache-2.0
"""What each layer costs in ONNX Runtime on the machine at hand, by its profiler.

Nodes of an exported graph are named after the modules of the reference, and ONNX Runtime keeps the beginning of a
name where it fuses nodes, so that the time of a kernel can be booked to a layer.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from vitedge import registry
from vitedge.export.formats import LOWERINGS
from vitedge.program.program import Program
from vitedge.recipe import ExportRecipe
from vitedge.records import Artifact

RUNS = 15
_WARMUP = 3
_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class Costs:
    """Times of one inference of one image, in microseconds."""

    total: float
    """Of all kernels of the program that everything starts from."""
    extra: Mapping[tuple[str, str], float]
    """Part and scheme to what it takes more than it took at the start; below 0 where it is quicker."""


def measure_costs(start: Program, levels: Mapping[str, Callable[[], Program]], parts: Collection[str]) -> Costs:
    """Profiles a program, and the same program with every part at another scheme.

    Args:
        start: with a batch of 1.
        levels: scheme to what makes the program in which the parts have that scheme.
        parts: layers and attentions.

    Raises:
        MissingBackend: ONNX Runtime is not installed.
    """
    times = profile(start, parts)
    extra: dict[tuple[str, str], float] = {}
    for scheme, make in levels.items():
        for part, spent in profile(make(), parts).items():
            extra[part, scheme] = spent - times.get(part, 0.0)
    return Costs(sum(times.values()), extra)


def profile(program: Program, parts: Collection[str]) -> dict[str, float]:
    """Part to the microseconds of its kernels; all others are summed under the empty name.

    Of every kernel the shortest of `RUNS` counts: what else runs on the machine only ever adds to a time.
    """
    target = registry.load(LOWERINGS, "onnx")
    with tempfile.TemporaryDirectory(prefix="vitedge-") as folder:
        path = Path(folder) / "model.onnx"
        artifact: Artifact = target.lower(program, ExportRecipe(), path)
        events = _events(path, artifact)
    kernels: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            kernels[event["name"].removesuffix(_SUFFIX)].append(event["dur"])
    spent: dict[str, float] = defaultdict(float)
    for kernel, durations in kernels.items():
        spent[owner(kernel, parts)] += min(durations[_WARMUP:] or durations)
    return dict(spent)


def owner(kernel: str, parts: Collection[str]) -> str:
    """The innermost part that a kernel belongs to, or empty."""
    module, found, _ = kernel.partition("/")
    return module if found and module in parts else ""


def _events(path: Path, artifact: Artifact) -> list[dict[str, Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = registry.load(registry.DEVICES, "local").cores()
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_name("profile"))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    image = artifact.inputs[0]
    shape = [edge if isinstance(edge, int) else 1 for edge in image.shape]
    pixels = np.random.default_rng(0).normal(size=shape).astype(image.dtype)
    for _ in range(_WARMUP + RUNS):
        session.run(None, {image.name: pixels})
    events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return events
