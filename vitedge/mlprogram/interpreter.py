# SPDX-License-Identifier: Apache-2.0
"""Computes a program op by op on PyTorch.

The arithmetic is the declared one: an operation on float16 is computed in float32 and its result rounded to float16,
and what is float32 stays so. That is the meaning of the program, not a bit model of any device: the Neural Engine may
accumulate otherwise.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from vitedge.errors import BadRecipe, UnreadableArtifact, UnsupportedOperation, UserError
from vitedge.mlprogram import COMPUTE
from vitedge.mlprogram.limits import LARGEST_MEMORY
from vitedge.mlprogram.ops import ARITHMETIC, MOVEMENT, MOVES, OPS
from vitedge.mlprogram.ops.arguments import STORAGE, Function
from vitedge.mlprogram.program import Argument, Literal, MLProgram, Named, Operation, Output
from vitedge.sentences import short

Watch = Callable[[Operation, tuple[Any, ...]], None]
"""Called with every operation and its results, before those are rounded to a declared float16."""

_NARROW = (torch.float16, torch.bfloat16)
_BIT_TYPES = {
    np.dtype(ml_dtypes.bfloat16): (np.int16, torch.bfloat16),
    np.dtype(ml_dtypes.float8_e4m3fn): (np.uint8, torch.float8_e4m3fn),
    np.dtype(ml_dtypes.float8_e5m2): (np.uint8, torch.float8_e5m2),
}
"""Types that PyTorch takes from NumPy as bits only."""


@dataclass(frozen=True)
class Step:
    """One operation, made ready to be called."""

    operation: Operation
    call: Function
    constants: Mapping[str, Any]
    """Parameters whose value is known before the program runs."""
    values: tuple[tuple[str, str | tuple[str, ...]], ...]
    """The other parameters, each with the name of a value or the names of several."""
    dtypes: tuple[torch.dtype | None, ...]
    """Dtype that each result is rounded to; None for one that is no tensor."""
    widens: bool
    """Whether float16 is widened before the call."""
    releases: tuple[str, ...]
    """Values that nothing reads afterwards."""


class MLProgramInterpreter:
    """A program that is ready to run; its constants are views of the package's files."""

    def __init__(self, program: MLProgram, compute: str = "declared") -> None:
        """Decodes the constants and looks up every operation.

        Raises:
            UnsupportedOperation: names an operation that is not in the table.
            UnreadableArtifact: a constant is damaged.
            BadRecipe: there is no such way to compute.
        """
        if compute not in COMPUTE:
            raise BadRecipe(f"There is no --compute {compute}; choose from {', '.join(COMPUTE)}.")
        self.program = program
        self.compute = compute
        self._constants: dict[str, Any] = {}
        self._types = {output.name: output.type for operation in program.operations for output in operation.outputs}
        self._types.update((entry.name, entry.type) for entry in program.inputs)
        self._steps: list[Step] = []
        self._prepare()

    def run(
        self,
        inputs: Mapping[str, Tensor],
        wanted: Collection[str] = (),
        watch: Watch | None = None,
        substitutes: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Any]:
        """Computes the program's outputs by name, and with them the wanted values.

        Args:
            inputs: every input by name.
            wanted: names of further values to return.
            watch: called with every operation and its results.
            substitutes: values that take the place of the result of the operation of that name; the wanted values
                and the outputs are still its results.

        Raises:
            BadRecipe: an input is missing, or has another shape or kind of number than is declared.
            UnreadableArtifact: an operation cannot be computed, or does not make what it declares.
        """
        values: dict[str, Any] = {entry.name: self._given(entry, inputs) for entry in self.program.inputs}
        keep = {*self.program.outputs, *wanted}
        found: dict[str, Any] = {name: values[name] for name in keep if name in values}
        found.update((name, self._constants[name]) for name in keep if name in self._constants)
        alive = sum(map(_bytes, values.values()))
        for step in self._steps:
            made = self._made(step, values, watch)
            found.update((name, value) for name, value in made.items() if name in keep)
            values.update(made if not substitutes else {name: substitutes.get(name, made[name]) for name in made})
            alive += sum(_bytes(values[name]) for name in made)
            if alive > LARGEST_MEMORY:  # only where shapes are not declared: what is declared was added up before
                raise self._failed(step.operation, f"values of {alive >> 20} MiB would be alive at one time")
            del made  # or it would outlive its last reader
            for name in step.releases:
                alive -= _bytes(values.pop(name))
        return found

    def _given(self, entry: Output, inputs: Mapping[str, Tensor]) -> Tensor:
        """Returns the value given for an input of the program, in its declared type."""
        path, value = self.program.package.path, inputs.get(entry.name)
        if value is None:
            raise BadRecipe(f"{path} takes an input {entry.name}, which is not given.")
        dtype = self._dtype(entry.type.dtype)
        if not _fits(entry.type.shape, value) or (
            dtype is not None and value.is_floating_point() != dtype.is_floating_point
        ):
            raise BadRecipe(
                f"{path} takes {entry.name} as {entry.type.dtype} of shape {entry.type.shape}, "
                f"not {str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}."
            )
        return value if dtype is None else value.to(dtype)

    def _made(self, step: Step, values: Mapping[str, Any], watch: Watch | None = None) -> dict[str, Any]:
        """Returns the results of an operation, by name and rounded to the declared types."""
        results = self._call(step, values)
        if watch is not None:
            watch(step.operation, results)
        outputs = step.operation.outputs
        return {
            output.name: self._round(result, dtype)
            for output, result, dtype in zip(outputs, results, step.dtypes, strict=True)
        }

    def _call(self, step: Step, values: Mapping[str, Any]) -> tuple[Any, ...]:
        arguments = dict(step.constants)
        for parameter, name in step.values:
            arguments[parameter] = values[name] if isinstance(name, str) else [self._value(one, values) for one in name]
        if step.widens:
            arguments = {parameter: _widen(value) for parameter, value in arguments.items()}
        try:
            results = step.call(**arguments)
        except UserError as error:
            raise self._failed(step.operation, error) from error
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            # What PyTorch says of arguments that do not fit together: such a program is damaged.
            raise self._failed(step.operation, error) from error
        results = results if isinstance(results, tuple) else (results,)
        self._check(step.operation, results)
        return results

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        return self._constants[name] if name in self._constants else values[name]

    def _check(self, operation: Operation, results: tuple[Any, ...]) -> None:
        """Checks that every result has the declared shape, as far as one is declared."""
        if len(results) != len(operation.outputs):
            raise self._failed(operation, f"it makes {len(results)} values, not {len(operation.outputs)}")
        for output, result in zip(operation.outputs, results, strict=True):
            if isinstance(result, Tensor) and not _fits(output.type.shape, result):
                shapes = f"{tuple(result.shape)} and is declared to be {output.type.shape}"
                raise self._failed(operation, f"{output.name} is {shapes}")

    def _failed(self, operation: Operation, error: object) -> UnreadableArtifact:
        reason = short(error) if isinstance(error, Exception) else error
        return UnreadableArtifact(
            f"{self.program.package.path} is damaged: {operation.kind} {operation.name} cannot be computed: {reason}."
        )

    def _dtype(self, name: str) -> torch.dtype | None:
        dtype = STORAGE.get(name)
        return torch.float32 if self.compute == "fp32" and dtype in _NARROW else dtype

    @staticmethod
    def _round(value: Any, dtype: torch.dtype | None) -> Any:
        return value.to(dtype) if dtype is not None and isinstance(value, Tensor) else value

    def _prepare(self) -> None:
        last = self._last_readers()
        for index, operation in enumerate(self.program.operations):
            if operation.kind == "const":
                self._constants[operation.name] = tensor(operation.attributes["val"])
                continue
            step = self._step(operation, last.get(index, ()))
            if operation.kind.startswith("constexpr_"):
                # Kept compressed on disk, and decompressed once; one may read another's results.
                if step.values:
                    raise self._failed(operation, f"its {step.values[0][0]} is no constant")
                self._constants.update(self._made(step, {}))
            else:
                self._steps.append(step)

    def _step(self, operation: Operation, releases: tuple[str, ...]) -> Step:
        if operation.kind not in OPS:
            raise UnsupportedOperation(_unknown(operation, self.program))
        constants: dict[str, Any] = {name: tensor(literal) for name, literal in operation.attributes.items()}
        values: list[tuple[str, str | tuple[str, ...]]] = []
        for parameter, arguments in operation.inputs.items():
            several = parameter in LISTS or len(arguments) != 1
            if all(isinstance(argument, Literal) or argument.name in self._constants for argument in arguments):
                known = [self._known(argument) for argument in arguments]
                constants[parameter] = known if several else known[0]
            else:
                names = tuple(self._named(argument, f"{operation.name}.{parameter}") for argument in arguments)
                values.append((parameter, names if several else names[0]))
        return Step(
            operation=operation,
            call=OPS[operation.kind],
            constants=constants,
            values=tuple(values),
            dtypes=tuple(self._dtype(output.type.dtype) for output in operation.outputs),
            widens=self._widens(operation),
            releases=releases,
        )

    def _widens(self, operation: Operation) -> bool:
        """Returns whether narrow arguments have to be widened before the call; most programs have none."""
        if operation.kind in MOVES and self.compute == "declared":
            return False
        dtypes = chain(
            (self._types[name].dtype for name in operation.reads()),
            (literal.type.dtype for literal in operation.literals()),
        )
        return any(STORAGE.get(dtype) in _NARROW for dtype in dtypes)

    def _named(self, argument: Argument, place: str) -> str:
        """Returns the name of an argument; a literal among named ones gets one."""
        if isinstance(argument, Named):
            return argument.name
        name = f"{place}.{len(self._constants)}"
        self._constants[name] = tensor(argument)
        return name

    def _known(self, argument: Argument) -> Any:
        return tensor(argument) if isinstance(argument, Literal) else self._constants[argument.name]

    def _last_readers(self) -> dict[int, tuple[str, ...]]:
        """Returns index of an operation to the values that it is the last to read, or that nothing reads."""
        last: dict[str, int] = {}
        for index, operation in enumerate(self.program.operations):
            if not operation.is_constant:
                made = (output.name for output in operation.outputs)
                last.update(dict.fromkeys((*operation.reads(), *made), index))
        constant = {
            output.name
            for operation in self.program.operations
            if operation.is_constant
            for output in operation.outputs
        }
        found: dict[int, list[str]] = {}
        for name, index in last.items():
            if name not in constant:
                found.setdefault(index, []).append(name)
        return {index: tuple(names) for index, names in found.items()}


LISTS = frozenset(("values", "ref_tensors", "begins", "ends", "end_masks"))
"""Parameters that take a list of values, even of one."""


def tensor(literal: Literal) -> Any:
    """Returns a constant as an operation takes it: a tensor that shares the file's memory, ``str``, tuple, ``dict``."""
    value = literal.decode()
    if not isinstance(value, np.ndarray) or value.dtype.kind == "U":
        return value
    if value.dtype in _BIT_TYPES:
        bits, dtype = _BIT_TYPES[value.dtype]
        return torch.from_numpy(value.view(bits)).view(dtype)
    storage = STORAGE[literal.type.dtype]
    if value.dtype.kind == "u" and value.dtype.itemsize > 1:
        value = value.astype(np.int32 if storage == torch.int32 else np.int64)
    if not value.flags.writeable:
        value = value.copy()
    return torch.from_numpy(value)


def input_tensor(array: np.ndarray[Any, Any], *, bgr: bool) -> Tensor:
    """Returns an input of a package as the interpreter takes it.

    Args:
        array: the input; of an image ``uint8 (1, channels, height, width)``, RGB.
        bgr: whether the program takes the channels in the reverse order.

    Returns:
        A copy, as the array may be read-only; pixels as float32.
    """
    value = torch.from_numpy(np.array(array[:, ::-1] if bgr else array))
    return value.float() if value.dtype == torch.uint8 else value


def _fits(shape: tuple[int | None, ...] | None, value: Tensor) -> bool:
    """Returns whether a value has the declared shape, as far as one is declared."""
    return shape is None or (
        len(shape) == value.ndim and all(edge in (None, of) for edge, of in zip(shape, value.shape, strict=True))
    )


def _bytes(value: Any) -> int:
    return value.nbytes if isinstance(value, Tensor) else 0


def _widen(value: Any) -> Any:
    if isinstance(value, list):
        return [_widen(one) for one in value]
    return value.float() if isinstance(value, Tensor) and value.dtype in _NARROW else value


def _unknown(operation: Operation, program: MLProgram) -> str:
    near = difflib.get_close_matches(operation.kind, OPS, n=1, cutoff=0.0)
    module = next(module for module in (*ARITHMETIC, *MOVEMENT) if near and near[0] in module.OPS)
    constant = {name for name, _ in program.constants()}
    reads = next((name for name in operation.reads() if name not in constant), "constants")
    return (
        f"{program.package.path} uses the operation {operation.kind}, which is not in the table: it makes "
        f"{operation.name} from {reads}; add a function {operation.kind} to OPS of {module.__name__}."
    )
