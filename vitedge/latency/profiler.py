# SPDX-License-Identifier: Apache-2.0
"""Runs ONNX Runtime's profiler in the worker process that `vitedge.latency.kernels` asks."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

_WARMUP = 3
_SUFFIX = "_kernel_time"


def profile(path: str, threads: int | None, feeds: Mapping[str, np.ndarray[Any, Any]], runs: int) -> dict[str, float]:
    """Returns the microseconds of every kernel of an ONNX file, by its name.

    The shortest run of each kernel counts: other processes on the machine can only add to a time.

    Args:
        path: the file.
        threads: processor threads; None is the library's own choice.
        feeds: inputs by name, of the shapes and types that the file declares.
        runs: inferences after warm-up.
    """
    kernels: dict[str, list[float]] = defaultdict(list)
    for event in _events(path, threads, feeds, runs):
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            kernels[event["name"][: -len(_SUFFIX)]].append(event["dur"])
    return {kernel: min(durations[_WARMUP:] or durations) for kernel, durations in kernels.items()}


def _events(
    path: str, threads: int | None, feeds: Mapping[str, np.ndarray[Any, Any]], runs: int
) -> list[dict[str, Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="vitedge-") as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(_WARMUP + runs):
            session.run(None, dict(feeds))
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return events
