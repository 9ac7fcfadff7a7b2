# SPDX-License-Identifier: Apache-2.0
"""Environments with a known breakage: a folder in front of the import path, with stand-ins of packages that fail.

What they raise and print is what the real ones do; each names where that was seen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import cuda_stand_in
from vitedge.devices.health.breakages import Place, explain
from vitedge.devices.health.outcomes import Outcome, outcomes
from vitedge.devices.transports.transport import Completed

FALLING_BACK = """
import sys
__version__ = "1.22.0"
def get_available_providers():
    return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
class InferenceSession:
    def __init__(self, model, providers):
        self.asked = providers
        if providers[0] == "CUDAExecutionProvider":
            print("[E:onnxruntime:Default, provider_bridge_ort.cc:2195 TryGetProviderInfo_CUDA] FAIL : Failed to load "
                  "library libonnxruntime_providers_cuda.so with error: libcudnn.so.9: cannot open shared object file: "
                  "No such file or directory", file=sys.stderr)
        if providers[0] == "TensorrtExecutionProvider":
            raise RuntimeError("Failed to load library libonnxruntime_providers_tensorrt.so with error: "
                               "libnvinfer.so.10: cannot open shared object file: No such file or directory")
    def get_providers(self):
        return ["CPUExecutionProvider"]
    def run(self, names, feeds):
        import numpy as np
        from vitedge.devices.health import tiny
        return [feeds["x"] @ tiny.weight()]
"""
"""ONNX Runtime whose GPU providers are listed and not taken (microsoft/onnxruntime#25609)."""


def with_packages(folder: Path, packages: Mapping[str, str]) -> Path:
    """Writes packages, name to source, into a folder for the import path; ``NAME.dist-info`` holds a version."""
    for name, text in packages.items():
        place = folder / name
        place.mkdir(parents=True)
        if name.endswith(".dist-info"):
            distribution, _, version = name.removesuffix(".dist-info").rpartition("-")
            written = f"Metadata-Version: 2.1\nName: {distribution.replace('_', '-')}\nVersion: {version}\n"
            (place / "METADATA").write_text(written, encoding="utf-8")
        else:
            (place / "__init__.py").write_text(text, encoding="utf-8")
    return folder


def driver(folder: Path) -> Path:
    """Compiles the stand-in of the CUDA driver as the library that processes of its own find."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler for the stand-in of the CUDA driver: apt-get install gcc")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cuda.c").write_text(cuda_stand_in.SOURCE, encoding="utf-8")
    command = [compiler, "-shared", "-fPIC", "-w", "-o", str(folder / "libcuda.so.1"), str(folder / "cuda.c")]
    subprocess.run(command, check=True)
    return folder


def tried(
    environment: Path, *names: str, module: str = "vitedge.devices.health.trials", libraries: Path | None = None
) -> dict[str, Outcome]:
    """Tries in processes whose import path begins with a folder."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join((str(environment), *filter(None, sys.path)))}
    if libraries is not None:
        variables["LD_LIBRARY_PATH"] = str(libraries)

    def process(left: object) -> Completed:
        command = [sys.executable, "-m", module, *list(left)]  # type: ignore[call-overload]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
        code = done.returncode
        return Completed(code if code >= 0 else 128 - code, done.stdout, done.stderr)

    return outcomes(names, process)


def explained(outcome: Outcome, package: str, **versions: str) -> tuple[str, str]:
    """Why it failed and what mends it, with these versions installed."""
    return explain(outcome, package, Place("pip", versions))
