# SPDX-License-Identifier: Apache-2.0
"""A worker that is no process: every request is one run of trtexec, with the engine loaded anew.

So what is timed of a turn are its samples alone, after a warm-up of its own, and loading is told apart. Models are
measured in turn like those of `vitedge.devices.process`; their times are those of the GPU's events, not of a clock
around a call, and `Settings.method` says so.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from vitedge.devices.messages import packed, unpacked
from vitedge.devices.session import REQUESTS
from vitedge.devices.transports.transport import quoted
from vitedge.devices.trtexec.folder import make_folder, read_text
from vitedge.devices.trtexec.log import Log
from vitedge.devices.trtexec.options import shape_words
from vitedge.devices.trtexec.outputs import outputs_of
from vitedge.devices.trtexec.program import Trtexec
from vitedge.devices.trtexec.results import Times, read_profile, read_times
from vitedge.devices.trtexec.settings import Settings
from vitedge.devices.trtexec.tensors import declared_by
from vitedge.errors import BadRecipe
from vitedge.export.tensorrt.inspector import tensor_types
from vitedge.files.plain import to_dict
from vitedge.records import TensorSpec

_TIMES = "times.json"
_PROFILE = "profile.json"
_LAYERS = "layers.json"
_SEPARATE = "--separateProfileRun"
"""Up to 10: layers are timed in inferences of their own, and not in those whose times are told."""
_MARGIN = 2
"""Inferences more than samples: one or two that begin in the warm-up count as neither."""
_WINDOW = 20
"""Samples of a warm-up run."""
_PEAK = """
cd {folder} || exit
{command} &
child=$!
trap 'kill $child' INT TERM HUP
peak=0
while now=$(sed -n 's/^VmHWM:[^0-9]*\\([0-9]*\\) kB$/\\1/p' /proc/$child/status 2>/dev/null) && [ -n "$now" ]; do
  peak=$now
  sleep 0.1
done
wait $child
code=$?
printf '\\nvitedge: VmHWM %s kB\\n' "$peak"
exit $code
"""
"""Runs trtexec and tells the most memory that it had, as the kernel counts it."""


class TrtexecWorker:
    """One engine in the trtexec of a device. See `vitedge.devices.session.Worker`.

    Args:
        program: the trtexec.
        folder: of the device, for what trtexec writes; it is made.
        label: the engine's name in sentences.
        limit_s: seconds that a run may take beside its warm-up and samples.
        settings: how it is measured.
    """

    def __init__(
        self,
        program: Trtexec,
        folder: str,
        label: str,
        limit_s: float = 600.0,
        settings: Settings | None = None,
    ) -> None:
        self._program = program
        self._folder = folder
        self._label = label
        self._limit_s = limit_s
        self._settings = settings or Settings()
        self._declared: dict[str, tuple[TensorSpec, ...]] = {}
        self._source = ""
        self._shapes: tuple[str, ...] = ()
        self._first_ms = self._usual_ms = self._peak_mb = 0.0
        self._warnings: dict[str, None] = {}
        self._captured = True
        self._facts: dict[str, Any] = {}

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Does one of `vitedge.devices.session.REQUESTS` and returns its answer.

        Raises:
            BadRecipe: the engine does not take the batch that was asked for.
            DeviceFailed: trtexec or the device failed.
        """
        answer: dict[str, Any] = getattr(self, do)(**arguments)
        return answer

    def load(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """Loads the engine and runs it once; returns the milliseconds of reading and deserializing it.

        Args:
            model: a `vitedge.latency.model.MeasuredModel` as plain values; its source is a path on the device. What it
                declares is taken for the types and shapes, which trtexec does not tell.
        """
        told = model.get("declared") or {}
        self._declared = {side: tuple(map(_spec, told.get(side, ()))) for side in ("inputs", "outputs")}
        make_folder(self._program.transport, self._folder)
        self._source, batch = str(model["source"]), model.get("batch")
        dynamic = {spec.name: spec.shape for spec in self._declared["inputs"] if not isinstance(spec.shape[0], int)}
        self._shapes = _shaped(dynamic, batch)
        log = self._loaded()
        is_dynamic = log.is_dynamic
        if is_dynamic:  # and no inputs were declared
            self._shapes = _shaped(log.inputs, batch)
            log = self._loaded()
        self._note(log)
        if not self._declared["inputs"]:
            text = read_text(self._program.transport, f"{self._folder}/{_LAYERS}")
            inputs, outputs = declared_by(log, tensor_types(text), is_dynamic=is_dynamic)
            self._declared = {"inputs": tuple(inputs), "outputs": tuple(outputs)}
        found = next(iter(log.inputs.values()), (1,))[0]
        if batch not in (None, found):
            raise BadRecipe(f"{self._label} has a fixed batch of {found}, not {batch}; leave --batch out.")
        self._facts = {
            "library": "trtexec",
            "version": self._program.version,
            "provider": log.gpu,
            "compute_capability": log.capability,
            "threads": "chosen by the GPU",
        }
        declared = {side: [to_dict(spec) for spec in specs] for side, specs in self._declared.items()}
        return {"load_ms": log.load_ms, "batch": found, "described": self._described(), **declared}

    def first(self) -> dict[str, Any]:
        """Returns the milliseconds of the first inference after loading."""
        return {"first_ms": self._first_ms}

    def warm_up(self, rule: Mapping[str, Any]) -> dict[str, Any]:
        """Runs for the time of the rule and until two runs that follow each other agree in median and spread.

        Args:
            rule: a `vitedge.latency.sampling.Rule` as plain values.

        Returns:
            The number of inferences, and whether the last two runs agreed.
        """
        count, begin = 0, time.perf_counter()
        before: tuple[float, ...] = ()
        while True:
            times, log = self._timed(_WINDOW)
            samples = self._samples(times)
            count += log.warmup + len(samples)
            elapsed = time.perf_counter() - begin
            self._usual_ms = statistics.median(samples)
            if before and elapsed >= rule["warmup_s"] and _agree(samples, before, rule["settle"]):
                return {"count": count, "settled": True}
            if before and elapsed >= max(rule["warmup_s"], rule["warmup_limit_s"]):
                return {"count": count, "settled": False}
            before = samples

    def burst(self, samples: int, seconds: float) -> dict[str, Any]:
        """Returns the samples of one turn in milliseconds: up to ``samples``, in about ``seconds``, at least one."""
        fitting = math.ceil(seconds * 1e3 / self._usual_ms) if self._usual_ms else samples
        times, _ = self._timed(max(1, min(samples, fitting)))
        return {"raw_ms": list(self._samples(times))}

    def run(self, feeds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the outputs for inputs, both as `vitedge.devices.messages.packed` writes arrays."""
        dtypes = {spec.name: spec.dtype for spec in self._declared["outputs"]}
        return {"outputs": packed(outputs_of(self._program, self._source, unpacked(feeds), self._folder, dtypes))}

    def profile(self, model: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]], runs: int) -> dict[str, Any]:
        """Returns the microseconds of every layer of the engine; asked in place of the requests above.

        Args:
            model: as for `load`.
            inputs: not looked at: trtexec makes its own.
            runs: inferences.
        """
        del inputs
        self.load(model)
        words = [f"--exportProfile={_PROFILE}", f"--iterations={runs}", "--duration=0", "--warmUp=0"]
        self._run([*words, *([_SEPARATE] if self._program.takes(_SEPARATE) else [])], "profile", runs)
        return {"microseconds": read_profile(read_text(self._program.transport, f"{self._folder}/{_PROFILE}"))}

    def end(self) -> dict[str, Any]:
        """Returns the peak memory in 10^6 bytes of the process that loaded the engine, and what the runs have shown."""
        made = quoted([f"{self._folder}/{name}" for name in (_TIMES, _PROFILE, _LAYERS)])
        self._program.transport.run(f"rm -f {made}")
        return {"peak_memory_mb": self._peak_mb, "described": self._described()}

    def kill(self) -> None:
        """Does nothing: between two requests there is no process."""

    def _described(self) -> dict[str, Any]:
        method = self._settings.method(captured=self._captured)
        return {**self._facts, "method": method, "warnings": tuple(self._warnings)}

    def _loaded(self) -> Log:
        """Loads the engine, runs it once without warm-up, and reads the time and the memory of that."""
        words = [self._load_word(), *self._shapes, *self._cold().words(self._program), "--iterations=1", "--duration=0"]
        command = quoted([self._program.path, *words, f"--exportTimes={_TIMES}", f"--exportLayerInfo={_LAYERS}"])
        script = _PEAK.format(folder=quoted([self._folder]), command=command)
        done = self._program.transport.run(script, self._limit_s)
        log = self._program.checked(done, f"{REQUESTS['load']} {self._label}")
        told = done.out.rpartition("vitedge: VmHWM ")[2].split()
        self._peak_mb = int(told[0]) * 1024 / 1e6 if told and told[0].isdigit() else 0.0
        self._first_ms = self._samples(self._times(0.0))[0]
        return log

    def _load_word(self) -> str:
        return f"--loadEngine={self._source}"

    def _cold(self) -> Settings:
        settings = self._settings
        return Settings(settings.cuda_graph, settings.spin_wait, settings.transfers, warmup_ms=0)

    def _timed(self, samples: int) -> tuple[Times, Log]:
        """Returns the times of a run, at least as many as asked for."""
        words = [*self._settings.words(self._program), f"--iterations={samples + _MARGIN}", "--duration=0"]
        log = self._run([*words, f"--exportTimes={_TIMES}"], "burst", samples)
        times = self._times(self._settings.warmup_ms)
        return Times(times.compute_ms[:samples], times.latency_ms[:samples], times.end_to_end_ms[:samples]), log

    def _times(self, warmup_ms: float) -> Times:
        return read_times(read_text(self._program.transport, f"{self._folder}/{_TIMES}"), warmup_ms)

    def _samples(self, times: Times) -> tuple[float, ...]:
        return times.latency_ms if self._settings.transfers else times.compute_ms

    def _run(self, words: Sequence[str], do: str, inferences: int) -> Log:
        limit = self._limit_s + self._settings.warmup_ms / 1e3 + inferences * self._usual_ms / 1e3
        doing = f"{self._label} was {REQUESTS[do]}"
        log = self._program.run([self._load_word(), *self._shapes, *words], self._folder, doing, limit)
        self._note(log)
        return log

    def _note(self, log: Log) -> None:
        self._warnings.update(dict.fromkeys(log.warnings))
        self._captured = self._captured and not log.is_uncaptured


def _spec(told: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(**{**told, "shape": tuple(told["shape"])})


def _shaped(inputs: Mapping[str, Sequence[int | str]], batch: int | None) -> tuple[str, ...]:
    """Returns the option that gives dynamic inputs a batch."""
    shapes = {name: ((batch or 1, *(int(side) for side in sides[1:])),) for name, sides in inputs.items()}
    return shape_words(shapes, ("shapes",))


def _agree(samples: Sequence[float], before: Sequence[float], tolerance: float) -> bool:
    spread = abs(_variation(samples) - _variation(before))
    return spread <= tolerance and abs(statistics.median(samples) / statistics.median(before) - 1) <= tolerance


def _variation(samples: Sequence[float]) -> float:
    """Returns the standard deviation divided by the mean."""
    return statistics.stdev(samples) / statistics.fmean(samples) if len(samples) > 1 else 0.0
