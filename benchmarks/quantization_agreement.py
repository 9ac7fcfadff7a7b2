# SPDX-License-Identifier: Apache-2.0
"""Whether a runtime computes what PyTorch simulated: integer by integer within a block, and in decibels end to end.

``python -m benchmarks.quantization_agreement`` from the root of the repository writes
``benchmarks/results/quantization_agreement.json``; with names of models it measures those again and keeps the other
rows. Block by block, every integer of the int8 file in ONNX Runtime is compared with the simulation's
(`benchmarks.quantization_pieces`). End to end, where one integer that falls on the other side of a half moves others,
the file's distance from the float model is compared with the simulation's, in ONNX Runtime and in OpenVINO, and that
of the Core ML package with its own. A figure that misses its bar is written down like any other and ends the script
with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from benchmarks.quantization_models import MODELS, provenance, write_checkpoint
from benchmarks.quantization_pieces import Array, File, Piece
from vitedge import registry
from vitedge.calibration.preprocess import normalize
from vitedge.calibration.stream import open_images
from vitedge.checkpoints.read import read
from vitedge.export.capture import enclosing_modules
from vitedge.export.program import Program
from vitedge.export.to_coreml import lower as lower_to_coreml
from vitedge.export.to_onnx import lower
from vitedge.models.reference import load_reference
from vitedge.parity import compare
from vitedge.quantization import prepare
from vitedge.quantize.execution import Execution
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.serialization import from_dict

RESULTS = Path(__file__).with_name("results") / "quantization_agreement.json"
CALIBRATION = 32
JUDGED = 32
COREML_JUDGED = 8
CUT = 2
"""Images over which integers are compared."""
RUNTIMES = ("onnxruntime", "openvino")
BARS = {"flipped": 0.01, "apart": 1, "sqnr_db": 1.0}
"""Share of a block's integers that may differ; how far one may that is computed from the same inputs; and decibels
between runtime and simulation."""


@dataclass(frozen=True)
class Row:
    """One model."""

    model: str
    integers: int
    """How many were compared."""
    flipped: float
    """Of the piece with the largest share."""
    apart: int
    """Largest difference of any."""
    further: int
    """How many differ by more than one, each of them after another that differs within its block."""
    apart_alone: int
    """Largest difference where every integer is computed from the simulation's integers."""
    pieces: tuple[Piece, ...]
    simulation_db: float
    """Centred SQNR of PyTorch's simulation against the float model."""
    runtime_db: dict[str, float]
    """The same of the file in each runtime."""
    coreml_simulation_db: float | None = None
    """Of the program for Core ML, which rounds to other integers, over fewer images; None where it was not measured."""
    mlprogram_db: float | None = None
    """The same of the package, computed op by op."""


def measure(title: str) -> Row:
    """One model, integer by integer and end to end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = load_reference(read(str(write_checkpoint(title, folder))))
        asked = QuantizationRecipe(images="synthetic", image_count=CALIBRATION)
        recipe = ExportRecipe(precision="int8", quantization=asked)
        job, path = prepare(reference, recipe, features=False, progress=_silence), folder / "model.onnx"
        program = _divided(job.program(1), [attention.name for attention in job.structure.attentions])
        artifact = lower(program, recipe, path)
        (pixels,) = open_images("synthetic", reference.spec, JUDGED, 1).batches(JUDGED)
        images = normalize(pixels, reference.spec.preprocessing)
        pieces = tuple(File(onnx.load(path), program, artifact.blocks, folder).compare(images[:CUT]))
        (output,) = artifact.outputs
        expected = reference.outputs(pixels, features=False)["logits"]
        few, package = images[:COREML_JUDGED], folder / "model.mlpackage"
        recipe = replace(recipe, formats=("coreml",))
        coreml = prepare(reference, recipe, features=False, progress=_silence).program(1)
        (described,) = lower_to_coreml(coreml, recipe, package, ()).outputs
        return Row(
            model=title,
            integers=sum(piece.integers for piece in pieces),
            flipped=max(piece.flipped for piece in pieces),
            apart=max(piece.apart for piece in pieces),
            further=sum(piece.further for piece in pieces),
            apart_alone=max(piece.apart_alone for piece in pieces),
            pieces=pieces,
            simulation_db=_sqnr(expected, _simulated(program, images)),
            runtime_db={name: _sqnr(expected, _run(name, path, images)[output.name]) for name in RUNTIMES},
            coreml_simulation_db=_sqnr(expected[: len(few)], _simulated(coreml, few)),
            mlprogram_db=_sqnr(expected[: len(few)], _run("mlprogram", package, few)[described.name]),
        )


def _divided(program: Program, attentions: Sequence[str]) -> Program:
    """With the parts of blocks that hold several transformer layers, as MobileViT's do, as blocks of their own."""
    layers = [name.rpartition(".")[0] for name in attentions]
    holders = {block for block in program.blocks if any(layer.startswith(f"{block}.") for layer in layers)}
    modules = dict.fromkeys(module for node in program.exported.graph.nodes for module in enclosing_modules(node))
    parts = [module for module in modules if module.rpartition(".")[0] in holders]
    return replace(program, blocks=tuple(dict.fromkeys((*program.blocks, *parts, *layers))))


def _silence(_text: str) -> None:
    """Takes progress and says nothing."""


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
    """The bars that are not held, each as a sentence."""
    found = []
    for row in rows:
        if row.flipped > BARS["flipped"]:
            found.append(f"{row.model}: {row.flipped:.2%} of a block's integers differ")
        if row.apart_alone > BARS["apart"]:
            found.append(f"{row.model}: from the same inputs, an integer differs by {row.apart_alone}")
        pairs = [(runtime, figure, row.simulation_db) for runtime, figure in row.runtime_db.items()]
        if row.mlprogram_db is not None and row.coreml_simulation_db is not None:
            pairs.append(("mlprogram", row.mlprogram_db, row.coreml_simulation_db))
        for runtime, figure, simulated in pairs:
            if abs(figure - simulated) > BARS["sqnr_db"]:
                found.append(f"{row.model}: {figure:.1f} dB in {runtime}, simulated {simulated:.1f} dB")
    return found


def _told(row: Row) -> str:
    decibels = ", ".join(f"{name} {figure} dB" for name, figure in row.runtime_db.items())
    return (
        f"{row.model:12} {row.integers} integers: at most {row.flipped:.3%} of a block's differ, {row.further} of all "
        f"by up to {row.apart} after others in their block, by {row.apart_alone} at most from the same inputs; "
        f"simulated {row.simulation_db} dB, {decibels}; "
        f"for Core ML simulated {row.coreml_simulation_db} dB, mlprogram {row.mlprogram_db} dB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; all if none is given")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    models = asked.models or list(MODELS)
    kept: list[dict[str, Any]] = []
    if asked.output.exists():  # some models again: the rows of the others stay
        kept = json.loads(asked.output.read_text(encoding="utf-8"))["rows"]
    rows = {row["model"]: from_dict(Row, row) for row in kept}
    told = provenance(calibration_images=CALIBRATION, judged_images=JUDGED, compared_images=CUT, seeds=(0, 1))
    for title in models:
        rows[title] = row = measure(title)
        print(_told(row), flush=True)
        ordered = [rows[name] for name in MODELS if name in rows]
        content = {
            "provenance": told,
            "bars": BARS,
            "rows": [asdict(row) for row in ordered],
            "missed": missed(ordered),
        }
        asked.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"missed: {'; '.join(missed(list(rows.values()))) or 'nothing'}; {asked.output}")
    sys.exit(bool(missed(list(rows.values()))))


if __name__ == "__main__":
    main()
