# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import pytest

from vitedge.quantization import memory
from vitedge.quantization.memory import freed_at_once

# Blocks of 8 MiB with a small one above each: what glibc keeps of the former is a hole.
CODE = """
from contextlib import nullcontext
from pathlib import Path
import torch
from vitedge.quantization.memory import freed_at_once
def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
def job():
    pairs = [(torch.ones(2**21), bytearray(2**16)) for _ in range(32)]
    return [small for _, small in pairs]
for edge in (20, 21, 22):
    torch.ones(2**edge)  # freed, each raises the size from which on glibc maps blocks one by one
before = held()
with {}():
    small = job()
    print(held() - before)
"""


def kept(context: str) -> int:
    """Bytes that a process of its own holds of 256 MiB that it freed."""
    command = [sys.executable, "-c", CODE.format(context)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator of another system returns what it likes")
def test_what_was_freed_is_returned() -> None:
    assert kept("freed_at_once") < 2**25
    assert kept("nullcontext") > 2**26


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    with freed_at_once():
        assert memory._glibc() is None
