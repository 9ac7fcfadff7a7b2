# SPDX-License-Identifier: Apache-2.0
"""Compares an ML Program with the captured reference, layer by layer.

Every value of the program that has to equal a value of the reference is compared with it, and then replaced by it. So
every layer is checked on the reference's own inputs, errors do not pile up, and a fault shows at its own layer only.
The program is computed in float32, and the constants that it stores in float16 are rounded in the reference too: only
errors of the conversion are left.
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
"""Smallest SQNR of a layer in dB. Sound packages of ten tiny models, fp32 and fp16, of vitedge and of coremltools alone
on either path, have 106 dB at least in a GroupNorm (coremltools adds an epsilon of 1e-5 to a variance of one), 111 dB
where weights are standardized, and 120 dB elsewhere; ViT-S and MobileViT-S 128 dB. A tanh GELU has 75 dB, an attention
scale that is off by 1 % 40 to 47 dB, weights that are off by 1 % 40 dB."""
ROUNDED_DB = 46.0
"""Smallest SQNR in dB of a layer with float16 constants whose counterpart in the reference is not known: a 1 % error is
40 dB. It is also that of a layer that is quantized in the reference as it is in the package: the last bit of a real
number decides a tie between two integers, and one integer in a tensor of 3000 that is off by one is 60 dB."""


@dataclass(frozen=True)
class LayerComparison:
    """The error of every layer on the reference's own inputs."""

    layers: tuple[OutputParity, ...]
    """One row a layer in order of execution, over all images; named by its module, and by its operation too where the
    module has several. The plain SQNR counts: a layer's rounding is in proportion to its values, whether or not these
    depend on the image. The centred SQNR is not computed and NaN."""
    first_departure: str
    """The first of the layers that exceeds its tolerance, or empty."""
    unmatched: tuple[str, ...]
    """Modules with weights that were not found in the package."""
    unchecked: tuple[str, ...]
    """Layers whose weights are compressed in the package alone, if no ``compressed_db`` was given for them."""


def compare_program(
    path: Path, program: Program, images: np.ndarray[Any, Any], compressed_db: float | None = None
) -> LayerComparison:
    """Compares a package with the reference, layer by layer.

    Args:
        path: the ``.mlpackage``, written by vitedge or converted by anybody from the same model.
        program: the reference, captured with the package's input and batch size.
        images: ``(images, channels, height, width)`` as the program takes them.
        compressed_db: smallest SQNR in dB of a layer with compressed weights; their error depends on the compression,
            so by default these layers are not checked.

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
    return _comparison(measured, segments, alignment, compressed_db)


def _comparison(
    measured: _Measured, segments: tuple[Segment, ...], alignment: Alignment, compressed_db: float | None
) -> LayerComparison:
    names = _names(alignment.anchors)
    layers = tuple(
        measured.errors[anchor.value].row(name) for anchor, name in zip(alignment.anchors, names, strict=True)
    )
    tolerances = [_tolerance_db(segment, compressed_db) for segment in segments]
    departing = (
        row.output
        for row, tolerance in zip(layers, tolerances, strict=True)
        if tolerance is not None and not row.sqnr_db >= tolerance
    )
    unchecked = tuple(name for name, tolerance in zip(names, tolerances, strict=True) if tolerance is None)
    return LayerComparison(layers, next(departing, ""), alignment.unmatched, unchecked)


def _tolerance_db(segment: Segment, compressed_db: float | None) -> float | None:
    if segment.quantized:
        return ROUNDED_DB
    if segment.compressed:
        return compressed_db
    return ROUNDED_DB if segment.rounded else EXACT_DB


def _names(anchors: tuple[Anchor, ...]) -> list[str]:
    """Returns the name of every layer in reports: its module's, with the operation's where the module has several."""
    count = Counter(anchor.module for anchor in anchors)
    names = []
    for anchor in anchors:
        operation = anchor.node.removeprefix(f"{identifier(anchor.module)}_") if anchor.module else anchor.node
        alone = anchor.module and count[anchor.module] == 1
        names.append(anchor.module if alone else f"{anchor.module or '(root)'} {operation}")
    return names


class _Measured:
    """Runs the package on the reference's values, and sums the error of every layer over the images."""

    def __init__(self, interpreter: MLProgramInterpreter, anchors: tuple[Anchor, ...]) -> None:
        self.errors = {anchor.value: _Error() for anchor in anchors}
        self._interpreter = interpreter
        self._anchors = anchors

    def add(self, inputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        """Runs one batch; ``expected`` has the reference's values by node."""
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
            # Compared at once: kept until the end, all values together are many times the size of the model.
            for output, result in zip(operation.outputs, results, strict=True):
                if output.name in substitutes:
                    self.errors[output.name].add(result, substitutes[output.name])

        with torch.inference_mode():
            self._interpreter.run(inputs, watch=watch, substitutes=substitutes)


@dataclass
class _Error:
    """The sums over images, in float64, that the metrics of one layer are computed from."""

    noise: float = 0.0
    signal: float = 0.0
    power: float = 0.0
    product: float = 0.0
    largest: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Largest magnitude of the error, and of the reference."""

    def add(self, found: Tensor, expected: Tensor) -> None:
        """Adds one batch; infinities that agree, such as a mask's, are no error and no signal."""
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
        """Returns the metrics of the layer under its name."""
        if self.noise == 0.0:
            return OutputParity(name, 0.0, math.inf, math.nan, 1.0, None, None)
        with np.errstate(all="ignore"):
            worst, largest = np.float64(self.largest[0]), np.float64(self.largest[1])
            sqnr = 10 * np.log10(np.float64(self.signal) / self.noise)
            cosine = np.float64(self.product) / np.sqrt(np.float64(self.power) * self.signal)
            return OutputParity(name, float(worst / largest), float(sqnr), math.nan, float(cosine), None, None)
