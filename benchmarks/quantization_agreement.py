# SPDX-License-Identifier: Apache-2.0
"""Compares a runtime with PyTorch's simulation: integer by integer within a block, and in decibels end to end.

``python -m benchmarks.quantization_agreement`` from the root of the repository writes
``benchmarks/results/quantization_agreement.json``; with names of models it measures those again and keeps the other
rows. Block by block, every integer of the int8 file in ONNX Runtime, and of the Core ML package computed op by op, is
compared with the simulation's (`benchmarks.quantization_pieces`, `benchmarks.quantization_packages`). End to end, where
one integer that falls on the other side of a half moves others, the file's distance from the float model is compared
with the simulation's, in ONNX Runtime and in OpenVINO, and that of the Core ML package with its own. A figure that
misses its limit is written down like any other and ends the script with exit code 1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch

from benchmarks.quantization_models import MODELS, provenance, write_checkpoint
from benchmarks.quantization_packages import compare as compare_package
from benchmarks.quantization_pieces import Array, File, Piece
from benchmarks.sheet import Sheet, parser
from vitedge import registry
from vitedge.checkpoints.read import read
from vitedge.export.formats import CORE_ML, PROCESSOR
from vitedge.export.to_coreml import lower as lower_to_coreml
from vitedge.export.to_onnx import lower
from vitedge.images.preprocess import normalize
from vitedge.images.stream import open_images
from vitedge.models.reference import load_reference
from vitedge.parity.metrics import compare
from vitedge.program.execution import Execution
from vitedge.program.modules import enclosing_modules
from vitedge.program.program import Program
from vitedge.quantization.run import Quantization
from vitedge.recipe import QuantizationRecipe, ResolvedRecipe
from vitedge.verbs.quantize import quantize_reference

RESULTS = Path(__file__).with_name("results") / "quantization_agreement.json"
CALIBRATION = 32
EVALUATED = 32
COREML_EVALUATED = 8
CUT = 2
"""Images over which integers are compared."""
RUNTIMES = ("onnxruntime", "openvino")
LIMITS = {"flipped": 0.01, "apart": 1, "sqnr_db": 1.0}
"""Share of a block's integers that may differ; how far one may that is computed from the same inputs; and decibels
between runtime and simulation."""


@dataclass(frozen=True)
class Integers:
    """Those of one lowered form, beside the simulation's."""

    compared: int
    flipped: float
    """Share that differs, in the piece with the largest."""
    apart: int
    """Largest difference of any."""
    further: int
    """Number of integers that differ by more than one, each after another that differs within its block."""
    apart_alone: int
    """Largest difference where every integer is computed from the simulation's integers."""
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Row:
    """One model."""

    model: str
    onnxruntime: Integers
    simulation_db: float
    """Centred SQNR of PyTorch's simulation against the float model."""
    runtime_db: dict[str, float]
    """The same of the file in each runtime."""
    mlprogram: Integers
    """Integers of the Core ML package, computed op by op."""
    coreml_simulation_db: float
    """Centred SQNR in dB of PyTorch's simulation of the program for Core ML, over fewer images."""
    mlprogram_db: float


def measure(title: str) -> Row:
    """One model, integer by integer and end to end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = load_reference(read(str(write_checkpoint(title, folder))))
        asked = QuantizationRecipe(images="synthetic", image_count=CALIBRATION)
        recipe = ResolvedRecipe(formats=("onnx",), precision="int8", quantization=asked)
        program, path = (
            _divided(quantize_reference(reference, recipe, PROCESSOR, features=False)),
            folder / "model.onnx",
        )
        artifact = lower(program, recipe, path)
        (pixels,) = open_images("synthetic", reference.spec, EVALUATED, 1).batches(EVALUATED)
        images = normalize(pixels, reference.spec.preprocessing)
        file = File(onnx.load(path), program, artifact.blocks, folder)
        (output,) = artifact.outputs
        expected = reference.outputs(pixels, features=False)["logits"]
        few, package = images[:COREML_EVALUATED], folder / "model.mlpackage"
        coreml = _divided(quantize_reference(reference, recipe, CORE_ML, features=False))
        (described,) = lower_to_coreml(coreml, recipe, package, ()).outputs
        return Row(
            model=title,
            onnxruntime=_integers(file.compare(images[:CUT])),
            simulation_db=_sqnr(expected, _simulated(program, images)),
            runtime_db={name: _sqnr(expected, _run(name, path, images)[output.name]) for name in RUNTIMES},
            mlprogram=_integers(compare_package(package, coreml, images[:CUT])),
            coreml_simulation_db=_sqnr(expected[: len(few)], _simulated(coreml, few)),
            mlprogram_db=_sqnr(expected[: len(few)], _run("mlprogram", package, few)[described.name]),
        )


def _integers(found: Iterable[Piece]) -> Integers:
    pieces = tuple(found)
    return Integers(
        compared=sum(piece.integers for piece in pieces),
        flipped=max(piece.flipped for piece in pieces),
        apart=max(piece.apart for piece in pieces),
        further=sum(piece.further for piece in pieces),
        apart_alone=max(piece.apart_alone for piece in pieces),
        pieces=pieces,
    )


def _divided(job: Quantization) -> Program:
    """Returns the program; transformer layers of a block that holds several, as MobileViT's do, are blocks as well."""
    program = job.program(1)
    layers = [attention.name.rpartition(".")[0] for attention in job.structure.attentions]
    holders = {block for block in program.blocks if any(layer.startswith(f"{block}.") for layer in layers)}
    modules = dict.fromkeys(module for node in program.exported.graph.nodes for module in enclosing_modules(node))
    parts = [module for module in modules if module.rpartition(".")[0] in holders]
    return replace(program, blocks=tuple(dict.fromkeys((*program.blocks, *parts, *layers))))


def _sqnr(expected: Array, found: Array) -> float:
    return round(compare({"logits": expected}, {"logits": found})[0].centred_sqnr_db, 2)


def _simulated(program: Program, images: Array) -> Array:
    simulation = Execution(program.exported)
    return np.concatenate([simulation(image[None])[0].numpy() for image in torch.from_numpy(images)])


def _run(runtime: str, path: Path, images: Array) -> dict[str, Array]:
    with registry.load(registry.RUNTIMES, runtime).Runtime(path) as opened:
        (image,) = opened.inputs
        found = [opened.run({image.name: one[None]}) for one in images]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def missed(rows: Sequence[Row]) -> list[str]:
    """Returns the limits that are missed, each as a sentence."""
    found = []
    for row in rows:
        for runtime, integers in (("onnxruntime", row.onnxruntime), ("mlprogram", row.mlprogram)):
            if integers.flipped > LIMITS["flipped"]:
                found.append(f"{row.model}: {integers.flipped:.2%} of a block's integers differ in {runtime}")
            if integers.apart_alone > LIMITS["apart"]:
                found.append(f"{row.model}: from the same inputs, an integer differs by {integers.apart_alone}")
        pairs = [(runtime, figure, row.simulation_db) for runtime, figure in row.runtime_db.items()]
        pairs.append(("mlprogram", row.mlprogram_db, row.coreml_simulation_db))
        for runtime, figure, simulated in pairs:
            if abs(figure - simulated) > LIMITS["sqnr_db"]:
                found.append(f"{row.model}: {figure:.1f} dB in {runtime}, simulated {simulated:.1f} dB")
    return found


def _told(row: Row) -> str:
    decibels = ", ".join(f"{name} {figure} dB" for name, figure in row.runtime_db.items())
    return (
        f"{row.model}: simulated {row.simulation_db} dB, {decibels}; {_differences(row.onnxruntime)}\n"
        f"for Core ML simulated {row.coreml_simulation_db} dB, mlprogram {row.mlprogram_db} dB; "
        f"{_differences(row.mlprogram)}"
    )


def _differences(integers: Integers) -> str:
    return (
        f"of {integers.compared} integers at most {integers.flipped:.3%} of a block's differ, {integers.further} of "
        f"all by up to {integers.apart} after others in their block, by {integers.apart_alone} at most from the same "
        "inputs"
    )


def main() -> None:
    asked = parser(__doc__, "MODEL", MODELS, RESULTS).parse_args()
    told = provenance(calibration_images=CALIBRATION, judged_images=EVALUATED, compared_images=CUT, seeds=(0, 1))
    sheet = Sheet(asked.output, Row, _place, missed, {"provenance": told, "bars": LIMITS})
    for title in asked.chosen:
        row = measure(title)
        print(_told(row), flush=True)
        sheet.put(row)
    sheet.finish()


def _place(row: Row) -> int:
    return list(MODELS).index(row.model)


if __name__ == "__main__":
    main()
