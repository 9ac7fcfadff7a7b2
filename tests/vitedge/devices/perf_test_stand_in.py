# SPDX-License-Identifier: Apache-2.0
"""A stand-in for ``onnxruntime_perf_test``: it takes its options and runs the model in this machine's ONNX Runtime.

The words of three editions are those of the tool's source, as `vitedge.devices.perf_test` has them. ``nnapi`` counts as
built in and takes no node, as on a phone whose driver refuses them all; ``xnnpack`` counts as left out of the build.
"""

from __future__ import annotations

import getopt
import resource
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

EARLY, MIDDLE, LATE = "early", "middle", "late"


def write(path: Path, edition: str = LATE) -> Path:
    """Writes a program of the tool's kind and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {edition} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def report(edition: str, load_s: float, first_s: float, times: list[float], peak: int) -> str:
    """Returns what an edition prints at the end."""
    total, count = sum(times), len(times)
    if edition == EARLY:
        return f"Total time cost:{total:g}\nTotal iterations:{count}\nAverage time cost:{total / count * 1e3:g} ms\n"
    if edition == MIDDLE:
        return (
            f"Session creation time cost:{load_s:g} s\nTotal inference time cost:{total:g} s\n"
            f"Total inference requests:{count}\nAverage inference time cost:{total / count * 1e3:g} ms\n"
            f"Total inference run time:{total:g} s\n"
        )
    return (
        f"Session creation time cost: {load_s:g} s\nFirst inference time cost: {int(first_s * 1e3)} ms\n"
        f"Total inference time cost: {total:g} s\nTotal inference requests: {count}\n"
        f"Average inference time cost total: {total / count * 1e3:.6f} ms\nTotal inference run time: {total:g} s\n"
        f"Number of inferences per second: {count / total:g}\nAvg CPU usage: 98 %\n"
        f"Peak working set size: {peak} bytes\n"
    )


def main(edition: str, words: list[str]) -> int:
    pairs, places = getopt.getopt(words, "b:m:e:r:t:p:x:y:c:d:o:u:i:f:F:S:T:AMPIDZvhsqz")
    given = dict(pairs)
    if len(places) not in (1, 2) or "-I" not in given:
        sys.stdout.write("perf_test [options...] model_path [result_file]\nOptions:\n\t-h: help\n")
        return 255
    if given["-e"] == "xnnpack":
        sys.stderr.write("Xnnpack is not supported in this build\n\n")
        return 255
    options = onnxruntime.SessionOptions()
    if "-x" in given:
        sys.stdout.write(f"Setting intra_op_num_threads to {given['-x']}\n")
        options.intra_op_num_threads = int(given["-x"])
    for option, value in pairs:
        if option == "-f":
            name, _, size = value.partition(":")
            options.add_free_dimension_override_by_name(name, int(size))
    if "-p" in given:
        options.enable_profiling = True
        options.profile_file_prefix = given["-p"]
    begin = time.perf_counter()
    session = onnxruntime.InferenceSession(places[0], options, providers=["CPUExecutionProvider"])
    load_s = time.perf_counter() - begin
    generator = np.random.default_rng(int(given["-S"]))
    feeds = {
        value.name: generator.uniform(0, 5, [side if isinstance(side, int) else 1 for side in value.shape]).astype("f4")
        for value in session.get_inputs()
    }
    times = []
    for _ in range(int(given["-r"]) + 1):
        begin = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(report(edition, load_s, times[0], times[1:], peak))
    lines = [f"{Path(places[0]).parent.name},{taken:g},{peak},98,{run}\n" for run, taken in enumerate(times[1:])]
    Path(places[1]).write_text("".join(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
