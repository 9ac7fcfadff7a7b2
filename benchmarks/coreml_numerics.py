# SPDX-License-Identifier: Apache-2.0
"""Compares Core ML packages of full-size models, computed op by op on this machine, with PyTorch.

``python -m benchmarks.coreml_numerics`` from the root of the repository, in an environment with the ``dev`` extra: two
deployment targets, both precisions, and both ways into coremltools: ``export`` is vitedge's own lowering of a
``torch.export`` program, ``trace`` is coremltools alone on a traced module, told what to keep in float32 where half
precision would exceed the tolerance. The weights are seeded.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from benchmarks.quantization_models import UNCHECKED
from tests.export.coreml.foreign import convert
from tests.family_map_files import settled
from tests.seeding import seeded
from vitedge.checkpoints.read import read
from vitedge.devices import machine
from vitedge.errors import CheckFailed
from vitedge.export.coreml.artifact import describe
from vitedge.export.float16.noise import find_noisy
from vitedge.images.image_set import load
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.program import read_program
from vitedge.models.reference import Reference, load_reference
from vitedge.parity.artifact import ReferenceOutputs, outputs_of
from vitedge.parity.metrics import compare, exceeded
from vitedge.parity.reference import gather
from vitedge.program.capture import capture
from vitedge.recipe import ExportRecipe
from vitedge.records import OutputParity, Tolerance
from vitedge.registry import versions
from vitedge.runtimes.feeding import as_input
from vitedge.runtimes.mlprogram import Runtime
from vitedge.verbs.export import export

RESULTS = Path(__file__).with_name("results") / "coreml_numerics.json"
MODELS = (
    "vit_small_patch16_224",
    "deit_small_distilled_patch16_224",
    "pit_s_224",
    "pit_s_distilled_224",
    "mobilevit_xs",
    "mobilevitv2_050",
    "mobilevitv2_100",
    "swin_tiny_patch4_window7_224",
)
TARGETS = ("iOS16", "iOS18")
FRONTS = ("export", "trace")
SEED = 0
IMAGES = 8
TRACED_DB = 51.0
"""SQNR in dB that the choice of float32 modules aims at for traced packages, which fold other modules than vitedge."""
TOLERANCES = {"fp32": Tolerance(relative_error=1e-5, agreement=1.0), "fp16": Tolerance(centred_sqnr_db=45.0)}


@dataclass(frozen=True)
class Row:
    """One package."""

    model: str
    front: str
    target: str
    precision: str
    operations: int
    relative_error: float
    sqnr_db: float
    centred_sqnr_db: float
    agreement: float | None
    missed: str
    """The tolerance that was exceeded and by how much, or empty."""
    notes: tuple[str, ...]
    """Notes of the export, such as how many modules stay in float32."""
    seconds: float
    """The export or the conversion, checks included."""


def write(name: str, path: Path) -> None:
    module = seeded(timm.create_model(name), SEED)
    if name.startswith("mobilevit"):
        settled(module, 256)
    torch.save(module.state_dict(), path)


def tolerance_of(name: str, precision: str) -> Tolerance:
    if name.startswith("mobilevitv2") and precision == "fp32":
        return Tolerance(relative_error=1e-4, agreement=1.0)
    return TOLERANCES[precision]


def exported(
    path: Path, folder: Path, target: str, precision: str, tolerance: Tolerance
) -> tuple[Path, tuple[str, ...]]:
    """Returns the package that vitedge exports and its notes; an error above the tolerance is kept, not refused."""
    recipe = ExportRecipe(
        formats=("coreml",), precision=precision, coreml_target=target, image_count=IMAGES, tolerance=tolerance
    )
    try:
        result = export(str(path), folder / "bundle", recipe, force=True)
    except CheckFailed as failed:
        print("missed:", failed)
        recipe = ExportRecipe(
            formats=("coreml",), precision=precision, coreml_target=target, image_count=IMAGES, tolerance=UNCHECKED
        )
        result = export(str(path), folder / "bundle", recipe, force=True)
    return folder / "bundle" / "model.mlpackage", result.manifest.artifacts[0].notes


def noisy(reference: Reference, reference_outputs: ReferenceOutputs) -> frozenset[str]:
    """Returns the modules whose rounding to half precision would exceed the tolerance, as vitedge predicts it."""
    program = capture(reference.module, reference.spec, reference.blocks)
    images = as_input(reference_outputs.data.images[:4], program.inputs[0], reference.spec)
    return frozenset(find_noisy(program, images, [reference_outputs.data.outputs["logits"]], TRACED_DB))


def converted(
    reference: Reference, folder: Path, target: str, precision: str, float32_modules: frozenset[str] = frozenset()
) -> Path:
    """Returns the package that coremltools alone converts from the traced module."""
    path, half = folder / f"traced-{target}-{precision}-{len(float32_modules)}.mlpackage", precision == "fp16"
    return convert(reference.module, reference.spec.image_size[0], path, target, half=half, single=float32_modules)


def measured(path: Path, reference_outputs: ReferenceOutputs) -> OutputParity:
    with Runtime(path) as runtime:
        (result,) = compare(reference_outputs.data.outputs, outputs_of(runtime, describe(path), reference_outputs))
    return result


def rows(name: str, folder: Path) -> Iterator[Row]:
    path = folder / f"{name}.pth"
    write(name, path)
    reference = load_reference(read(str(path)))
    reference_outputs = gather(reference, load("synthetic", reference.spec, IMAGES), Tolerance(), features=False)
    for front, target, precision in itertools.product(FRONTS, TARGETS, TOLERANCES):
        tolerance = tolerance_of(name, precision)
        start = time.perf_counter()
        notes: tuple[str, ...] = ()
        if front == "export":
            package, notes = exported(path, folder, target, precision, tolerance)
        else:
            package = converted(reference, folder, target, precision)
        seconds = time.perf_counter() - start
        found = measured(package, reference_outputs)
        if front == "trace" and precision == "fp16" and exceeded((found,), tolerance):
            float32_modules = noisy(reference, reference_outputs)
            notes = (
                f"{found.centred_sqnr_db:.1f} dB if all is in half precision: "
                f"{len(float32_modules)} modules stay in float32, by coremltools' selector",
            )
            package = converted(reference, folder, target, precision, float32_modules)
            found = measured(package, reference_outputs)
        yield Row(
            model=name,
            front=front,
            target=target,
            precision=precision,
            operations=sum(operation.kind != "const" for operation in read_program(read_package(package)).operations),
            relative_error=float(f"{found.relative_error:.3g}"),
            sqnr_db=round(found.sqnr_db, 1),
            centred_sqnr_db=round(found.centred_sqnr_db, 1),
            agreement=found.agreement,
            missed=exceeded((found,), tolerance),
            notes=notes,
            seconds=round(seconds, 1),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="names in timm; all if none is given")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    provenance = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "seed": SEED,
        "weights": "seeded, matrices 1.5 times as wide as keeps the variance; MobileViT with settled batch norms",
        "images": f"synthetic, seed 0, {IMAGES} images",
        "bars": "fp32 1e-5 relative (MobileViT v2 1e-4) and every top-1; fp16 45 dB centred SQNR",
        "device": machine.identity(),
        "versions": versions(("torch", "timm", "coremltools", "numpy")),
        "threads": torch.get_num_threads(),
    }
    found: list[dict[str, Any]] = []
    if arguments.models and arguments.output.exists():  # some models again: the rows of the others stay
        kept = json.loads(arguments.output.read_text(encoding="utf-8"))["rows"]
        found = [row for row in kept if row["model"] not in arguments.models]
    for name in arguments.models or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(name, Path(folder)):
                found.append(asdict(row))
                print(*asdict(row).values(), flush=True)
        # After each model, so that an interrupted run leaves what it has measured.
        content = json.dumps({"provenance": provenance, "rows": found}, indent=1)
        arguments.output.write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
