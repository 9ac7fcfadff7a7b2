# SPDX-License-Identifier: Apache-2.0
"""Reads the files that trtexec writes: times of inferences, outputs, and times of layers.

They look like JSON and are not quite: trtexec prints names as they are, so that a quote in one breaks the file, and
numbers with six digits as C++ does, ``nan`` and ``inf`` among them (NVIDIA/TensorRT,
``samples/common/sampleReporting.cpp``).
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitedge.errors import DeviceFailed

_OUTPUT = re.compile(
    r'\{\s*"name" : "(?P<name>[^\n]*)"\s*'
    r', "dimensions" : "(?P<sides>[^"\n]*)"\s*'
    r', "values" : \[(?:\s*Final shape is (?P<final>\S*) reported by the output allocator\.)?(?P<values>[^\]]*)\]'
)
_LAYER = re.compile(
    r'\{\s*"name" : "(?P<name>.*)", "timeMs" : [^,]+, "averageMs" : (?P<mean>[^,]+)'
    r'(?:, "medianMs" : (?P<median>[^,]+))?, "percentage" : '
)


@dataclass(frozen=True)
class Times:
    """The times of inferences after warm-up in milliseconds, in order."""

    compute_ms: tuple[float, ...]
    """Of the kernels on the GPU."""
    latency_ms: tuple[float, ...]
    """Of the copy of the inputs to the GPU, the kernels, and the copy of the outputs back; without copies the same."""
    end_to_end_ms: tuple[float, ...]
    """From the call of the first copy to the end of the last, in which an inference may wait for the one before it;
    8.2 tells it, later versions do not, and then it is empty."""


def read_times(text: str, warmup_ms: float) -> Times:
    """Returns the times in a file of ``--exportTimes``.

    Args:
        text: of the file.
        warmup_ms: that was asked for: 8.2 writes its inferences too, which are left out here.

    Raises:
        DeviceFailed: the file is cut short, or has no inference after warm-up.
    """
    try:
        rows = [row for row in json.loads(text) if "endToEndMs" not in row or row["startComputeMs"] >= warmup_ms]
        compute, latency = (tuple(float(row[key]) for row in rows) for key in ("computeMs", "latencyMs"))
        waiting = tuple(float(row["endToEndMs"]) for row in rows if "endToEndMs" in row)
    except (ValueError, TypeError, KeyError) as error:
        raise DeviceFailed(f"trtexec wrote times that cannot be read ({type(error).__name__}: {error}).") from error
    if not rows or not all(map(math.isfinite, (*compute, *latency))):
        raise DeviceFailed("trtexec wrote no times of inferences after warm-up.")
    return Times(compute, latency, waiting)


def read_outputs(text: str, dtypes: Mapping[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    """Returns the outputs in a file of ``--exportOutput``, by name.

    Args:
        text: of the file. Six digits of each number are written: a relative error of up to 5e-6.
        dtypes: name of an output to NumPy's name of its type, which the file does not tell; float32 without.

    Raises:
        DeviceFailed: the file is cut short, or an output has other than the number of values of its shape.
    """
    found = {}
    for match in _OUTPUT.finditer(text):
        name = match["name"]
        told = match["final"] if match["final"] is not None else match["sides"]
        words = match["values"].replace(",", " ").split()
        try:
            shape = [int(side) for side in told.split("x") if side]
            found[name] = np.array([float(word) for word in words]).astype(dtypes.get(name, "float32")).reshape(shape)
        except ValueError as error:
            raise DeviceFailed(
                f"trtexec wrote an unreadable output {name}, {len(words)} values for the shape {told}: {error}."
            ) from error
    if not found or not text.rstrip().endswith("]"):
        raise DeviceFailed("trtexec wrote outputs that cannot be read: the file is empty or cut short.")
    return found


def read_profile(text: str) -> dict[str, float]:
    """Returns the microseconds of one inference that each layer takes, by name: the median, or up to 8.2 the mean.

    Args:
        text: of a file of ``--exportProfile``.

    Raises:
        DeviceFailed: it lists no layer.
    """
    found: dict[str, float] = defaultdict(float)
    for match in _LAYER.finditer(text):
        found[match["name"]] += 1e3 * float(match["median"] or match["mean"])
    if not found:
        raise DeviceFailed("trtexec wrote no times of layers.")
    return dict(found)
