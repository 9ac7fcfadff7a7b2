# SPDX-License-Identifier: Apache-2.0
"""Layer by layer: where an ML Program departs from the captured reference.

Every value of the program that has to equal a value of the reference is compared with it, and then replaced by it. So
every layer is judged on the reference's own inputs, errors do not pile up, and a fault shows at its own layer only. The
program is computed in float32, and what it holds in float16 is rounded in the reference too: what is left to see is
the conversion.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitedge.export.coreml.graph import to_coreml_graph
from vitedge.mlprogram.description import is_bgr
from vitedge.mlprogram.interpreter import MLProgramInterpreter
from vitedge.mlprogram.modules import identifier
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.program import Operation, read_program
from vitedge.parity.coreml.alignment import Alignment, Anchor, align
from vitedge.parity.coreml.segments import Segment, divide, numbers
from vitedge.parity.coreml.values import ReferenceRounding, ReferenceValues
from vitedge.program.program import Program
from vitedge.records import OutputParity
from vitedge.runtimes.feeding import batches

EXACT_DB = 90.0
"""Bar of a layer. Sound packages of ten tiny models, fp32 and fp16, of vitedge and of coremltools alone on either path,
have 106 dB at least in a GroupNorm (coremltools adds an epsilon of 1e-5 to a variance of one), 111 dB where weights are
standardized, and 120 dB elsewhere; ViT-S and MobileViT-S 128 dB. A tanh GELU has 75 dB, an attention scale that is off
by 1 % 40 to 47 dB, weights that are off by 1 % 40 dB."""
ROUNDED_DB = 46.0
"""Bar of a layer with float16 constants of which the reference's counterpart is not known: a 1 % error is 40 dB. Bar
too of a layer that is quantized in the reference as it is in the package: the last bit of a real number decides a tie
between two integers, and one integer in a tensor of 3000 that is off by one is 60 dB."""


@dataclass(frozen=True)
class LayerComparison:
    """How far every layer is off by itself."""

    layers: tuple[OutputParity, ...]
    """In order of execution, over all images; called after the module, and where that has several after the operation
    too. Judged by the plain SQNR: a layer's rounding is in proportion to its values, whether or not these depend on the
    image. The centred one is not computed and NaN."""
    first_departure: str
    """The first of the layers that misses its tolerance, or empty."""
    unmatched: tuple[str, ...]
    """Modules with weights of which nothing in the package was found."""
    unjudged: tuple[str, ...]
    """Layers with compressed weights that the reference has not, where no tolerance was given for those."""


def compare_program(
    path: Path, program: Program, images: np.ndarray[Any, Any], compressed_db: float | None = None
) -> LayerComparison:
    """Compares a package with the reference, layer by layer.

    Args:
        path: the ``.mlpackage``, of ours or of anybody who converted the same model.
        program: the reference, captured with the package's input and batch.
        images: ``(images, channels, height, width)`` as the program takes them.
        compressed_db: SQNR that a layer with compressed weights has to reach; how much such weights are off is a matter
            of the compression, so by default these layers are not judged.

    Raises:
        UnreadableArtifact: the package is damaged.
        UnsupportedOperation: the package uses an operation that is not known.
    """
    package = read_package(path)
    theirs = read_program(package)
    graph = to_coreml_graph(program, probabilities=False)
    alignment = align(theirs, graph)
    segments = divide(theirs, graph, alignment)
    rounding = ReferenceRounding(alignment.halved, alignment.folded, numbers(segments))
    reference = ReferenceValues(graph.exported, rounding)
    measured = _Measured(MLProgramInterpreter(theirs, "fp32"), alignment.anchors)
    (entry,) = theirs.inputs
    for batch in batches(images, program.inputs[0].shape[0]):
        image = torch.from_numpy(np.ascontiguousarray(batch)).float()
        expected = reference.compute(image, [anchor.node for anchor in alignment.anchors])
        measured.add({entry.name: image.flip(1) if entry.name in is_bgr(package) else image}, expected)
    return _verdict(measured, segments, alignment, compressed_db)


def _verdict(
    measured: _Measured, segments: tuple[Segment, ...], alignment: Alignment, compressed_db: float | None
) -> LayerComparison:
    names = _names(alignment.anchors)
    layers = tuple(
        measured.errors[anchor.value].row(name) for anchor, name in zip(alignment.anchors, names, strict=True)
    )
    tolerances = [_bar(segment, compressed_db) for segment in segments]
    departing = (
        row.output
        for row, tolerance in zip(layers, tolerances, strict=True)
        if tolerance is not None and not row.sqnr_db >= tolerance
    )
    unjudged = tuple(name for name, tolerance in zip(names, tolerances, strict=True) if tolerance is None)
    return LayerComparison(layers, next(departing, ""), alignment.unmatched, unjudged)


def _bar(segment: Segment, compressed_db: float | None) -> float | None:
    if segment.quantized:
        return ROUNDED_DB
    if segment.compressed:
        return compressed_db
    return ROUNDED_DB if segment.rounded else EXACT_DB


def _names(anchors: tuple[Anchor, ...]) -> list[str]:
    count = Counter(anchor.module for anchor in anchors)
    names = []
    for anchor in anchors:
        operation = anchor.node.removeprefix(f"{identifier(anchor.module)}_") if anchor.module else anchor.node
        alone = anchor.module and count[anchor.module] == 1
        names.append(anchor.module if alone else f"{anchor.module or '(root)'} {operation}")
    return names


class _Measured:
    """Runs the package on the reference's values, and adds up how far it is off."""

    def __init__(self, interpreter: MLProgramInterpreter, anchors: tuple[Anchor, ...]) -> None:
        self.errors = {anchor.value: _Error() for anchor in anchors}
        self._interpreter = interpreter
        self._anchors = anchors

    def add(self, inputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        shapes = {
            output.name: output.type.shape
            for operation in self._interpreter.program.operations
            for output in operation.outputs
        }
        substitutes = {
            anchor.value: expected[anchor.node].reshape([int(edge or 0) for edge in shapes[anchor.value] or ()])
            for anchor in self._anchors
        }

        def watch(operation: Operation, results: tuple[Any, ...]) -> None:
            # Compared as it is made: kept until the end, all values together are many times the model.
            for output, result in zip(operation.outputs, results, strict=True):
                if output.name in substitutes:
                    self.errors[output.name].add(result, substitutes[output.name])

        with torch.inference_mode():
            self._interpreter.run(inputs, watch=watch, substitutes=substitutes)


@dataclass
class _Error:
    """Sums over images, in float64."""

    noise: float = 0.0
    signal: float = 0.0
    power: float = 0.0
    product: float = 0.0
    largest: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Of the error and of the reference."""

    def add(self, found: Tensor, expected: Tensor) -> None:
        """Adds one image; infinities that agree, such as a mask's, are no error and no signal."""
        agree = found == expected
        finite = torch.where(agree & expected.isinf(), 0.0, expected).double()
        candidate = torch.where(agree, finite, found.double())
        error = candidate - finite
        self.noise += float((error * error).sum())
        self.signal += float((finite * finite).sum())
        self.power += float((candidate * candidate).sum())
        self.product += float((finite * candidate).sum())
        for place, values in enumerate((error, finite)):
            # Not Python's max, which lets NaN go.
            self.largest[place] = float(np.maximum(self.largest[place], float(values.abs().max())))

    def row(self, name: str) -> OutputParity:
        """The figures under the layer's name."""
        if self.noise == 0.0:
            return OutputParity(name, 0.0, math.inf, math.nan, 1.0, None, None)
        with np.errstate(all="ignore"):
            worst, largest = np.float64(self.largest[0]), np.float64(self.largest[1])
            sqnr = 10 * np.log10(np.float64(self.signal) / self.noise)
            cosine = np.float64(self.product) / np.sqrt(np.float64(self.power) * self.signal)
            return OutputParity(name, float(worst / largest), float(sqnr), math.nan, float(cosine), None, None)
