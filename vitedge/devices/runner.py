# SPDX-License-Identifier: Apache-2.0
"""The program that runs models on a device: one file, made of modules of vitedge that need no more than NumPy.

It runs with Python 3.8 and newer, and the device's own ONNX Runtime, OpenVINO, TensorRT or coremltools:

    python3 runner.pyz about        prints as JSON which libraries there are
    python3 runner.pyz try NAME…    tries what runs models, and prints a line of JSON on each
    python3 runner.pyz serve        answers requests in JSON lines, as a worker of this machine does
    python3 runner.pyz              verifies the kit that it lies in, on a Mac

The modules are the ones that run here: what is measured and computed there is so by the same code. They import nothing
of vitedge but each other, and `tests` holds them to that and to the syntax of Python 3.8.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

NAME = "runner.pyz"
MODULES = (
    "devices/about.py",
    "devices/health/names.py",
    "devices/health/tiny.py",
    "devices/health/trials.py",
    "devices/processors.py",
    "devices/mac_kit/verify.py",
    "devices/messages.py",
    "errors.py",
    "latency/memory.py",
    "latency/model.py",
    "latency/profiler.py",
    "latency/timing.py",
    "latency/worker.py",
    "records/__init__.py",
    "records/bundle.py",
    "records/device.py",
    "records/latency.py",
    "records/model.py",
    "records/parity.py",
    "records/showing.py",
    "registry.py",
    "mlprogram/features.py",
    "runtimes/base.py",
    "runtimes/coreml.py",
    "runtimes/cuda.py",
    "runtimes/onnxruntime.py",
    "runtimes/onnxruntime_cuda.py",
    "runtimes/onnxruntime_tensorrt.py",
    "runtimes/openvino.py",
    "runtimes/plan.py",
    "runtimes/tensorrt.py",
    "runtimes/tensorrt_log.py",
    "sentences.py",
)
PACKAGES = ("", "devices", "devices/health", "devices/mac_kit", "latency", "mlprogram", "runtimes")
"""Folders whose ``__init__.py`` is an empty one there."""

# As old a Python as there is has to be able to read this, to say that it is too old.
_MAIN = """import json
import os
import sys

if sys.version_info < (3, 8):
    sys.exit("Python %d.%d is too old, vitedge needs 3.8 or newer" % sys.version_info[:2])


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what == "about":
        from vitedge.devices.about import about

        sys.stdout.write(json.dumps(about()) + "\\n")
        return None
    if what == "try":
        from vitedge.devices.health.trials import run

        return run(sys.argv[2:])
    if what == "serve":
        from vitedge.latency.worker import main as serve

        return serve()
    from vitedge.devices.mac_kit.verify import main as verify

    return verify(["--kit", os.path.dirname(os.path.abspath(sys.argv[0])), *sys.argv[1:]])


sys.exit(main())
"""
_DATE = (1980, 1, 1, 0, 0, 0)
"""The same for every file, so that equal modules make an equal file, which a device has in its cache."""


def write(path: Path) -> Path:
    """Writes the program; returns its path."""
    root = Path(__file__).parent.parent
    contents = {f"{name}/__init__.py" if name else "__init__.py": b"" for name in PACKAGES}
    contents.update({name: (root / name).read_bytes() for name in MODULES})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(zipfile.ZipInfo("__main__.py", _DATE), _MAIN, zipfile.ZIP_DEFLATED)
        for name, content in sorted(contents.items()):
            file.writestr(zipfile.ZipInfo(f"vitedge/{name}", _DATE), content, zipfile.ZIP_DEFLATED)
    return path
