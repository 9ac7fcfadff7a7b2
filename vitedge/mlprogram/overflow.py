# SPDX-License-Identifier: Apache-2.0
"""The overflow check of a Core ML package: how near the values of its program come to the largest number of float16.

The program is computed in float32, so that a value which float16 would cut off shows its true size. Besides the outputs
of an operation, its inner results count, which a device may compute in float16 (`vitedge.program.float16`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitedge.errors import BadRecipe
from vitedge.mlprogram.description import is_bgr
from vitedge.mlprogram.interpreter import MLProgramInterpreter, input_tensor, tensor
from vitedge.mlprogram.modules import listed_modules, modules_of, readers
from vitedge.mlprogram.ops.arguments import ints
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.program import Literal, MLProgram, Named, Operation, read_program
from vitedge.program.float16 import (
    FLOAT16_MAX,
    SAFETY,
    attention_scores,
    magnitude,
    sum_of_magnitudes,
    sum_of_squared_deviations,
    sum_of_squares,
    tanh_gelu_cube,
)
from vitedge.records import OverflowReport, ValueRange

_BOUNDS = frozenset(("pad", "select", "minimum", "maximum", "clip"))
"""Operations that are given infinity, or float32's largest number, on purpose."""
_FLOATS = ("float16", "float32")
_INFINITE, _NAN, _OVERFLOW = "infinite", "NaN", "overflow"

Arguments = Mapping[str, Any]


def check_overflow(path: Path, feeds: Iterable[Mapping[str, np.ndarray[Any, Any]]], name: str = "") -> OverflowReport:
    """Watches the values of a package over images.

    In a package that computes in float16, values declared float32 were kept so on purpose and are no fault. A package
    without any float16 is checked as if all of it were to become float16, but passes: as it is, nothing overflows.

    Args:
        path: the package.
        feeds: every input by name, as `vitedge.runtimes.mlprogram.Runtime.run` takes them.
        name: what the report calls it; the file's own name otherwise.

    Raises:
        UnreadableArtifact: it is not a package of one ML Program, or does not compute what it declares.
        UnsupportedOperation: it uses an operation that is not in the table.
        BadRecipe: the feeds do not have the names of the inputs.
    """
    package = read_package(path)
    program = read_program(package)
    interpreter = MLProgramInterpreter(program, "fp32")
    watch = _Watch(program)
    bgr, wanted = is_bgr(package), {entry.name for entry in program.inputs}
    images = 0
    for feed in feeds:
        if set(feed) != wanted:
            raise BadRecipe(f"{path} takes {', '.join(sorted(wanted))}, not {', '.join(sorted(feed)) or 'nothing'}.")
        images += max(len(array) for array in feed.values())
        inputs = {key: input_tensor(array, bgr=key in bgr) for key, array in feed.items()}
        with torch.inference_mode():
            interpreter.run(inputs, watch=watch.start())
    return watch.report(name or path.name, images)


@dataclass
class _Seen:
    """The range of one value, or of an inner result of the operation that computes it."""

    operation: Operation
    value: str
    dtype: str
    inside: str = ""
    magnitude: float = 0.0
    finite: bool = True
    fault: str = ""


class _Watch:
    """Is called with every operation and its results, and keeps the largest magnitudes."""

    def __init__(self, program: MLProgram) -> None:
        self._program = program
        self._modules = modules_of(program)
        self._readers = readers(program)
        self._literals = dict(program.constants())
        self._half = any(
            output.type.dtype == "float16"
            for operation in program.operations
            if not operation.is_constant and operation.kind != "cast"
            for output in operation.outputs
        )
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._spoilt: set[str] = set()
        """Values computed from one that is infinite or NaN by fault."""
        self._masked: set[str] = set()
        """Values with an infinity that stems from a constant which is meant to be infinite."""
        self._held: dict[str, Tensor] = {}
        self._look_at_constants()
        self._constant = (frozenset(self._spoilt), frozenset(self._masked))

    def start(self) -> _Watch:
        """Forgets the values of the run before, and keeps the ranges."""
        self._spoilt, self._masked = (set(names) for names in self._constant)
        self._held.clear()
        return self

    def __call__(self, operation: Operation, results: tuple[Any, ...]) -> None:
        rule = _INSIDE.get(operation.kind)
        if rule is not None and operation.outputs[0].type.dtype in _FLOATS:
            self._look_inside(operation, *rule)
        for output, result in zip(operation.outputs, results, strict=True):
            if isinstance(result, Tensor) and output.type.dtype in _FLOATS:
                self._look_at(operation, output.name, output.type.dtype, result)
        self._hold(operation, results)

    def report(self, name: str, images: int) -> OverflowReport:
        """Returns the ranges, faults first, then the largest first."""
        for seen in self._seen.values():
            if self._counts(seen) and seen.magnitude > FLOAT16_MAX:
                seen.fault = seen.fault or _OVERFLOW
        ranges = [
            ValueRange(
                operation=f"{seen.operation.kind} ({seen.inside})" if seen.inside else seen.operation.kind,
                value=seen.value,
                module=self._modules[seen.operation.name],
                dtype=seen.dtype,
                magnitude=seen.magnitude if seen.finite else None,
                fault=seen.fault,
            )
            for seen in self._seen.values()
        ]
        ranges.sort(key=lambda entry: (not entry.fault, entry.magnitude is None and not entry.fault, -_size(entry)))
        broken = [entry for entry in ranges if entry.fault and (self._half or entry.fault != _OVERFLOW)]
        return OverflowReport(name, images, FLOAT16_MAX, tuple(ranges), self._keep(), passed=not broken)

    def _keep(self) -> tuple[str, ...]:
        """Returns the modules that compute or read values which float16 may not hold, in order of execution."""
        listed = listed_modules(self._program.package) is not None
        found: set[str] = set()
        for seen in self._seen.values():
            if not self._counts(seen) or seen.magnitude <= FLOAT16_MAX / SAFETY:
                continue
            concerned = [seen.operation] if seen.inside else [seen.operation, *self._readers.get(seen.value, ())]
            for operation in concerned:
                if operation.kind not in ("cast", "classify") and not operation.is_constant:
                    found.add(self._modules[operation.name])
        order = dict.fromkeys(self._modules[operation.name] for operation in self._program.operations)
        # The empty name is the reference itself only where modules are known.
        return tuple(module for module in order if module in found and (module or listed))

    def _counts(self, seen: _Seen) -> bool:
        return seen.dtype == "float16" or not self._half

    def _look_inside(self, operation: Operation, what: str, measure: Callable[[Tensor, Arguments], float]) -> None:
        arguments = self._arguments(operation)
        value = arguments.get("query", arguments.get("x"))
        size = 0.0 if value is None else measure(value, arguments)
        if math.isfinite(size):  # otherwise its input was not finite, and is reported there
            name, dtype = operation.name, operation.outputs[0].type.dtype
            seen = self._seen.setdefault((name, what), _Seen(operation, name, dtype, what))
            seen.magnitude = max(seen.magnitude, size)

    def _look_at(self, operation: Operation, name: str, dtype: str, value: Tensor) -> None:
        seen = self._seen.setdefault((name, ""), _Seen(operation, name, dtype))
        size = magnitude(value)
        if math.isfinite(size):
            seen.magnitude = max(seen.magnitude, size)
            return
        seen.finite = False
        reads = set(operation.reads())
        if reads & self._spoilt:
            self._spoilt.add(name)
        elif reads & self._masked and not math.isnan(size):
            self._masked.add(name)
        else:
            seen.fault = seen.fault or (_NAN if math.isnan(size) else _INFINITE)
            self._spoilt.add(name)

    def _look_at_constants(self) -> None:
        for operation in self._program.operations:
            if operation.kind != "const" or operation.outputs[0].type.dtype not in _FLOATS:
                continue
            name, dtype = operation.name, operation.outputs[0].type.dtype
            value = tensor(operation.attributes["val"])
            size = magnitude(value)
            kinds = {reader.kind for reader in self._readers.get(name, ())}
            if not math.isnan(size) and (kinds <= _BOUNDS or (kinds <= {"add"} and _is_mask(value))):
                self._masked.update([name] if math.isinf(size) else [])
            elif not size <= FLOAT16_MAX / SAFETY:
                # Constants are many and most are small: only what is large is worth a line.
                self._look_at(operation, name, dtype, value)

    def _hold(self, operation: Operation, results: tuple[Any, ...]) -> None:
        """Keeps the values that a rule will need, until the last operation that reads them was measured."""
        for output, result in zip(operation.outputs, results, strict=True):
            if any(reader.kind in _INSIDE for reader in self._readers.get(output.name, ())):
                self._held[output.name] = result
        for name in set(operation.reads()) & self._held.keys():
            if self._readers[name][-1] is operation:
                del self._held[name]

    def _arguments(self, operation: Operation) -> Arguments:
        """Returns the parameters of an operation, as far as they are kept or constant."""
        found: dict[str, Any] = {name: tensor(literal) for name, literal in operation.attributes.items()}
        for parameter, arguments in operation.inputs.items():
            for argument in arguments:
                literal = self._literals.get(argument.name) if isinstance(argument, Named) else argument
                if isinstance(literal, Literal):
                    found[parameter] = tensor(literal)
                elif isinstance(argument, Named) and argument.name in self._held:
                    found[parameter] = self._held[argument.name]
        return found


def _size(entry: ValueRange) -> float:
    return math.inf if entry.magnitude is None else entry.magnitude


def _is_mask(value: Tensor) -> bool:
    """Returns whether adding it masks elements: it holds zeros and very negative numbers, which may be infinite."""
    return bool((value <= 0).all())


def _axes(value: Tensor, arguments: Arguments) -> tuple[int, ...]:
    return ints(arguments["axes"]) if "axes" in arguments else tuple(range(value.ndim))


def _sum(value: Tensor, arguments: Arguments) -> float:
    return sum_of_magnitudes(value, _axes(value, arguments))


def _squares(value: Tensor, arguments: Arguments) -> float:
    return sum_of_squares(value, _axes(value, arguments))


def _deviations(value: Tensor, arguments: Arguments) -> float:
    return sum_of_squared_deviations(value, _axes(value, arguments))


def _planes(value: Tensor, _: Arguments) -> float:
    return sum_of_squared_deviations(value, range(2, value.ndim))


def _scores(query: Tensor, arguments: Arguments) -> float:
    key = arguments.get("key")
    return 0.0 if key is None else attention_scores(query, key)


def _cube(value: Tensor, arguments: Arguments) -> float:
    return tanh_gelu_cube(value) if arguments.get("mode") == "TANH_APPROXIMATION" else 0.0


_INSIDE: Mapping[str, tuple[str, Callable[[Tensor, Arguments], float]]] = {
    "layer_norm": ("sum of squares", _deviations),
    "instance_norm": ("sum of squares", _planes),
    "reduce_l2_norm": ("sum of squares", _squares),
    "reduce_mean": ("sum", _sum),
    "reduce_sum": ("sum of magnitudes", _sum),
    "scaled_dot_product_attention": ("scores", _scores),
    "gelu": ("cube", _cube),
}
"""Operations with an inner result larger than their output, to its name and the function of its magnitude."""
