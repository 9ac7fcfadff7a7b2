# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import numpy as np


def test_peak_memory_grows_with_what_is_used_and_never_shrinks() -> None:
    script = (
        "from vitedge.latency.memory import peak_memory_mb as peak; before = peak(); "
        "block = bytearray(200_000_000); block[::4096] = b'x' * len(block[::4096]); during = peak(); del block; "
        "print(before, during, peak())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, during, after = map(float, done.stdout.split())
    assert 190 < during - before < 260
    assert after >= during - 1


def test_peak_memory_is_not_the_parents() -> None:
    block = np.ones(60_000_000)  # 480 MB, written to
    script = "from vitedge.latency.memory import peak_memory_mb; print(peak_memory_mb())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert block.sum() == block.size
    assert float(done.stdout) < 300
