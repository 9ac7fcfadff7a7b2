# SPDX-License-Identifier: Apache-2.0
"""The program of a worker process: loads one model and runs it in bursts, as requests in JSON lines ask it to."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

from vitedge import registry
from vitedge.devices.messages import packed, unpacked
from vitedge.errors import BadRecipe, VitedgeError
from vitedge.latency.memory import peak_memory_mb
from vitedge.latency.model import MeasuredModel
from vitedge.latency.timing import burst, warm_up
from vitedge.records import TensorSpec

SEED = 0
"""Seed of the inputs; latency does not depend on their values as long as these are no denormal numbers."""


class Worker:
    """One public method for each of `vitedge.devices.session.REQUESTS`, which returns the answer."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._runtime: Any = None
        self._feeds: dict[str, np.ndarray[Any, Any]] = {}

    def load(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """Opens the model; returns the milliseconds without those of importing libraries, which a server pays once."""
        order = MeasuredModel(**model)
        module = registry.load(registry.RUNTIMES, order.runtime)
        factory = registry.function(order.factory) if order.factory else None
        begin = time.perf_counter()
        source, inputs = factory(order.source, **order.options) if factory else (order.source, ())
        self._runtime = self._stack.enter_context(module.Runtime(source, threads=order.threads))
        load_ms = (time.perf_counter() - begin) * 1e3
        batch, self._feeds = make_feeds(inputs or self._runtime.inputs, order)
        return {
            "load_ms": load_ms,
            "batch": batch,
            "described": self._runtime.describe(),
            "inputs": [dataclasses.asdict(spec) for spec in self._runtime.inputs],
            "outputs": [dataclasses.asdict(spec) for spec in self._runtime.outputs],
        }

    def first(self) -> dict[str, Any]:
        """Runs the first inference, which allocates and in some libraries compiles; returns its milliseconds."""
        return {"first_ms": burst(self._run, 1, 0.0)[0]}

    def warm_up(self, rule: Mapping[str, Any]) -> dict[str, Any]:
        """Warms up; returns the number of runs and whether the spread settled.

        Args:
            rule: a `vitedge.latency.sampling.Rule` as plain values.
        """
        times = (rule[name] for name in ("warmup_s", "warmup_limit_s", "settle", "patience_s"))
        count, settled = warm_up(self._run, *times)
        return {"count": count, "settled": settled}

    def burst(self, samples: int, seconds: float) -> dict[str, Any]:
        """Returns the samples of one turn in milliseconds, after one run that fills the caches again."""
        self._run()
        begin = _since_boot()
        return {"raw_ms": burst(self._run, samples, seconds), "span_s": [begin, _since_boot()]}

    def run(self, feeds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the outputs for inputs, both as `vitedge.devices.messages.packed` writes arrays."""
        return {"outputs": packed(self._runtime.run(unpacked(feeds)))}

    def profile(self, model: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]], runs: int) -> dict[str, Any]:
        """Returns the microseconds of every kernel of an ONNX file; asked in place of the requests above."""
        order = MeasuredModel(**model)
        registry.load(registry.RUNTIMES, order.runtime)
        from vitedge.latency.profiler import profile  # noqa: PLC0415 - ONNX Runtime, which the other requests do without

        _, feeds = make_feeds(tuple(_spec(entry) for entry in inputs), order)
        return {"microseconds": profile(order.source, order.threads, feeds, runs)}

    def end(self) -> dict[str, Any]:
        """Frees the model; returns the peak memory in 10^6 bytes of this process, which ends after that answer."""
        peak = peak_memory_mb()
        self._stack.close()
        return {"peak_memory_mb": peak}

    def _run(self) -> None:
        self._runtime.run(self._feeds)


def _since_boot() -> float:
    """Returns the seconds since the start of the system, the clock that watching scripts read; -1 where it has none."""
    if sys.platform != "win32" and hasattr(time, "CLOCK_BOOTTIME"):
        return float(time.clock_gettime(time.CLOCK_BOOTTIME))
    return -1.0


def make_feeds(inputs: tuple[TensorSpec, ...], model: MeasuredModel) -> tuple[int, dict[str, np.ndarray[Any, Any]]]:
    """Returns the batch size, and seeded inputs of the declared shapes and types by name.

    Args:
        inputs: declarations of the inputs.
        model: gives the batch size of inputs whose batch is dynamic.

    Raises:
        BadRecipe: the artifact has another fixed batch than was asked for, or a dynamic axis beside the batch.
    """
    generator = np.random.default_rng(SEED)
    batch, feeds = model.batch or 1, {}
    for spec in inputs:
        first, *rest = spec.shape
        if any(isinstance(side, str) for side in rest):
            raise BadRecipe(f"{model.label} has a dynamic axis beside the batch in {spec.name} {spec.shape}.")
        if isinstance(first, int):
            if model.batch not in (None, first):
                raise BadRecipe(
                    f"{model.label} has a fixed batch of {first}, not {model.batch}; leave --batch out, "
                    f"or export it with --batch {model.batch}."
                )
            batch = first
        feeds[spec.name] = _noise(generator, (batch, *(int(side) for side in rest)), np.dtype(spec.dtype))
    return batch, feeds


def serve(requests: IO[str], replies: IO[str]) -> None:
    """Answers requests until there are no more, or until one asks to end. Errors are answers too.

    Args:
        requests: one JSON document a line.
        replies: gets one JSON document a line.
    """
    worker = Worker()
    for line in requests:
        request = json.loads(line)
        do = request.pop("do")
        try:
            answer = getattr(worker, do)(**request)
        except VitedgeError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        except Exception as error:  # a library failed: the parent process says so in one sentence
            answer = {"error": type(error).__name__, "message": (str(error).splitlines() or ["no message"])[0]}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()
        if do == "end":
            return


def main() -> None:
    """Serves requests on the standard streams; lines that libraries print go to the error output."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        with contextlib.suppress(BrokenPipeError):  # the parent process has ended, and nobody waits for an answer
            serve(sys.stdin, replies)


def _spec(entry: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(**{**entry, "shape": tuple(entry["shape"])})


def _noise(
    generator: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> np.ndarray[Any, np.dtype[Any]]:
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, min(255, np.iinfo(dtype).max), shape, endpoint=True).astype(dtype)


if __name__ == "__main__":
    main()
