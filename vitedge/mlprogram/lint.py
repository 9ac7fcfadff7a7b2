# SPDX-License-Identifier: Apache-2.0
"""Findings on an ML Program that will cost speed or precision on a device, made without running it.

Needs neither PyTorch nor the weights in memory. A rule says what the program declares; where a reason speaks of devices
its source is named beside the rule or in `vitedge.mlprogram.placement`.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vitedge.mlprogram.blobs import Array
from vitedge.mlprogram.limits import MAX_RANK
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.placement import LEAVES_NEURAL_ENGINE
from vitedge.mlprogram.program import Literal, MLProgram, Named, Operation, Output, read_program
from vitedge.records import Finding

_CHANNELS = (1, 3)
"""Channels of an image input: grey or RGB."""
_CHUNK = 1 << 20
"""Elements of a constant that are looked at together; a file is mapped, and only so much of it is in memory."""

_MAGNITUDE = 0x7FFF
_INFINITY = 0x7C00
_LARGEST = 0x7BFF
_NORMAL = 0x0400
_COARSE = 0x0004
"""Bits of float16 without its sign: all of them, infinity, 65504, the smallest normal number 6.1e-5, and 2.4e-7, below
which there are three numbers only."""
_SUBNORMAL_SHARE = 0.25
"""Share of a constant's values other than zero that may lie below the smallest normal number."""

_MEASURE = "measure what it costs with: vitedge kit write BUNDLE DIR"
_REWRITE = f"Write the model without it (a roll is two slices and a concatenation), or {_MEASURE}."
_FIXED = "Export it with one size: vitedge export CHECKPOINT --format coreml --image-size N --batch 1."
_KEEP = (
    "Export it with vitedge export CHECKPOINT --format coreml --precision fp16, which keeps in float32 what does not "
    "fit, or with --precision fp32."
)


def lint(subject: str | os.PathLike[str] | MLProgram, artifact: str) -> tuple[Finding, ...]:
    """Returns the findings on a program, one or more for every rule that is violated.

    Args:
        subject: an ``.mlpackage``, or its program.
        artifact: what the findings call it.

    Raises:
        UnreadableArtifact: it is not a package of one ML Program, or a constant of it is damaged.
        MissingBackend: coremltools, whose generated classes read the specification, is not installed.
    """
    program = subject if isinstance(subject, MLProgram) else read_program(read_package(Path(subject)))
    return tuple(replace(finding, artifact=artifact) for rule in RULES for finding in rule(program))


Rule = Callable[[MLProgram], Iterable[Finding]]


def _finding(rule: str, where: str, reason: str, remedy: str) -> Finding:
    return Finding("", rule, where, reason, remedy)


def _several(names: list[str]) -> str:
    """Returns the first of them, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _called(operation: Operation) -> str:
    return f"{operation.kind} {operation.name}"


def _rank(program: MLProgram) -> Iterator[Finding]:
    """Finds ranks that Core ML refuses; the converter refuses most of them, but a package may have been edited."""
    # What compressed constants are made of may have more axes: coremltools lets it pass as well.
    ranks = [
        (_called(operation), len(output.type.shape or ()))
        for operation, output in _values(program)
        if not operation.is_constant
    ]
    high = [name for name, rank in ranks if rank > MAX_RANK]
    if high:
        highest = max(rank for _, rank in ranks)
        yield _finding(
            "rank",
            _several(high),
            f"{len(high)} values have a rank above {MAX_RANK}, up to {highest}, which Core ML refuses on the device.",
            "Export it with vitedge, which does without; in the model, reshape to fewer axes before a transpose.",
        )


def _dynamic(program: MLProgram) -> Iterator[Finding]:
    """https://developer.apple.com/forums/thread/724930: of a range, the default shape alone runs on the Neural Engine.

    https://apple.github.io/coremltools/docs-guides/source/flexible-inputs.html: of a list of shapes, each can.
    """
    for feature in program.package.model.description.input:
        flexibility = _flexibility(feature)
        if flexibility == "range":
            reason = "takes a range of shapes; the Neural Engine runs the default shape only, the others leave it."
        elif flexibility == "list":
            reason = "takes a list of shapes; each of them is prepared and kept on the device."
        else:
            continue
        yield _finding("dynamic shape", f"input {feature.name}", f"It {reason}", _FIXED)
    unknown = [
        _called(operation)
        for operation, output in _values(program)
        if output.type.shape is None or None in output.type.shape
    ]
    if unknown:
        yield _finding(
            "dynamic shape",
            _several(unknown),
            f"{len(unknown)} values have a shape that is not known before the program runs.",
            _FIXED,
        )


def _flexibility(feature: Any) -> str:
    """Returns ``range``, ``list``, or an empty name for one shape."""
    kind = feature.type.WhichOneof("Type")
    if kind == "multiArrayType":
        array = feature.type.multiArrayType
        ranges, listed = array.shapeRange.sizeRanges, array.enumeratedShapes.shapes
    elif kind == "imageType":
        image = feature.type.imageType
        size = image.imageSizeRange
        ranges, listed = (size.widthRange, size.heightRange), image.enumeratedSizes.sizes
    else:
        return ""
    if any(entry.lowerBound != entry.upperBound for entry in ranges):
        return "range"
    return "list" if len(listed) > 1 else ""


def _leaves_neural_engine(program: MLProgram) -> Iterator[Finding]:
    folded = _constant_values(program)
    found: dict[str, list[str]] = defaultdict(list)
    for operation in program.operations:
        if operation.kind in LEAVES_NEURAL_ENGINE and operation.name not in folded:
            found[operation.kind].append(operation.name)
    for kind, names in found.items():
        yield _finding(
            "neural engine",
            f"{kind} {_several(names)}",
            f"{len(names)} x {kind}: {LEAVES_NEURAL_ENGINE[kind]}; each change of processor takes time.",
            _REWRITE,
        )


def _unfolded(program: MLProgram) -> Iterator[Finding]:
    """Finds constant expressions, which coremltools' pass ``common::const_elimination`` removes."""
    folded = _constant_values(program)
    computed = [operation for operation in program.operations if not operation.is_constant and operation.name in folded]
    if not computed:
        return
    own = {output.name for operation in computed for output in operation.outputs}
    others = (operation for operation in program.operations if operation.name not in own)
    wanted = {*program.outputs, *(name for operation in others for name in operation.reads())}
    ends = [_called(operation) for operation in computed if any(output.name in wanted for output in operation.outputs)]
    yield _finding(
        "constant folding",
        _several(ends or [_called(computed[-1])]),
        f"{len(computed)} operations compute the same values at every prediction: all that they read is constant.",
        "Export it again with vitedge, or convert with coremltools' default passes, which store the result instead.",
    )


def _image_input(program: MLProgram) -> Iterator[Finding]:
    """https://apple.github.io/coremltools/docs-guides/source/image-inputs.html."""
    for feature in program.package.model.description.input:
        if feature.type.WhichOneof("Type") != "multiArrayType":
            continue
        shape = tuple(feature.type.multiArrayType.shape)
        if len(shape) == 4 and shape[0] == 1 and shape[1] in _CHANNELS:
            yield _finding(
                "image input",
                f"input {feature.name}",
                "It is an array of numbers: the app has to convert every image to one and to normalize it.",
                "Let it take the image itself: vitedge export CHECKPOINT --format coreml --input uint8.",
            )


def _batch(program: MLProgram) -> Iterator[Finding]:
    for feature in program.package.model.description.input:
        shape = tuple(feature.type.multiArrayType.shape)
        if len(shape) == 4 and shape[0] > 1:
            yield _finding(
                "batch",
                f"input {feature.name}",
                f"A prediction computes {shape[0]} images, also where the app has one, and Core ML's image inputs "
                "take one at a time.",
                "Export it for one image: vitedge export CHECKPOINT --format coreml --batch 1.",
            )


def _precision(program: MLProgram) -> Iterator[Finding]:
    """https://apple.github.io/coremltools/docs-guides/source/typed-execution-example.html: float32 is not eligible."""
    counts = Counter(
        output.type.dtype
        for operation, output in _values(program)
        if not operation.is_constant and operation.kind != "cast"
    )
    if counts["float32"] and not counts["float16"]:
        yield _finding(
            "precision",
            f"{counts['float32']} operations",
            "The program computes in float32, which the CPU and the GPU do, and the Neural Engine does not.",
            "Export it with vitedge export CHECKPOINT --format coreml --precision fp16.",
        )
    elif counts["float16"]:
        yield from _float32_modules(program)


def _float32_modules(program: MLProgram) -> Iterator[Finding]:
    """Float32 that is entered from float16: what is float32 from the input on, or up to an output, costs nothing."""
    dtypes = {output.name: output.type.dtype for _, output in _values(program)}
    casts = {
        operation.name
        for operation in program.operations
        if operation.kind == "cast"
        and dtypes[operation.name] == "float32"
        and any(dtypes.get(name) == "float16" for name in operation.reads())
    }
    readers: dict[str, list[Operation]] = defaultdict(list)
    for operation in program.operations:
        if operation.kind != "classify":  # it only names what comes out
            for name in casts.intersection(operation.reads()):
                readers[name].append(operation)
    if readers:
        inside = list({_called(operation): None for operations in readers.values() for operation in operations})
        yield _finding(
            "float32 module",
            _several(inside),
            f"{len(readers)} values are cast from float16 to float32 within the program: what reads them leaves the "
            "Neural Engine, and comes back with another cast.",
            "Needed where float16 misses the tolerance; a lower one keeps fewer: vitedge export … --precision fp16 "
            "--min-sqnr DB.",
        )


def _half_constants(program: MLProgram) -> Iterator[Finding]:
    """IEEE 754-2019, 3.6, binary16: 65504 is the largest number, 6.1e-5 the smallest with all 11 significant bits."""
    padding = {name for operation in program.operations if operation.kind == "pad" for name in operation.reads()}
    found: dict[str, list[str]] = defaultdict(list)
    for name, literal in _half(program):
        fault = _fault(literal.decode(), is_padding=name in padding)
        if fault:
            found[fault].append(name)
    for fault, (reason, remedy) in _FAULTS.items():
        if found[fault]:
            where = f"constant {_several(found[fault])}"
            yield _finding("float16 range", where, reason.format(count=len(found[fault])), remedy)


_FAULTS = {
    "NaN": ("{count} constants hold NaN, which spreads to every value that is computed with them.", _KEEP),
    "infinity": (
        "{count} constants hold infinity: a number above 65504 became it, and differences and products with it are "
        "NaN.",
        _KEEP,
    ),
    "largest": (
        "{count} constants hold 65504, the largest number of float16: what is added to it overflows, and a larger "
        "number may have been cut off.",
        _KEEP,
    ),
    "subnormal": (
        "{count} constants lie to more than a quarter below 6.1e-05, where float16 loses bits with every halving and "
        "a device may take zero instead.",
        _KEEP,
    ),
}
"""A fault of a constant to its reason and remedy, the worst first."""


def _fault(values: Array, *, is_padding: bool) -> str:
    """Returns the worst fault of a constant, looked at in pieces; a padding value may be infinite."""
    bits = values.reshape(-1).view(np.uint16)
    largest, subnormal, nonzero, is_nan = 0, 0, 0, False
    for start in range(0, bits.size, _CHUNK):
        magnitude = bits[start : start + _CHUNK] & np.uint16(_MAGNITUDE)
        largest = max(largest, int(magnitude[magnitude <= _INFINITY].max(initial=0)))
        is_nan = is_nan or bool((magnitude > _INFINITY).any())
        nonzero += int(np.count_nonzero(magnitude))
        subnormal += int(np.count_nonzero(magnitude < _NORMAL)) - int(np.count_nonzero(magnitude == 0))
    if is_nan:
        return "NaN"
    if largest >= _LARGEST and not is_padding:
        return "infinity" if largest == _INFINITY else "largest"
    return "subnormal" if bits.size > 1 and subnormal > _SUBNORMAL_SHARE * nonzero else ""


def _half(program: MLProgram) -> Iterator[tuple[str, Literal]]:
    """Yields every float16 constant: those with a name, and those that are written where they are read."""
    for operation in program.operations:
        bound = ((name, value) for name, values in operation.inputs.items() for value in values)
        for parameter, literal in (*operation.attributes.items(), *bound):
            if isinstance(literal, Literal) and literal.type.dtype == "float16":
                own = operation.kind == "const"
                yield operation.name if own else f"{operation.name}.{parameter}", literal


def _epsilon(program: MLProgram) -> Iterator[Finding]:
    """Finds coarse epsilons: ``add_fp16_cast`` of coremltools writes 6e-8 for numbers that would round to zero."""
    constants = dict(program.constants())
    small: dict[str, float] = {}
    for operation in program.operations:
        for argument in operation.inputs.get("epsilon", ()):
            literal = constants.get(argument.name) if isinstance(argument, Named) else argument
            if literal is not None and literal.type.dtype == "float16":
                bits = int(np.asarray(literal.decode()).reshape(-1).view(np.uint16)[0]) & _MAGNITUDE
                if bits < _COARSE:
                    small[_called(operation)] = float(np.uint16(bits).view(np.float16))
    if small:
        first = next(iter(small.values()))
        yield _finding(
            "float16 range",
            f"epsilon of {_several(list(small))}",
            f"{len(small)} operations have an epsilon of {first:.0e} in float16, which is too coarse there to be what "
            "the model has; where it counts as zero, a constant input is divided by zero.",
            "Export it with vitedge export CHECKPOINT --format coreml --precision fp32, and compare.",
        )


def _values(program: MLProgram) -> Iterator[tuple[Operation, Output]]:
    """Yields every tensor that an operation returns."""
    for operation in program.operations:
        for output in operation.outputs:
            if output.type.dtype not in ("list", "dictionary"):
                yield operation, output


def _constant_values(program: MLProgram) -> frozenset[str]:
    """Returns the names of the values that are the same at every prediction."""
    known: set[str] = set()
    for operation in program.operations:
        bound = any(operation.inputs.values())
        if operation.is_constant or (
            bound and not operation.kind.startswith("random_") and all(name in known for name in operation.reads())
        ):
            known.update(output.name for output in operation.outputs)
    return frozenset(known)


RULES: tuple[Rule, ...] = (
    _rank,
    _dynamic,
    _leaves_neural_engine,
    _unfolded,
    _image_input,
    _batch,
    _precision,
    _half_constants,
    _epsilon,
)
"""In the order of their findings."""
