# SPDX-License-Identifier: Apache-2.0
"""A builder that ends as no real one can be made to."""

from __future__ import annotations

import os
import signal
import time

from vitedge.export.tensorrt.request import BuiltEngine, EngineRequest


def build(request: EngineRequest) -> tuple[bytes, BuiltEngine]:
    """Ends as the option ``end`` says; without one it tells its process id, and goes on for longer than any test."""
    request.out.write_bytes(b"half an engine")
    if request.options.get("end") == "killed":  # as the kernel ends a process for want of memory
        os.kill(os.getpid(), signal.SIGKILL)
    if request.options.get("end") == "exits":
        os._exit(7)
    request.progress(f"process {os.getpid()}")
    time.sleep(600)
    return b"", BuiltEngine("0", request.targets, {}, {}, None)


def small(request: EngineRequest) -> tuple[bytes, BuiltEngine]:
    """Returns an engine of a few bytes."""
    return b"an engine", BuiltEngine("0", request.targets, {}, {}, None)
