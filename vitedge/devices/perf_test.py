# SPDX-License-Identifier: Apache-2.0
"""A worker for devices without Python, such as phones: it measures with ONNX Runtime's own ``onnxruntime_perf_test``.

The tool runs once a turn, in a process of its own, and writes the seconds of every run into a file. It makes its inputs
and shows no outputs, so parity cannot be checked with it, and the record says so.

Its source is https://github.com/microsoft/onnxruntime/tree/main/onnxruntime/test/perftest. What it prints has changed:
until about 1.0 ``Total time cost:58.8``, and neither load time nor first inference; until about 1.6 ``Session creation
time cost:0.5 s``; since then with a blank behind the colon, and ``First inference time cost: 12 ms``. The file of
results has been the same in all of them: ``MODEL,SECONDS,PEAK BYTES,CPU PERCENT,RUN`` a line.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from statistics import fmean, median, pstdev
from typing import Any

from vitedge.devices.session import REQUESTS
from vitedge.devices.transports.transport import Completed, Transport, quoted
from vitedge.errors import BadRecipe, CheckFailed, DeviceFailed, MissingBackend, VitedgeError
from vitedge.records import Artifact, TensorSpec
from vitedge.sentences import fate

PROGRAM = "onnxruntime_perf_test"
VARIABLE = "VITEDGE_PERF_TEST"
"""Environment variable with the path of the tool on this machine; it is copied with the libraries beside it."""
FOLDERS = ("/data/local/tmp", "/data/local/tmp/vitedge")
"""Where the tool is looked for on a device."""
PROVIDERS: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
}
"""Names of execution providers on the tool's command line, to those that ONNX Runtime's profile has."""
SEED = 1
"""Of the inputs. Without one they are zero, which some kernels compute faster."""

_LIBRARY = "libonnxruntime.so"
_OPTIMIZATION = 99
"""Every optimization, which is what a session of ONNX Runtime does by default and an older tool does not."""
_NUMBER = r"([0-9][0-9.eE+-]*)"
_FEWEST = 4
_MOST = 1000
_SPREAD = 5
"""Samples that have a spread to speak of."""


@dataclass(frozen=True)
class Outcome:
    """What one run of the tool tells."""

    raw_ms: tuple[float, ...]
    """Milliseconds of each timed inference, in order."""
    load_ms: float
    """NaN where the tool does not tell, as below."""
    first_ms: float
    """The first inference, in whole milliseconds."""
    peak_memory_mb: float
    threads: int | None
    """Threads that the tool says it set; None where it says nothing."""


@dataclass(frozen=True)
class PerfTest:
    """The tool on a device, and what it is asked for."""

    program: str
    """Its path there."""
    folder: str
    """Folder there in which it may write."""
    version: str = "unknown"
    """Of ONNX Runtime."""
    provider: str = "cpu"
    """One of `PROVIDERS`."""


def find(
    transport: Transport,
    folder: str,
    push: Callable[[Path], str],
    provider: str = "cpu",
    places: Sequence[str] = FOLDERS,
) -> PerfTest:
    """Returns the tool of a device; one that VITEDGE_PERF_TEST names on this machine is copied there.

    Args:
        transport: the way to the device.
        folder: the session's own folder there.
        push: copies a folder there, and returns its path there.
        provider: one of `PROVIDERS`.
        places: folders there in which it is looked for.

    Raises:
        BadRecipe: there is no such provider, or no file of that name here.
        MissingBackend: the tool is in none of the places; with how it is built and where it belongs.
        DeviceFailed: the device is out of reach.
    """
    if provider not in PROVIDERS:
        raise BadRecipe(f"{PROGRAM} is not asked for {provider}; choose from {', '.join(PROVIDERS)}.")
    if os.environ.get(VARIABLE):
        program = _pushed(transport, Path(os.environ[VARIABLE]), push)
    else:
        programs = quoted(f"{place}/{PROGRAM}" for place in places)
        found = transport.run(f'for p in {programs}; do test -f "$p" && echo "$p" && exit; done; command -v {PROGRAM}')
        program = found.out.strip()
    if not program:
        raise MissingBackend(
            f"{transport.name} has no {PROGRAM} in {' or '.join(places)}, and without Python it takes ONNX Runtime's "
            "own tool to run a model there: build it for the device with ./build.sh --config Release --android "
            "--build_shared_lib (https://onnxruntime.ai/docs/build/android.html; it is not published), and type: "
            f"adb -s {transport.name.partition(':')[2]} push {PROGRAM} {_LIBRARY} {places[0]}/"
        )
    return PerfTest(program, folder, _version(transport, program), provider)


def parse(output: str, results: str) -> Outcome:
    """Returns the numbers in what the tool printed and in the file that it wrote.

    Args:
        output: its standard output, of any version.
        results: the file; blank lines and its summary are passed over.
    """
    rows = [row for row in (line.rsplit(",", 4) for line in results.splitlines()) if len(row) == 5]
    printed = _number(r"Peak working set size:\s*" + _NUMBER, output)
    written = float(rows[-1][2]) if rows else math.nan
    threads = _number(r"Setting intra_op_num_threads to\s+" + _NUMBER, output)
    return Outcome(
        raw_ms=tuple(float(row[1]) * 1e3 for row in rows),
        load_ms=_number(r"Session creation time cost:\s*" + _NUMBER, output) * 1e3,
        first_ms=_number(r"First inference time cost:\s*" + _NUMBER, output),
        peak_memory_mb=(written if math.isnan(printed) else printed) / 1e6,
        threads=None if math.isnan(threads) else int(threads),
    )


def providers_of(profile: str) -> dict[str, int]:
    """Returns the number of nodes that each execution provider ran, from ONNX Runtime's own profile of a session."""
    events = [event for event in json.loads(profile) if event.get("cat") == "Node"]
    pairs = {(event["name"], event["args"]["provider"]) for event in events if event.get("args", {}).get("provider")}
    return dict(Counter(provider for _, provider in sorted(pairs)))


class Worker:
    """Measures one model with the tool, a run of it each turn. See `vitedge.devices.session.Worker`.

    Args:
        transport: the way to the device.
        tool: as `find` found it.
        label: the model's name in sentences.
        patience_s: seconds that a run of the tool may take before it is ended.
        declared: returns what the model at a path on the device declares.
    """

    def __init__(
        self,
        transport: Transport,
        tool: PerfTest,
        label: str,
        patience_s: float,
        declared: Callable[[str], Artifact],
    ) -> None:
        self._transport = transport
        self._tool = tool
        self._label = label
        self._patience_s = patience_s
        self._declared = declared
        self._arguments: list[str] = []
        self._model = ""
        self._outcome = Outcome((), math.nan, math.nan, math.nan, None)
        self._peak_mb = math.nan

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Does what one request says. See `vitedge.devices.session.Worker`.

        Raises:
            BadRecipe: the model's inputs do not fit the batch that was asked for.
            CheckFailed: it ran on another provider, or with other threads, than was asked for.
            MissingBackend: the tool is too old, or was built without the provider.
            DeviceFailed: the tool failed or took too long, or the device is out of reach.
        """
        requests: dict[str, Callable[..., dict[str, Any]]] = {
            "load": self._load,
            "first": self._first,
            "warm_up": self._warm_up,
            "burst": self._burst,
            "end": self._end,
        }
        if do not in requests:
            raise MissingBackend(
                f"{PROGRAM} on {self._transport.name} measures and shows no outputs, so {self._label} cannot be "
                "checked or profiled there: that takes a device with Python."
            )
        return requests[do](**arguments)

    def _load(self, model: Mapping[str, Any]) -> dict[str, Any]:
        declared = self._declared(model["source"])
        batch, overrides = _batch(declared.inputs, model["label"], model["batch"])
        self._model = model["source"]
        threads = ["-x", str(model["threads"])] if model["threads"] else []
        self._arguments = [
            *("-I", "-S", str(SEED), "-m", "times", "-o", str(_OPTIMIZATION), "-e", self._tool.provider),
            *threads,
            *(word for override in overrides for word in ("-f", override)),
        ]
        self._outcome = self._run("load", 1)
        described = {
            "library": "onnxruntime",
            "version": self._tool.version,
            "provider": PROVIDERS[self._tool.provider],
            "threads": self._threads(model["threads"]),
            "tool": f"{PROGRAM}, a process each turn",
            "inputs": f"made by the tool with seed {SEED}",
            "parity": f"not checked on the device: {PROGRAM} shows no outputs",
        }
        if self._tool.provider != "cpu":
            described.update(self._where_it_ran())
        return {
            "load_ms": self._outcome.load_ms,
            "batch": batch,
            "described": described,
            "inputs": [asdict(spec) for spec in declared.inputs],
            "outputs": [asdict(spec) for spec in declared.outputs],
        }

    def _first(self) -> dict[str, Any]:
        return {"first_ms": self._outcome.first_ms}

    def _warm_up(self, rule: Mapping[str, Any]) -> dict[str, Any]:
        """Runs the tool until two runs of it agree in spread and median; a run fills half the time of a warm-up."""
        begin = time.monotonic()
        before: Sequence[float] = ()
        count = 0
        while True:
            self._outcome = self._run("warm_up", self._inferences(rule["warmup_s"] / 2))
            count += len(self._outcome.raw_ms) + 1  # the tool itself begins with one that it does not time
            elapsed = time.monotonic() - begin
            if elapsed >= rule["warmup_s"] and _agree(before, self._outcome.raw_ms, rule["settle"]):
                return {"count": count, "settled": True}
            if elapsed >= max(rule["warmup_s"], rule["warmup_limit_s"]):
                return {"count": count, "settled": False}
            before = self._outcome.raw_ms

    def _burst(self, samples: int, seconds: float) -> dict[str, Any]:
        typical_ms = median(self._outcome.raw_ms)
        self._outcome = self._run("burst", max(1, min(samples, int(seconds * 1e3 / typical_ms))))
        return {"raw_ms": list(self._outcome.raw_ms)}

    def _end(self) -> dict[str, Any]:
        return {"peak_memory_mb": self._peak_mb}

    def _inferences(self, seconds: float) -> int:
        return max(_FEWEST, min(_MOST, round(seconds * 1e3 / median(self._outcome.raw_ms))))

    def _threads(self, asked: int | None) -> str | int:
        """Returns the threads that the tool says it set."""
        told = self._outcome.threads
        if asked and told not in (None, asked):
            raise CheckFailed(f"{self._label} was to run with {asked} threads, and {PROGRAM} set {told}.")
        if not asked:
            return "the library's choice"
        return asked if told else f"{asked} asked for; the tool does not say what it set"

    def _where_it_ran(self) -> dict[str, Any]:
        """Returns the providers that ran nodes, from a run with ONNX Runtime's profile, whose times do not count."""
        stem = self._stem()
        _, profile = self._tried("load", ["-p", stem, "-r", "1"], stem, "_*.json")
        counts = providers_of(profile)
        wanted = PROVIDERS[self._tool.provider]
        if wanted not in counts:
            raise CheckFailed(
                f"{self._label} was to run on {wanted}, which took none of its nodes: all ran on "
                f"{', '.join(counts) or 'nothing that the profile names'}; ask for the provider cpu."
            )
        return {"provider": ", ".join(sorted(counts, key=lambda name: name != wanted)), "nodes": counts}

    def _run(self, do: str, count: int) -> Outcome:
        """Runs the tool for a number of timed inferences; returns what it tells."""
        outcome = parse(*self._tried(do, ["-r", str(count)], self._stem(), ".csv"))
        if len(outcome.raw_ms) != count:
            raise DeviceFailed(
                f"{self._label}: {PROGRAM} on {self._transport.name} wrote {len(outcome.raw_ms)} of {count} samples "
                f"while {REQUESTS[do]}."
            )
        self._peak_mb = max(outcome.peak_memory_mb, self._peak_mb) if self._peak_mb > 0 else outcome.peak_memory_mb
        return outcome

    def _stem(self) -> str:
        """Returns the path there with which the names of the files of one run of the tool begin."""
        return f"{self._tool.folder}/perf_test_{secrets.token_hex(8)}"

    def _tried(self, do: str, arguments: Sequence[str], stem: str, ending: str) -> tuple[str, str]:
        """Runs the tool; returns what it printed, and the content of the file that it wrote with that ending."""
        tool = self._tool.program
        line = quoted([tool, *self._arguments, *arguments, self._model, f"{stem}.csv"])
        files = quoted([stem])
        script = (
            f"export LD_LIBRARY_PATH={quoted([str(PurePosixPath(tool).parent)])}\n"
            f"{line} </dev/null; c=$?\n"
            f"printf '\\0'; test $c = 0 && cat {files}{ending}\n"
            f"rm -f {files}*; exit $c"
        )
        done = self._transport.run(script, self._patience_s)
        if done.code:
            raise self._failure(do, done)
        printed, _, written = done.out.partition("\0")
        return printed, written

    def _failure(self, do: str, done: Completed) -> VitedgeError:
        """Returns the error for a tool that failed, by what it said."""
        said = done.out.replace("\0", "") + done.err
        where = f"{self._tool.program} on {self._transport.name}"
        if "Unknown command line flag" in said:
            return MissingBackend(
                f"{where} knows none of its own options, as builds for Android shortly before ONNX Runtime 1.23 do: "
                "build it from another version (https://github.com/microsoft/onnxruntime/issues/25755)."
            )
        if "model_path" in said and "Options:" in said:
            return MissingBackend(
                f"{where} does not take {quoted(self._arguments)}: build it from a newer ONNX Runtime."
            )
        if "not supported in this build" in said:
            return MissingBackend(
                f"{where} was built without {self._tool.provider}: build it with --use_{self._tool.provider}, "
                "or ask for the provider cpu."
            )
        if _LIBRARY in said and "not found" in said:
            folder, serial = PurePosixPath(self._tool.program).parent, self._transport.name.partition(":")[2]
            return MissingBackend(f"{where} does not find its library; type: adb -s {serial} push {_LIBRARY} {folder}/")
        words = Completed(done.code, "", said).last_words.rstrip(".")
        end = fate(128 - done.code if 128 < done.code < 160 else done.code)
        return DeviceFailed(f"{self._label}: {where} {end} while {REQUESTS[do]}: {words}.")


def _pushed(transport: Transport, here: Path, push: Callable[[Path], str]) -> str:
    """Copies the tool and the libraries beside it to a folder of the device; returns its path there."""
    if not here.is_file():
        raise BadRecipe(
            f"{VARIABLE} names {here}, which is not there; it is the path of {PROGRAM}, built for the device."
        )
    with tempfile.TemporaryDirectory(prefix="vitedge-") as folder:
        for file in (here, *sorted(here.parent.glob("*.so"))):
            shutil.copyfile(file, Path(folder) / file.name)
        program = f"{push(Path(folder))}/{here.name}"
    transport.run(f"chmod 700 {quoted([program])}")
    return program


def _version(transport: Transport, program: str) -> str:
    """Returns the version of ONNX Runtime that its library is marked with, as far as it can be found."""
    library = str(PurePosixPath(program).parent / _LIBRARY)
    marks = f"grep -aoE 'VERS_[0-9]+[.][0-9]+[.][0-9]+' {quoted([library, program])} 2>/dev/null"
    return transport.run(f"{marks} | head -n 1").out.strip().rpartition("VERS_")[2] or "unknown"


def _batch(inputs: Sequence[TensorSpec], label: str, asked: int | None) -> tuple[int, list[str]]:
    """Returns the batch size, and what the tool has to be told of dynamic axes: those that it is not told of are 1."""
    batch, overrides = asked or 1, []
    for spec in inputs:
        first, *rest = spec.shape
        if any(isinstance(side, str) for side in rest):
            raise BadRecipe(f"{label} has a dynamic axis beside the batch in {spec.name} {spec.shape}.")
        if isinstance(first, int):
            if asked not in (None, first):
                raise BadRecipe(f"{label} has a fixed batch of {first}, not {asked}; leave --batch out.")
            batch = first
        elif batch != 1:
            overrides.append(f"{first}:{batch}")
    return batch, list(dict.fromkeys(overrides))


def _agree(before: Sequence[float], last: Sequence[float], tolerance: float) -> bool:
    """Returns whether two runs of the tool have the same median, and the same spread where they are long enough."""
    if not before:
        return False
    spread = 0.0
    if min(len(before), len(last)) >= _SPREAD:
        spread = abs(pstdev(last) / fmean(last) - pstdev(before) / fmean(before))
    return spread <= tolerance and abs(median(last) / median(before) - 1) <= tolerance


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    return float(found[1]) if found else math.nan
