# SPDX-License-Identifier: Apache-2.0
"""How near the values of a program come to what float16 can hold.

The program is computed in float32, so that a value which float16 would cut off shows its true size. Besides what an
operation puts out, this counts what a device computes on the way there where it may do so in float16: the sum of
squares of a normalization, the scores of an attention, the sum under a mean, the cube in a tanh GELU. Sums of products
(linear, conv, matmul) do not count: devices accumulate them in a wider type.
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
from vitedge.mlprogram.interpreter import MLProgramInterpreter, tensor
from vitedge.mlprogram.modules import listed_modules, modules_of, readers
from vitedge.mlprogram.ops.arguments import ints
from vitedge.mlprogram.package import read_package
from vitedge.mlprogram.program import Literal, MLProgram, Named, Operation, read_program
from vitedge.records import OverflowReport, ValueRange

FLOAT16_MAX = 65504.0
SAFETY = 4.0
"""Other images reach further than the samples: what comes within this factor of the largest value had better be kept in
float32. Only what exceeds the largest value itself is a fault."""
_BOUNDS = frozenset(("pad", "select", "minimum", "maximum", "clip"))
"""Operations that infinity, or float32's largest number, is handed to on purpose."""
_FLOATS = ("float16", "float32")
_INFINITE, _NAN, _OVERFLOW = "infinite", "NaN", "overflow"

Arguments = Mapping[str, Any]


def check_overflow(path: Path, feeds: Iterable[Mapping[str, np.ndarray[Any, Any]]], name: str = "") -> OverflowReport:
    """Watches the values of a package over images.

    In a package that computes in float16, what is declared float32 was kept so and is no fault. One without any
    float16 is judged as if all of it were to become float16, but passes: nothing of it overflows as it is.

    Args:
        path: the package.
        feeds: every input by name, as `vitedge.runtimes.mlprogram.Runtime.run` takes them.
        name: what the report calls it; the file's own name otherwise.

    Raises:
        UnreadableArtifact: it is not a package of one ML MLProgram, or does not compute what it declares.
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
        inputs = {key: _input(array, reverse=key in bgr) for key, array in feed.items()}
        with torch.inference_mode():
            interpreter.run(inputs, watch=watch.start())
    return watch.report(name or path.name, images)


def _input(array: np.ndarray[Any, Any], *, reverse: bool) -> Tensor:
    value = torch.from_numpy(np.array(array[:, ::-1] if reverse else array))
    return value.float() if value.dtype == torch.uint8 else value


@dataclass
class _Seen:
    """What was seen of one value, or inside the operation that makes it."""

    operation: Operation
    value: str
    dtype: str
    inside: str = ""
    magnitude: float = 0.0
    finite: bool = True
    fault: str = ""


class _Watch:
    """Is told of every operation what it returned, and keeps the largest magnitudes."""

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
        """Values after one that is infinite or not a number by fault."""
        self._masked: set[str] = set()
        """Values with an infinity that comes from a constant which is meant to be infinite."""
        self._held: dict[str, Tensor] = {}
        self._look_at_constants()
        self._constant = (frozenset(self._spoilt), frozenset(self._masked))

    def start(self) -> _Watch:
        """Forgets the values of the run before, not what was seen."""
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
        """What was seen, largest first, faults before everything else."""
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
        """The modules of those that make what float16 may not hold, and of those that would get it cast to float16."""
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
        magnitude = 0.0 if value is None else measure(value, arguments)
        if math.isfinite(magnitude):  # what is not was not finite before, and is told of there
            name, dtype = operation.name, operation.outputs[0].type.dtype
            seen = self._seen.setdefault((name, what), _Seen(operation, name, dtype, what))
            seen.magnitude = max(seen.magnitude, magnitude)

    def _look_at(self, operation: Operation, name: str, dtype: str, value: Tensor) -> None:
        seen = self._seen.setdefault((name, ""), _Seen(operation, name, dtype))
        magnitude = _magnitude(value)
        if math.isfinite(magnitude):
            seen.magnitude = max(seen.magnitude, magnitude)
            return
        seen.finite = False
        reads = set(operation.reads())
        if reads & self._spoilt:
            self._spoilt.add(name)
        elif reads & self._masked and not math.isnan(magnitude):
            self._masked.add(name)
        else:
            seen.fault = seen.fault or (_NAN if math.isnan(magnitude) else _INFINITE)
            self._spoilt.add(name)

    def _look_at_constants(self) -> None:
        for operation in self._program.operations:
            if operation.kind != "const" or operation.outputs[0].type.dtype not in _FLOATS:
                continue
            name, dtype = operation.name, operation.outputs[0].type.dtype
            value = tensor(operation.attributes["val"])
            magnitude = _magnitude(value)
            kinds = {reader.kind for reader in self._readers.get(name, ())}
            if not math.isnan(magnitude) and (kinds <= _BOUNDS or (kinds <= {"add"} and _is_mask(value))):
                self._masked.update([name] if math.isinf(magnitude) else [])
            elif not magnitude <= FLOAT16_MAX / SAFETY:
                # Constants are many and most are small: only what is large is worth a line.
                self._look_at(operation, name, dtype, value)

    def _hold(self, operation: Operation, results: tuple[Any, ...]) -> None:
        """Keeps what a rule will ask for, until the last of those that read it was measured."""
        for output, result in zip(operation.outputs, results, strict=True):
            if any(reader.kind in _INSIDE for reader in self._readers.get(output.name, ())):
                self._held[output.name] = result
        for name in set(operation.reads()) & self._held.keys():
            if self._readers[name][-1] is operation:
                del self._held[name]

    def _arguments(self, operation: Operation) -> Arguments:
        """The parameters of an operation, as far as they are held or constant."""
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


def _magnitude(value: Tensor) -> float:
    """The largest; NaN if there is one."""
    if not value.numel():
        return 0.0
    low, high = value.aminmax()
    return max(float(high), -float(low))


def _is_mask(value: Tensor) -> bool:
    """Whether adding it switches elements off: nought and a very negative number, which may be infinite."""
    return bool((value <= 0).all())


def _sum(value: Tensor, arguments: Arguments) -> float:
    axes = ints(arguments["axes"]) if "axes" in arguments else tuple(range(value.ndim))
    return _magnitude(value.abs().sum(axes) if axes else value)


def _squares(value: Tensor, arguments: Arguments) -> float:
    return _sum(value.square(), arguments)


def _deviations(value: Tensor, arguments: Arguments) -> float:
    axes = ints(arguments["axes"]) if "axes" in arguments else tuple(range(value.ndim))
    return _magnitude((value - value.mean(axes, keepdim=True)).square().sum(axes)) if axes else 0.0


def _planes(value: Tensor, arguments: Arguments) -> float:
    return _deviations(value, {**arguments, "axes": torch.arange(2, value.ndim)})


def _scores(query: Tensor, arguments: Arguments) -> float:
    key = arguments.get("key")
    return 0.0 if key is None else _magnitude((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1))


def _cube(value: Tensor, arguments: Arguments) -> float:
    return _magnitude(value) ** 3 if arguments.get("mode") == "TANH_APPROXIMATION" else 0.0


_INSIDE: Mapping[str, tuple[str, Callable[[Tensor, Arguments], float]]] = {
    "layer_norm": ("sum of squares", _deviations),
    "instance_norm": ("sum of squares", _planes),
    "reduce_l2_norm": ("sum of squares", _squares),
    "reduce_mean": ("sum", _sum),
    "reduce_sum": ("sum of magnitudes", _sum),
    "scaled_dot_product_attention": ("scores", _scores),
    "gelu": ("cube", _cube),
}
"""Operations that compute something larger than they put out: what that is, and its largest magnitude."""
