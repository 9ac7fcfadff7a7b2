# SPDX-License-Identifier: Apache-2.0
"""Whether a runtime computes what PyTorch simulated: integer by integer within a block, and in decibels end to end.

``python -m benchmarks.quantization_agreement`` from the root of the repository writes
``benchmarks/results/quantization_agreement.json``; with names of models it measures those again and keeps the other
rows. The int8 file is cut at the outputs of its blocks, each piece is given what the simulation has there, and every
integer that the piece computes is compared with the simulation's. End to end, where one integer that falls on the other
side of a half moves others, the files' distance from the float model is compared with the simulation's, in ONNX Runtime
and in OpenVINO. A figure that misses its bar is written down like any other and ends the script with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.utils import Extractor
from torch import Tensor

from benchmarks.quantization_models import MODELS, provenance, write_checkpoint
from vitedge import registry
from vitedge.calibration.preprocess import normalize
from vitedge.calibration.stream import open_images
from vitedge.checkpoints.read import read
from vitedge.export.capture import enclosing_modules
from vitedge.export.program import Program
from vitedge.export.to_onnx import block_outputs, lower
from vitedge.models.reference import load_reference
from vitedge.parity import compare
from vitedge.quantization import prepare
from vitedge.quantize.execution import Execution
from vitedge.quantize.insert import QUANTIZE
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.serialization import from_dict

RESULTS = Path(__file__).with_name("results") / "quantization_agreement.json"
CALIBRATION = 32
JUDGED = 32
CUT = 2
"""Images over which integers are compared."""
RUNTIMES = ("onnxruntime", "openvino")
BARS = {"flipped": 0.01, "apart": 1, "sqnr_db": 1.0}
"""Share of a block's integers that may differ, by how much at most, and decibels between runtime and simulation."""
Array = np.ndarray[Any, Any]
Key = tuple[float, int, int]
"""Scale, zero point and, where several have the same of both, which of them: by that a quantizer of the program and one
of the file are recognized."""


@dataclass(frozen=True)
class Piece:
    """What lies between the outputs of blocks, over all images."""

    after: tuple[str, ...]
    """The values that it starts from."""
    integers: int
    flipped: float
    """Share that differs from the simulation's."""
    apart: int
    """Largest difference."""


@dataclass(frozen=True)
class Row:
    """One model."""

    model: str
    integers: int
    """How many were compared."""
    flipped: float
    """Of the piece with the largest share."""
    apart: int
    pieces: tuple[Piece, ...]
    simulation_db: float
    """Centred SQNR of PyTorch's simulation against the float model."""
    runtime_db: dict[str, float]
    """The same of the file in each runtime."""


@dataclass(frozen=True)
class Edge:
    """Where a file is cut: a block's value, or the same before it was moved about."""

    block: str
    back: tuple[Callable[[Array], Array], ...] = ()
    """What undoes the movements, the last of them first."""

    def before(self, node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]) -> Edge:
        """The same before a Reshape or a Transpose."""
        if node.op_type == "Transpose":
            return Edge(self.block, (*self.back, partial(np.transpose, axes=np.argsort(node.attribute[0].ints))))
        return Edge(self.block, (*self.back, partial(np.reshape, shape=shapes[node.input[0]])))

    def feed(self, floats: Mapping[str, Array]) -> Array:
        """The simulation's value in the file's layout."""
        value = floats[self.block]
        for undo in self.back:
            value = undo(value)
        return value


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
        pieces = tuple(_compare_pieces(onnx.load(path), program, artifact.blocks, images[:CUT], folder))
        (output,) = artifact.outputs
        expected = reference.outputs(pixels, features=False)["logits"]
        simulation = Execution(program.exported)
        simulated = np.concatenate([simulation(image[None])[0].numpy() for image in torch.from_numpy(images)])
        return Row(
            model=title,
            integers=sum(piece.integers for piece in pieces),
            flipped=max(piece.flipped for piece in pieces),
            apart=max(piece.apart for piece in pieces),
            pieces=pieces,
            simulation_db=_sqnr(expected, simulated),
            runtime_db={name: _sqnr(expected, _run(name, path, images)[output.name]) for name in RUNTIMES},
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


def _run(runtime: str, path: Path, images: Array) -> dict[str, Array]:
    with registry.load(registry.RUNTIMES, runtime).Runtime(path) as opened:
        (image,) = opened.inputs
        found = [opened.run({image.name: one[None]}) for one in images]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def _compare_pieces(
    model: onnx.ModelProto, program: Program, blocks: Mapping[str, str], images: Array, folder: Path
) -> Iterator[Piece]:
    """Every piece on the simulation's values; those that start from the same blocks are one."""
    extractor = Extractor(model)
    values = [_simulate(program, image[None]) for image in images]
    edges = _edges(model, blocks) | {program.inputs[0].name: Edge("")}
    chains = _chains(model)
    ends = {chain[-1]: name for name, (_, chain) in chains.items()}
    for start, moved in _pieces(model, set(edges), list(ends)).items():
        quantized = [ends[name] for name in moved]
        path = folder / "piece.onnx"
        wanted = [value for name in quantized for value in chains[name][1]]
        onnx.save(extractor.extract_model(list(start), wanted), path)
        differences: list[Array] = []
        with registry.load(registry.RUNTIMES, "onnxruntime").Runtime(path) as runtime:
            for floats, integers in values:
                found = runtime.run({name: edges[name].feed(floats) for name in start})
                for key, chain in map(chains.__getitem__, quantized):
                    differences.append(_difference([found[name] for name in chain], integers[key]))
        every = np.concatenate(differences)
        yield Piece(
            tuple(edges[name].block or "image" for name in start),
            every.size,
            round(float(np.mean(every > 0)), 6),
            int(every.max()),
        )


def _edges(model: onnx.ModelProto, blocks: Mapping[str, str]) -> dict[str, Edge]:
    """Every value that is a block's, in whatever layout."""
    shapes = {
        value.name: [edge.dim_value for edge in value.type.tensor_type.shape.dim] for value in model.graph.value_info
    }
    makers = {node.output[0]: node for node in model.graph.node}
    edges: dict[str, Edge] = {}
    for block, name in blocks.items():
        edges[name] = edge = Edge(block)
        node = makers.get(name)
        while node is not None and node.op_type in ("Reshape", "Transpose"):
            edge = edge.before(node, shapes)
            edges[node.input[0]] = edge
            node = makers.get(node.input[0])
    return edges


def _simulate(program: Program, image: Array) -> tuple[dict[str, Array], dict[Key, Array]]:
    """The outputs of all blocks, with the image itself under no name, and the integers of all quantizers."""
    floats: dict[str, Array] = {"": image}
    integers: dict[Key, Array] = {}
    watches: dict[str, Callable[[Tensor], None]] = {}
    for block, node in block_outputs(program.exported, program.blocks).items():
        watches[node] = lambda value, block=block: floats.update({block: value.numpy().copy()})
    quantizers = [node for node in program.exported.graph.nodes if node.target is QUANTIZE]
    keys = _numbered((float(np.float32(node.args[1])), int(node.args[2])) for node in quantizers)
    for node, key in zip(quantizers, keys, strict=True):
        watches[node.name] = lambda value, key=key: integers.update({key: value.numpy().copy()})
    Execution(program.exported, watches)(torch.from_numpy(image))
    return floats, integers


def _chains(model: onnx.ModelProto) -> dict[str, tuple[Key, list[str]]]:
    """Output of a QuantizeLinear to its key, and to itself with everything that it is moved to afterwards.

    Several that are joined afterwards were one in the program: the first stands for all.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    readers: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, node)
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    ends: dict[str, tuple[onnx.NodeProto, list[str]]] = {}
    for node in quantizers:
        chain = _moved(node.output[0], readers)
        ends.setdefault(chain[-1], (node, chain))
    keys = _numbered((float(constants[node.input[1]]), int(constants[node.input[2]])) for node, _ in ends.values())
    return {node.output[0]: (key, chain) for (node, chain), key in zip(ends.values(), keys, strict=True)}


def _moved(value: str, readers: Mapping[str, onnx.NodeProto]) -> list[str]:
    chain = [value]
    while (reader := readers.get(chain[-1])) is not None and reader.op_type in ("Reshape", "Transpose", "Concat"):
        chain.append(reader.output[0])
    return chain


def _numbered(grids: Iterable[tuple[float, int]]) -> Iterator[Key]:
    seen: Counter[tuple[float, int]] = Counter()
    for grid in grids:
        yield (*grid, seen[grid])
        seen[grid] += 1


def _pieces(model: onnx.ModelProto, edges: set[str], wanted: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    """The edges that a wanted value is computed from without another edge between, to all such values."""
    reached: dict[str, frozenset[str]] = {}
    for node in model.graph.node:  # in order of execution
        sources = [
            frozenset({name}) if name in edges else reached.get(name, frozenset()) for name in node.input if name
        ]
        for output in node.output:
            reached[output] = frozenset().union(*sources)
    pieces: dict[tuple[str, ...], list[str]] = {}
    for name in wanted:
        pieces.setdefault(tuple(sorted(reached[name])), []).append(name)
    return pieces


def _difference(chain: Sequence[Array], simulated: Array) -> Array:
    """Absolute differences, token by token.

    The file may hold a value with its channels elsewhere, or its tokens in another order: windows, patches of pixels.
    Other tokens than the simulation's it may not have: where the order differs, the nearest tokens, over all channels
    at once, have to be a permutation of them.

    Args:
        chain: the file's integers, and the same after each of the movements that follow.
        simulated: the simulation's, in one of these layouts.

    Raises:
        SystemExit: the file has other tokens than the simulation, so nothing can be said.
    """
    pairs = [
        (found, expected)
        for expected in _tokens(simulated)
        for found in (tokens for array in chain for tokens in _tokens(array))
        if found.shape == expected.shape
    ]
    nearest: Array = min((np.abs(found - expected) for found, expected in pairs), key=_share_apart)
    if _share_apart(nearest) < BARS["flipped"]:
        return np.ravel(nearest)
    for found, expected in pairs:
        distances = torch.cdist(torch.from_numpy(found).float(), torch.from_numpy(expected).float(), p=1.0)
        match = distances.argmin(dim=1).numpy()
        if len(set(match.tolist())) == len(match):
            difference: Array = np.abs(found - expected[match])
            return difference.ravel()
    raise SystemExit(f"the tokens of {chain[-1].shape} are not those of {simulated.shape}")


def _tokens(array: Array) -> list[Array]:
    """``(tokens, channels)``, with the last edge as the channels and, of an image, with the second as well."""
    wide = array.astype(np.int32)
    layouts = [wide, np.moveaxis(wide, 1, -1)] if wide.ndim == 4 else [wide]
    return [layout.reshape(-1, layout.shape[-1]) for layout in layouts]


def _share_apart(difference: Array) -> float:
    return float(np.mean(difference > 1))


def missed(rows: Sequence[Row]) -> list[str]:
    """The bars that are not held, each as a sentence."""
    found = []
    for row in rows:
        if row.flipped > BARS["flipped"] or row.apart > BARS["apart"]:
            found.append(f"{row.model}: {row.flipped:.2%} of a block's integers differ, by up to {row.apart}")
        for runtime, figure in row.runtime_db.items():
            if abs(figure - row.simulation_db) > BARS["sqnr_db"]:
                found.append(f"{row.model}: {figure:.1f} dB in {runtime}, simulated {row.simulation_db:.1f} dB")
    return found


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
        print(
            f"{title:12} {row.integers} integers, at most {row.flipped:.3%} of a block's differ, by up to {row.apart}; "
            f"simulated {row.simulation_db} dB, {', '.join(f'{name} {db} dB' for name, db in row.runtime_db.items())}",
            flush=True,
        )
        ordered = [rows[name] for name in MODELS if name in rows]
        content = {
            "provenance": told,
            "bars": BARS,
            "rows": [asdict(row) for row in ordered],
            "missed": missed(ordered),
        }
        asked.output.write_text(json.dumps({"provenance": told, **content}, indent=1) + "\n", encoding="utf-8")
    print(f"missed: {'; '.join(missed(list(rows.values()))) or 'nothing'}; {asked.output}")
    sys.exit(bool(missed(list(rows.values()))))


if __name__ == "__main__":
    main()
