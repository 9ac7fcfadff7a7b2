# SPDX-License-Identifier: Apache-2.0
"""Whether the weights of a package are those of the reference, bit for bit."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from vitedge.errors import CheckFailed
from vitedge.export.coreml.describe import PREFIX, SPARSE, stores_sparse
from vitedge.export.coreml.sparse import scattered
from vitedge.mlprogram.blobs import Array
from vitedge.mlprogram.program import Argument, Literal, MLProgram, Named, Operation

SMALLEST = 16
"""Constants with fewer values are shapes, axes and scales that the lowering makes itself."""
_ROUNDING = 2e-6
"""Tolerance for a weight that the lowering computed from others, relative to its largest value."""
_UNIT = {np.dtype(np.float32): 0.0, np.dtype(np.float16): 2.0**-11}
"""Tolerance relative to each value itself: half a unit in the last place of its dtype."""
_KINSHIP = 0.5
"""Share of equal values from which a constant is a damaged copy of a weight, whatever it is called."""
LIKENESS = 0.5
"""Cosine from which two arrays of one size are taken for the same weight, one of them damaged."""
_CONVERTED = re.compile(r"(_to_fp16|_to_fp32|_cast_fp16|_quantized|_palettized|_sparsified|_compressed)+$")
"""Suffixes that passes of coremltools append to the name of a constant."""
_STORED: Mapping[str, Mapping[str, str]] = {
    "constexpr_affine_dequantize": {"quantized_data": "", "scale": "_scale", "zero_point": "_zero_point"},
    "constexpr_blockwise_shift_scale": {"data": "", "scale": "_scale", "offset": "_zero_point"},
    "constexpr_sparse_blockwise_shift_scale": {"nonzero_data": "", "scale": "_scale", "offset": "_zero_point"},
}
"""The stored parts of a quantized weight: operation, to its parameters, to the suffix of their names."""
_SPARSE = {"constexpr_sparse_to_dense": "mask", "constexpr_sparse_blockwise_shift_scale": "data_mask"}
"""Operation that takes a sparse value to the parameter that has its mask."""
_LIFTED = re.compile(r"^(p|b|c)_")
"""Prefix that ``torch.export`` gives the name of a parameter, a buffer or a constant."""


@dataclass(frozen=True)
class Weight:
    """A weight of the reference."""

    value: Array
    """``float32``, in the form that is applied to the image; or the stored integers, one byte each."""
    module: str = ""
    """Name of the module of the reference that applies it."""
    origin: str = "copied"
    """``copied`` as the checkpoint has it; ``folded`` of a convolution and its batch normalization; ``computed`` in
    another way from others. A lowering may round the latter two in its own way."""


@dataclass(frozen=True)
class _Constant:
    name: str
    value: Array
    names: tuple[str, ...] = ()
    """Names of the weights that it equals."""


@dataclass
class _Tally:
    """The constants of a package, sorted by the outcome of their comparison."""

    equal: list[_Constant] = field(default_factory=list)
    close: dict[str, list[_Constant]] = field(default_factory=dict)
    """Origin of the weight to the constants that equal one within rounding."""
    strange: list[_Constant] = field(default_factory=list)
    same_fold: bool = False
    """Whether some folded weight is equal."""


def compare_weights(program: MLProgram, weights: Mapping[str, Weight]) -> str:
    """Finds every constant of a package among the weights of the reference, and every weight among the constants.

    A constant has to equal its weight bit for bit, in fp16 the weight rounded to nearest; of a quantized weight the
    integers and the scales have to. The matrices of other people's packages may be transposed. Only a weight that is
    computed from others may be off by a few roundings, and a batch normalization folded into its convolution only where
    the whole package is folded in another way than here.

    Args:
        program: the ML Program.
        weights: name to weight.

    Returns:
        A sentence that says what was compared, and what was not.

    Raises:
        CheckFailed: a constant that differs from its weight, or a constant or a weight without its counterpart.
    """
    kinds = {operation.kind for operation in program.operations if operation.kind.startswith("constexpr_")}
    compressed = kinds - {SPARSE} if stores_sparse(program) else kinds
    if compressed and not any(_is_integer(weight.value) for weight in weights.values()):
        return "compressed weights, which equal no weight of the reference: they are not compared"
    wanted = {name: weight for name, weight in weights.items() if weight.value.size >= SMALLEST}
    tally = _tally(program, wanted)
    if tally.same_fold:
        # Folded as here, bit for bit: then one that is off by a little is damaged, not rounded in another way.
        tally.strange.extend(tally.close.pop("folded", ()))
    found = {name for constant in (*tally.equal, *chain(*tally.close.values())) for name in constant.names}
    missing = {name: wanted[name] for name in sorted(set(wanted) - found) if not _is_filler(wanted[name].value)}
    left = _refuse(tally.strange, missing, ours=_is_ours(program))
    computed = sum(len(constants) for constants in tally.close.values())
    return f"{len(tally.equal)} weights equal to the reference's, {computed} computed from them within rounding{left}"


def _tally(program: MLProgram, wanted: Mapping[str, Weight]) -> _Tally:
    exact = by_content(wanted)
    tally = _Tally()
    floats = ((name, value) for name, value in numbers(program) if value.dtype in _UNIT)
    for name, value in chain(quantized_parts(program), floats):
        if value.size < SMALLEST or _is_filler(value):
            continue
        equal = exact.get(content_key(value))
        if equal:
            tally.equal.append(_Constant(name, value, tuple(equal)))
            tally.same_fold |= any(wanted[found].origin == "folded" for found in equal)
        elif not _is_integer(value) and (close := _closest(value, wanted)):
            tally.close.setdefault(wanted[close].origin, []).append(_Constant(name, value, (close,)))
        else:
            tally.strange.append(_Constant(name, value))
    return tally


def quantized_parts(program: MLProgram) -> Iterator[tuple[str, Array]]:
    """Yields name and value of the stored parts of every quantized weight: integers, scales and zero points.

    The integers of a sparse one are the dense ones.
    """
    constants = dict(program.constants())
    for operation in program.operations:
        for parameter, suffix in _STORED.get(operation.kind, {}).items():
            held = _held(operation, parameter, constants)
            dense = None if suffix else _dense(operation, constants)
            if held is not None:
                yield f"{plain(operation.name)}{suffix}", held.decode() if dense is None else dense


def numbers(program: MLProgram) -> Iterator[tuple[str, Array]]:
    """Yields name and value of every numeric constant; of sparse ones the dense value."""
    constants = dict(program.constants())
    parts: set[str] = set()
    for operation in program.operations:
        dense = _dense(operation, constants)
        if dense is not None:
            parts.update(operation.reads())
            if operation.kind not in _STORED:
                yield operation.name, dense
    for name, literal in constants.items():
        if literal.type.shape is not None and literal.type.dtype not in ("string", "bool") and name not in parts:
            yield name, literal.decode()


def _held(operation: Operation, parameter: str, constants: Mapping[str, Literal]) -> Literal | None:
    """Returns the constant that is a parameter of an operation; None where there is none, or another makes it."""
    held: Argument | None = operation.attributes.get(parameter) or operation.inputs.get(parameter, (None,))[0]
    return constants.get(held.name) if isinstance(held, Named) else held


def _dense(operation: Operation, constants: Mapping[str, Literal]) -> Array | None:
    """Returns the dense numbers that a sparse constant holds; None for what is none, or is made of others.

    Raises:
        CheckFailed: the mask does not fit the numbers.
    """
    parts = (_held(operation, name, constants) for name in ("nonzero_data", _SPARSE.get(operation.kind, ""), "shape"))
    data, mask, shape = (None if part is None else part.decode() for part in parts)
    if operation.kind not in _SPARSE or data is None or mask is None:
        return None
    dense = scattered(data, mask, None if shape is None else tuple(int(edge) for edge in shape))
    if dense is None:
        raise CheckFailed(f"the mask of the sparse constant {operation.name} does not fit its {data.size} values")
    return dense


def plain(name: str) -> str:
    """Returns the name of a constant or a weight without the affixes of conversions, in lower case."""
    return _LIFTED.sub("", _CONVERTED.sub("", name)).casefold()


def _is_ours(program: MLProgram) -> bool:
    return f"{PREFIX}version" in program.package.model.description.metadata.userDefined


def by_content(weights: Mapping[str, Weight]) -> dict[bytes, list[str]]:
    """Returns the content of every weight, in float32 and float16 and of matrices transposed too, to its names."""
    found: dict[bytes, list[str]] = defaultdict(list)
    for name, weight in weights.items():
        value = np.squeeze(weight.value)
        for form in (value, value.T) if value.ndim == 2 else (value,):
            found[content_key(form)].append(name)
            for half in () if _is_integer(form) else _halves(form):
                found[content_key(half)].append(name)
    return found


def _halves(value: Array) -> Iterator[Array]:
    """Yields the float16 forms of a float32 array: coremltools keeps small arrays from getting new zeros."""
    half = value.astype(np.float16)
    yield half
    lost = (half == 0) & (value != 0)
    if lost.any():
        yield np.where(lost, np.copysign(np.nextafter(np.float16(0), np.float16(1)), value), half).astype(np.float16)


def _refuse(constants: list[_Constant], missing: Mapping[str, Weight], *, ours: bool) -> str:
    """Raises for a constant or weight without its counterpart, or says what was not compared.

    A package of ours is to hold every weight; in another one a weight may well be scaled or joined with another, and
    only what is recognizably a damaged copy is a fault.
    """
    for constant in constants:
        name = _counterpart(constant, missing, ours=ours)
        if name:
            raise CheckFailed(_difference(constant, missing[name]))
        if ours:
            raise CheckFailed(f"constant {constant.name} of shape {constant.value.shape} is no weight of the reference")
    if ours and missing:
        raise CheckFailed(f"no constant of the package holds {', '.join(list(missing)[:3])} of the reference")
    if constants or missing:
        return f"; {len(missing)} others have no counterpart and were not compared"
    return ""


def _counterpart(constant: _Constant, missing: Mapping[str, Weight], *, ours: bool) -> str:
    """Returns the name of the weight that a constant was meant to be, or an empty one."""
    alike = {name: weight for name, weight in missing.items() if weight.value.size == constant.value.size}
    for name, weight in alike.items():
        if plain(name) == plain(constant.name) or _differing(constant, weight).mean() <= 1 - _KINSHIP:
            return name
    if not ours or not alike:
        return ""
    nearest = max(alike, key=lambda name: cosine(constant.value, alike[name].value))
    return nearest if cosine(constant.value, alike[nearest].value) > LIKENESS else ""


def cosine(one: Array, other: Array) -> float:
    """Returns the cosine of the angle between two arrays of one size; NaN where either holds one."""
    a, b = one.astype(np.float64).reshape(-1), other.astype(np.float64).reshape(-1)
    return float(a @ b / (np.sqrt((a @ a) * (b @ b)) or 1.0))


def _differing(constant: _Constant, weight: Weight, *, exact: bool = True) -> Array:
    """Returns which values differ, flat bool; for a computed weight those that rounding does not explain."""
    values, expected = constant.value.reshape(-1), weight.value.reshape(-1)
    if exact:
        return np.asarray(values != expected.astype(values.dtype))
    scale = float(np.abs(expected).max()) or 1.0
    allowed = _ROUNDING * scale + _UNIT[values.dtype] * np.abs(expected)
    return ~(np.abs(values.astype(np.float32) - expected) <= allowed)


def _difference(constant: _Constant, weight: Weight) -> str:
    differing = np.flatnonzero(_differing(constant, weight))
    shape = constant.value.shape
    place = tuple(int(index) for index in np.unravel_index(differing[0], shape)) if len(differing) else ()
    return (
        f"constant {constant.name} of shape {shape} is no weight of the reference: {len(differing)} of "
        f"{constant.value.size} values differ from what module {weight.module or '(root)'} has, "
        f"the first at {list(place)}"
    )


def _is_integer(value: Array) -> bool:
    return value.dtype.kind in "iu"


def _is_filler(value: Array) -> bool:
    """Returns whether all values are equal: coremltools adds such biases, and drops multiplications by one."""
    return bool((value == value.flat[0]).all())


def content_key(value: Array) -> bytes:
    """Returns a key that is equal for values that are equal bit for bit, whatever their shape."""
    return value.dtype.char.encode() + hashlib.blake2b(np.ascontiguousarray(value).data, digest_size=16).digest()


def _closest(value: Array, wanted: Mapping[str, Weight]) -> str:
    """Returns the name of the computed weight that a constant equals within rounding, or an empty one."""
    constant = _Constant("", value)
    for name, weight in wanted.items():
        alike = weight.origin != "copied" and weight.value.size == value.size
        if alike and not _differing(constant, weight, exact=False).any():
            return name
    return ""
