# SPDX-License-Identifier: Apache-2.0
"""Bundles around a model of grey images, and an environment that has nothing of vitedge."""

from __future__ import annotations

import os
import subprocess
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import PIL

from tests.vitedge import grey_models
from vitedge.export.onnx.artifact import describe
from vitedge.files.bundle import FORMAT_VERSION, REFERENCE, ReferenceData, write_manifest, write_reference
from vitedge.files.digest import hash_file
from vitedge.guide.pages import write_pages
from vitedge.images.steps import preprocessing_steps
from vitedge.records import CheckpointIdentity, Manifest, ModelSpec, OutputParity, ParityReport, Tolerance

PACKAGES = (np, PIL, onnxruntime)


def write_bundle(
    folder: Path, *, batch: int | str = 1, spec: ModelSpec | None = None, output: str = "logits", dtype: str = "float32"
) -> Manifest:
    """Writes a bundle with an ONNX file that tells grey images apart, without an export."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = spec or grey_models.spec()
    artifact = describe(grey_models.write_model(folder / "model.onnx", batch=batch, output=output))
    pixels = np.zeros((2, 3, 8, 8), np.uint8)
    write_reference(folder, ReferenceData(pixels, {output: np.zeros((2, 7), np.float32)}))
    figures = OutputParity(output, 1.5e-7, 130.0, 124.5, 1.0, 1.0 if output == "logits" else None, 0.0)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        checkpoint=CheckpointIdentity("/home/somebody/greys.pth", "ab" * 32, 6_100_000, "model_ema"),
        spec=spec,
        recipe={},
        artifacts=(artifact,),
        parity=(ParityReport("model.onnx", "onnxruntime", 2, "synthetic", Tolerance(2e-5), (figures,), passed=True),),
        structure=(),
        latency=None,
        files={REFERENCE: hash_file(folder / REFERENCE)},
        versions={"vitedge": "0.1.0"},
        preprocessing=preprocessing_steps(spec, dtype),
    )
    sealed = write_pages(folder, manifest)
    write_manifest(folder, sealed)
    return sealed


def make_environment(folder: Path, *, without: str = "") -> Path:
    """Makes a fresh virtual environment with nothing but numpy, pillow and onnxruntime; returns its interpreter."""
    venv.create(folder, with_pip=False)
    place = next(folder.glob("lib/python*/site-packages"), folder / "Lib" / "site-packages")
    for package in PACKAGES:
        found = Path(str(package.__file__)).parent
        if found.name == without:
            continue
        (place / found.name).symlink_to(found)
        for libraries in found.parent.glob(f"{'pillow' if package is PIL else found.name}.libs"):
            (place / libraries.name).symlink_to(libraries)
    return next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists())


def run(python: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs an interpreter elsewhere, without what this folder and environment add to its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), *map(str, arguments)]
    return subprocess.run(command, cwd=python.parent, env=environment, capture_output=True, text=True, check=False)


def with_channels(spec: ModelSpec, channels: int) -> ModelSpec:
    """Returns a spec for another number of channels."""
    preprocessing = replace(spec.preprocessing, mean=(0.0,) * channels, std=(1.0,) * channels)
    return replace(spec, in_channels=channels, preprocessing=preprocessing)
