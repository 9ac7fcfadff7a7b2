# SPDX-License-Identifier: Apache-2.0
"""Writes a verify kit, a folder with which a Mac runs a bundle's Core ML packages, and imports the Mac's results.

A Mac's own conclusion is never taken: its outputs are compared here with the bundle's reference outputs.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitedge.devices import runner
from vitedge.devices.mac_kit.result import FORMAT_VERSION, Result, Run, read_result
from vitedge.devices.mac_kit.verify import content_hash
from vitedge.errors import BadRecipe, CheckFailed, OutputRefused, UnreadableArtifact
from vitedge.files.bundle import MANIFEST, REFERENCE, check_files, read_manifest
from vitedge.files.digest import hash_file
from vitedge.files.npy import write_npz
from vitedge.files.plain import to_dict
from vitedge.files.replacing import replacing
from vitedge.guide.pages import reseal
from vitedge.parity.artifact import ReferenceOutputs, report_on, sealed_outputs
from vitedge.records import Artifact, Manifest, ParityReport, Validation
from vitedge.runtimes.feeding import inputs, joined, output_names

KIT = "kit.json"
SCRIPT = runner.NAME
RUNTIME = "coreml"
_SAME_MACHINE = ("name", "model", "compute_units")
"""Entries of a machine's record that are equal if the same machine ran again on the same compute units."""
_FILES = ("README.md", SCRIPT, "inputs.npz", "expected.npz")

Array = npt.NDArray[np.generic]


def write_kit(bundle: Path, folder: Path, *, force: bool = False) -> Path:
    """Writes a verify kit, which needs nothing but Python, coremltools and NumPy on a Mac.

    Args:
        bundle: its Core ML packages, images and reference go into the kit.
        folder: to be written in one step.
        force: replace the kit that is there.

    Returns:
        The folder.

    Raises:
        BadRecipe: the bundle holds no Core ML package, or the folder lies in it.
        BundleDamaged: a file of the bundle is not the one that its manifest describes.
        UnreadableArtifact: it is not a bundle.
        OutputRefused: the folder exists, or cannot be written.
    """
    manifest = read_manifest(bundle)
    packages = _packages(bundle, manifest)
    check_files(bundle, manifest)
    if folder.resolve().is_relative_to(bundle.resolve()):
        raise BadRecipe(f"{folder} lies in the bundle, which holds nothing but what its manifest describes.")
    if (folder / MANIFEST).is_file():
        raise OutputRefused(f"{folder} is a bundle, which a kit does not replace; name another folder.")
    reference_outputs = sealed_outputs(bundle, manifest)
    fed = {artifact.path: _inputs(artifact, reference_outputs) for artifact in packages}
    needs = sum(artifact.size for artifact in packages) + sum(values.nbytes for values in fed.values())
    with replacing(folder, force=force, needs=needs) as partial:
        for name in (name for artifact in packages for name in artifact.files):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, partial / name)
        write_npz(partial / "inputs.npz", fed)
        write_npz(partial / "expected.npz", reference_outputs.data.outputs)
        runner.write(partial / SCRIPT)
        (partial / "README.md").write_text(_readme(packages, manifest), encoding="utf-8")
        listing = _listing(packages, manifest, reference_outputs, partial)
        (partial / KIT).write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")
    return folder


def import_result(bundle: Path, result: Path) -> Validation:
    """Compares a Mac's outputs with the reference's, and seals the reports into the bundle's manifest, passed or not.

    Results of the same machine with the same compute units replace its earlier ones.

    Args:
        bundle: the one that the kit was written from.
        result: the ``result.npz`` that the kit's script wrote on the Mac.

    Returns:
        One parity report for every package and choice of compute units.

    Raises:
        BadRecipe: the bundle holds no Core ML package.
        BundleDamaged: a file of the bundle is not the one that its manifest describes.
        UnreadableArtifact: it is not a bundle, or not the result of a kit of it; outputs are missing or have other
            shapes.
        CheckFailed: the result was computed from other packages or from other inputs than the bundle's.
    """
    manifest = read_manifest(bundle)
    packages = {artifact.path: artifact for artifact in _packages(bundle, manifest)}
    files = check_files(bundle, manifest)
    reference_outputs = sealed_outputs(bundle, manifest)
    fed = {path: _inputs(artifact, reference_outputs) for path, artifact in packages.items()}
    shapes = {path: _shapes(artifact, reference_outputs, len(fed[path])) for path, artifact in packages.items()}
    found = read_result(result, shapes)
    if found.bundle != manifest.files.get(REFERENCE):
        raise CheckFailed(f"{result} comes from a kit of another bundle than {bundle}.")
    for path, artifact in packages.items():
        _check_origin(result, found, artifact, content_hash(fed[path]))
    reports = tuple(_report(one, packages[one.artifact], reference_outputs, found.machine) for one in found.runs)
    again = {_key(report) for report in reports}
    kept = tuple(report for report in manifest.parity if _key(report) not in again)
    reseal(bundle, replace(manifest, parity=(*kept, *reports)))
    return Validation(str(bundle), reports, (), files, all(report.passed for report in reports))


def _packages(bundle: Path, manifest: Manifest) -> tuple[Artifact, ...]:
    packages = tuple(artifact for artifact in manifest.artifacts if artifact.format == "coreml")
    if not packages:
        again = shlex.join(["vitedge", "export", manifest.checkpoint.source, "-o", "BUNDLE", "--format", "coreml"])
        raise BadRecipe(f"{bundle} holds no Core ML package; export one with: {again}")
    for artifact in packages:
        if len(artifact.inputs) != 1 or not all(isinstance(edge, int) for edge in artifact.inputs[0].shape):
            raise UnreadableArtifact(f"{artifact.path} does not take one input of a fixed size.")
    return packages


def _inputs(artifact: Artifact, reference_outputs: ReferenceOutputs) -> Array:
    """Returns the inputs of a package for all images, ``(images, …)``, padded to whole batches."""
    return np.ascontiguousarray(
        np.concatenate(list(inputs(reference_outputs.data.images, artifact.inputs[0], reference_outputs.spec)))
    )


def _shapes(artifact: Artifact, reference_outputs: ReferenceOutputs, count: int) -> dict[str, tuple[int, ...]]:
    return {
        name: (count, *reference_outputs.data.outputs[name].shape[1:]) for name in _outputs(artifact, reference_outputs)
    }


def _outputs(artifact: Artifact, reference_outputs: ReferenceOutputs) -> list[str]:
    return [spec.name for spec in artifact.outputs if spec.name in reference_outputs.data.outputs]


def _check_origin(result: Path, found: Result, artifact: Artifact, inputs: str) -> None:
    """Refuses a result that was computed from another package or from other inputs; ``inputs`` is their hash."""
    for name, digest in artifact.files.items():
        if found.files.get(name) != digest:
            raise CheckFailed(f"{result} was computed with another {name} than the bundle's: its SHA-256 is another.")
    if found.inputs.get(artifact.path) != inputs:
        raise CheckFailed(f"{result} was computed from other inputs than the bundle's images.")


def _report(
    one: Run, artifact: Artifact, reference_outputs: ReferenceOutputs, machine: Mapping[str, str]
) -> ParityReport:
    where = {
        **machine,
        "compute_units": one.compute_units,
        "load_seconds": f"{one.load_seconds:.3f}",
        "median_ms": f"{one.median_ms:.3f}",
    }
    images, names = len(reference_outputs.data.images), output_names(reference_outputs.data.outputs, artifact)
    return replace(report_on(RUNTIME, artifact, joined([one.outputs], images, names), reference_outputs), machine=where)


def _key(report: ParityReport) -> tuple[str, ...]:
    """Returns a key that is equal for reports of which the later replaces the earlier."""
    return (report.artifact, report.runtime, *(report.machine.get(name, "") for name in _SAME_MACHINE))


def _listing(
    packages: tuple[Artifact, ...], manifest: Manifest, reference_outputs: ReferenceOutputs, folder: Path
) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "bundle": manifest.files[REFERENCE],
        "tolerance": to_dict(reference_outputs.tolerance),
        "files": {name: hash_file(folder / name) for name in _FILES},
        "artifacts": [
            {
                "path": artifact.path,
                "input": artifact.inputs[0].name,
                "image": artifact.inputs[0].dtype == "uint8",
                "batch": artifact.inputs[0].shape[0],
                "outputs": _outputs(artifact, reference_outputs),
                "files": dict(artifact.files),
            }
            for artifact in packages
        ],
    }


def _readme(packages: tuple[Artifact, ...], manifest: Manifest) -> str:
    is_image = any(artifact.inputs[0].dtype == "uint8" for artifact in packages)
    names = ", ".join(f"`{artifact.path}` ({artifact.precision}, {artifact.target})" for artifact in packages)
    wanted = "coremltools numpy" + (" pillow" if is_image else "")
    why = (
        "\ncoremltools takes an image input as an image of pillow, so this kit needs that as well.\n"
        if is_image
        else ""
    )
    return f"""# Verify kit

{manifest.spec.variant}: {names}, with its inputs and the outputs that its PyTorch model has for them.

On a Mac:

```
python -m pip install {wanted}
python {SCRIPT}
```
{why}
It checks every file, runs the package in Core ML, prints how far the outputs are from the expected ones and how long a
prediction takes, and writes `result.npz`. `--compute-units` says what Core ML may use, `--compare-cpu` runs it on the
CPU as well, `--help` lists the rest. `result.npz` holds the outputs, the name and model of the Mac, and its versions.

Back where the bundle is:

```
vitedge kit import BUNDLE result.npz
```
"""
