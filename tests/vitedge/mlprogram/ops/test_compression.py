# SPDX-License-Identifier: Apache-2.0
"""Compressed constants in both encodings, against coremltools' own decompression, bit for bit."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from tests.vitedge.mlprogram.mil import Build, materialized, program
from vitedge.errors import UnreadableArtifact
from vitedge.export.coreml.quiet import load_coremltools
from vitedge.mlprogram.interpreter import MLProgramInterpreter
from vitedge.mlprogram.ops import OPS
from vitedge.mlprogram.ops.compression import (
    constexpr_blockwise_shift_scale,
    constexpr_lut_to_dense,
    constexpr_lut_to_sparse,
)
from vitedge.mlprogram.program import Named

UNUSED = {"unused": np.zeros(1, np.float32)}
FLOATS = ("float32", "float16")
LIMITS = {"int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255)}


def mil_dtype(name: str) -> Any:
    """NumPy's type that coremltools recognizes as one of fewer than eight bits."""
    load_coremltools()
    from coremltools.converters.mil.mil import types  # noqa: PLC0415

    return types.nptype_from_builtin(types.string_to_builtin(name))


def drawn(seed: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers over the whole range of a type."""
    rng = np.random.default_rng(seed)
    if dtype in FLOATS:
        return rng.normal(size=shape).astype(dtype)
    low, high = LIMITS[dtype] if dtype in LIMITS else (0, 2 ** int(dtype.removeprefix("uint")) - 1)
    return rng.integers(low, high + 1, shape).astype(mil_dtype(dtype))


def sparse(seed: int, dtype: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mask and nonzero data."""
    mask = np.random.default_rng(seed).integers(0, 2, shape).astype(mil_dtype("uint1"))
    return mask, drawn(seed, dtype, (int(mask.sum()),))


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """From the lowest bit on, number by number; independent of both sides of the comparison."""
    number = sum(int(value) << (bits * place) for place, value in enumerate(values.reshape(-1)))
    return np.frombuffer(number.to_bytes(-(-values.size * bits // 8), "little"), np.uint8)


def decompressed(build: Build, opset: str, compute: str = "declared") -> np.ndarray:
    """Returns a constant as the runtime decompresses it; it is no output, which could not be of every type."""
    names = []

    def main(mb, unused):
        names.append(build(mb).name)
        return mb.identity(x=unused)

    found = MLProgramInterpreter(program(main, UNUSED, opset), compute).run({"unused": torch.zeros(1)}, names)
    return found[names[0]].numpy()


def same(build: Build, opset: str, expected: np.ndarray | None = None) -> None:
    """Checks that the runtime decompresses a constant to the bits of coremltools."""
    said, found = materialized(build, opset), decompressed(build, opset)
    assert found.dtype == said.dtype
    assert found.shape == said.shape
    assert found.tobytes() == said.tobytes()
    if expected is not None:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("floats", FLOATS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(("shape", "axis", "vector"), [
    ((7, 5), 0, True), ((7, 5), -1, True), ((4, 3, 2, 2), 1, True), ((9,), 0, True), ((6, 4), 0, False),
])  # fmt: skip
def test_affine(shape: tuple[int, ...], axis: int, vector: bool, dtype: str, floats: str) -> None:
    size = (shape[axis],) if vector else ()

    def build(mb):
        return mb.constexpr_affine_dequantize(
            quantized_data=drawn(0, dtype, shape),
            zero_point=np.asarray(drawn(1, dtype, size)),
            scale=np.asarray(np.abs(drawn(2, floats, size)) / np.asarray(50, floats)),
            axis=np.int32(axis),
        )

    same(build, "iOS16")


def test_affine_with_a_float_zero_point() -> None:
    def build(mb):
        return mb.constexpr_affine_dequantize(
            quantized_data=drawn(0, "uint8", (3, 4)), zero_point=np.float32(12.3), scale=np.float16(0.013),
            axis=np.int32(0),
        )  # fmt: skip

    same(build, "iOS16")


@pytest.mark.parametrize("opset", ["iOS16", "iOS18"])
def test_cast(opset: str) -> None:
    value = np.float16([[1.5, -65504, 6e-8], [np.inf, 0, 1 / 3]])

    def build(mb):
        return mb.constexpr_cast(source_val=value, output_dtype="fp32")

    same(build, opset, np.float32(value))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8"])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_packed_palettes(bits: int, dtype: str) -> None:
    shape = (3, 7)
    lut, indices = drawn(0, dtype, (2**bits,)), drawn(1, f"uint{bits}", shape)

    def build(mb):
        return mb.constexpr_lut_to_dense(indices=packed(indices, bits), lut=lut, shape=np.uint32(shape))

    same(build, "iOS16", lut[indices])


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8"])
@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 1, 5, 7)])
def test_packed_masks(shape: tuple[int, ...], dtype: str) -> None:
    mask, data = sparse(4, dtype, shape)
    expected = np.zeros(shape, data.dtype)
    expected[mask == 1] = data

    def build(mb):
        return mb.constexpr_sparse_to_dense(nonzero_data=data, mask=packed(mask, 1), shape=np.uint32(shape))

    same(build, "iOS16", expected)


BLOCKS = {
    "per tensor": ((6, 8), (1, 1)),
    "per channel": ((6, 8), (6, 1)),
    "per block of an axis": ((6, 8), (6, 2)),
    "per block of both": ((6, 8), (3, 4)),
    "per number": ((6, 8), (6, 8)),
    "of a convolution": ((4, 6, 3, 3), (4, 2, 1, 1)),
    "of a vector": ((12,), (3,)),
}
"""Shapes of the data and of the scales."""


@pytest.mark.parametrize(
    ("floats", "offset"),
    # Not float32 offsets of float16 scales: there coremltools returns float32, which is not what it declares.
    [*itertools.product(FLOATS, (None, "same", "float16")), ("float32", "float32")],
)
@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "uint8", "float16", "float32"])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_blockwise(blocks: str, dtype: str, offset: str | None, floats: str) -> None:
    """The function itself; over packages below."""
    shape, counts = BLOCKS[blocks]
    data, scale = drawn(0, dtype, shape), drawn(1, floats, counts) / np.asarray(30, floats)
    offsets = None if offset is None else drawn(2, dtype if offset == "same" else offset, counts)
    expected = _mil_op("constexpr_blockwise_shift_scale").decompress(data, scale, offsets)
    found = constexpr_blockwise_shift_scale(_torch(data), _torch(scale), None if offsets is None else _torch(offsets))
    assert found.numpy().dtype == expected.dtype
    assert found.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("floats", FLOATS)
@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize("offset", [True, False])
def test_blockwise_in_a_package(dtype: str, offset: bool, floats: str) -> None:
    def build(mb):
        shift = {"offset": drawn(2, dtype, (6, 2))} if offset else {}
        return mb.constexpr_blockwise_shift_scale(
            data=drawn(0, dtype, (6, 64)), scale=drawn(1, floats, (6, 2)) / np.asarray(30, floats), **shift
        )

    same(build, "iOS18")


def test_float16_is_rounded_as_it_goes() -> None:
    """The offset is no integer, so that there are two roundings: what one rounding gives is not the same."""
    data, scale, offset = drawn(0, "int8", (64,)), np.float16([0.0123]), np.float16([0.777])

    def build(mb):
        return mb.constexpr_blockwise_shift_scale(data=data, scale=scale, offset=offset)

    same(build, "iOS18")
    once = (np.float32(scale) * (np.float32(data) - np.float32(offset))).astype(np.float16)
    assert np.any(materialized(build, "iOS18") != once)
    np.testing.assert_array_equal(decompressed(build, "iOS18", "fp32").astype(np.float16), once)


PALETTES = {
    "per tensor": ((6, 4), (1, 1), 1, None),
    "per channel": ((6, 4), (6, 1), 1, None),
    "per group of the first axis": ((6, 4), (2, 1), 1, None),
    "per group of the second axis": ((6, 4), (1, 2), 1, None),
    "per group of both": ((6, 4), (3, 2), 1, None),
    "of a convolution": ((4, 3, 2, 2), (2, 1, 1, 1), 1, None),
    "of a vector": ((8,), (2,), 1, None),
    "one number, with an axis": ((6, 4), (2, 1), 1, 0),
    "vectors along the first axis": ((6, 4), (1, 1), 3, 0),
    "vectors along the last axis": ((6, 4), (1, 1), 2, -1),
    "vectors along a middle axis": ((2, 3, 4), (1, 1, 1), 2, 1),
    "vectors in groups of their axis": ((6, 4), (3, 1), 2, 0),
    "vectors in groups of another axis": ((6, 4), (1, 2), 2, 0),
    "vectors in groups of a middle axis": ((4, 6, 2, 2), (2, 3, 1, 2), 4, 1),
}
"""Shape of the indices, groups, numbers in a palette, vector axis."""


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("palettes", PALETTES)
def test_palettes(palettes: str, bits: int) -> None:
    """The functions themselves; over packages below."""
    shape, groups, size, axis = PALETTES[palettes]
    indices, lut = drawn(0, f"uint{bits}", shape), drawn(1, "float16", (*groups, 2**bits, size))
    expected = _mil_op("constexpr_lut_to_dense").decompress(indices, lut, axis)
    vector_axis = None if axis is None else torch.tensor(axis)
    found = constexpr_lut_to_dense(_torch(indices), _torch(lut), vector_axis=vector_axis)
    np.testing.assert_array_equal(found.numpy(), expected)
    mask, data = sparse(2, f"uint{bits}", shape)
    expected_mask, expected_data = _mil_op("constexpr_lut_to_sparse").decompress(mask, data, lut, axis)
    found_mask, found_data = constexpr_lut_to_sparse(_torch(mask), _torch(data), _torch(lut), vector_axis)
    np.testing.assert_array_equal(found_mask.numpy(), expected_mask)
    np.testing.assert_array_equal(found_data.numpy(), expected_data)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_palettes_in_a_package(bits: int, dtype: str) -> None:
    def build(mb):
        return mb.constexpr_lut_to_dense(
            indices=drawn(0, f"uint{bits}", (6, 5)), lut=drawn(1, dtype, (2, 1, 2**bits, 3)), vector_axis=np.int32(1)
        )

    same(build, "iOS18")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int4", "uint4", "int8", "uint8"])
def test_masks(dtype: str) -> None:
    mask, data = sparse(5, dtype, (5, 7))

    def build(mb):
        return mb.constexpr_sparse_to_dense(nonzero_data=data, mask=mask)

    same(build, "iOS18")


def palettized_sparse(mb):
    """A vector of two numbers for every mark of the mask."""
    mask, data = sparse(6, "uint3", (4, 6))
    lut = drawn(1, "float16", (1, 2, 8, 2))
    mask, data = mb.constexpr_lut_to_sparse(
        indices_mask=mask, indices_nonzero_data=data, lut=lut, vector_axis=np.int32(0)
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=data, mask=mask)


def quantized_sparse(mb):
    mask, data = sparse(7, "int4", (4, 6))
    scale, offset = drawn(1, "float16", (4, 2)), drawn(2, "int4", (4, 2))
    mask, data = mb.constexpr_sparse_blockwise_shift_scale(
        data_mask=mask, nonzero_data=data, scale=scale, offset=offset
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=data, mask=mask)


def quantized_of_palettized(mb):
    """A look-up table of int8, and a scale per channel."""
    indices, lut = drawn(0, "uint4", (6, 8)), drawn(1, "int8", (1, 1, 16, 1))
    data = mb.constexpr_lut_to_dense(indices=indices, lut=lut)
    return mb.constexpr_blockwise_shift_scale(data=data, scale=drawn(2, "float16", (6, 1)))


@pytest.mark.parametrize("build", [palettized_sparse, quantized_sparse, quantized_of_palettized])
def test_one_reads_what_another_makes(build: Build) -> None:
    same(build, "iOS18")


def test_it_is_decompressed_while_a_program_is_prepared() -> None:
    read = program(lambda mb, x: mb.add(x=x, y=palettized_sparse(mb)), {"x": np.zeros((8, 6), np.float16)}, "iOS18")
    seen = []
    interpreter = MLProgramInterpreter(read)
    for _ in range(2):
        interpreter.run({"x": torch.zeros(8, 6).half()}, watch=lambda operation, _: seen.append(operation.kind))
    assert seen == ["add", "add"]


def test_only_constants_are_decompressed() -> None:
    read = program(
        lambda mb, x: mb.add(x=x, y=quantized_of_palettized(mb)), {"x": np.zeros((6, 8), np.float16)}, "iOS18"
    )
    operations = tuple(
        dataclasses.replace(operation, inputs={**operation.inputs, "data": (Named("x"),)})
        if operation.kind == "constexpr_blockwise_shift_scale" else operation
        for operation in read.operations
    )  # fmt: skip
    with pytest.raises(UnreadableArtifact, match="cannot be computed: its data is no constant"):
        MLProgramInterpreter(dataclasses.replace(read, operations=operations))


BYTES = torch.zeros(4, dtype=torch.uint8)
HOSTILE = {
    "packed indices of a shape that takes all memory": (
        "constexpr_lut_to_dense", {"indices": BYTES, "lut": torch.zeros(2), "shape": torch.tensor([2**40, 2**20])},
        "which no model has",
    ),
    "packed indices of a negative shape": (
        "constexpr_lut_to_dense", {"indices": BYTES, "lut": torch.zeros(2), "shape": torch.tensor([-4, -8])},
        "which no model has",
    ),
    "too few packed indices": (
        "constexpr_lut_to_dense", {"indices": BYTES, "lut": torch.zeros(2), "shape": torch.tensor([33])},
        "4 bytes do not hold 33 values of 1 bits",
    ),
    "a look-up table of three": (
        "constexpr_lut_to_dense", {"indices": BYTES, "lut": torch.zeros(3), "shape": torch.tensor([16])},
        "has no index type",
    ),
    "a table without rank": ("constexpr_lut_to_dense", {"indices": BYTES, "lut": torch.zeros(2)}, "do not fit indices"),
    "an index beyond the table": (
        "constexpr_lut_to_dense", {"indices": BYTES + 2, "lut": torch.zeros(4, 2, 1)},
        "An index is 2 in a look-up table of 2",
    ),
    "vectors without an axis": (
        "constexpr_lut_to_dense", {"indices": BYTES, "lut": torch.zeros(1, 2, 3)}, "names no axis",
    ),
    "vectors that take all memory": (
        "constexpr_lut_to_dense",
        {"indices": torch.zeros(1, dtype=torch.uint8).expand(2**14), "lut": torch.zeros(1).expand(1, 2, 2**17),
         "vector_axis": torch.tensor(0)},
        "which no model has",
    ),
    "groups that do not divide": (
        "constexpr_lut_to_dense", {"indices": BYTES, "lut": torch.zeros(3, 2, 1)}, "does not divide into",
    ),
    "no groups": ("constexpr_lut_to_dense", {"indices": BYTES, "lut": torch.zeros(0, 2, 1)}, "does not divide into"),
    "a packed mask of a shape that takes all memory": (
        "constexpr_sparse_to_dense", {"nonzero_data": torch.zeros(1), "mask": BYTES, "shape": torch.tensor([2**50])},
        "which no model has",
    ),
    "too little nonzero data": (
        "constexpr_sparse_to_dense", {"nonzero_data": torch.zeros(1), "mask": BYTES + 1},
        "A mask marks 4 values and there are 1",
    ),
    "too much nonzero data": (
        "constexpr_sparse_to_dense",
        {"nonzero_data": torch.zeros(40), "mask": BYTES + 255, "shape": torch.tensor([32])},
        "A mask marks 32 values and there are 40",
    ),
    "scales of another rank": (
        "constexpr_blockwise_shift_scale", {"data": BYTES, "scale": torch.zeros(2, 2)}, "does not divide into",
    ),
    "no scales": ("constexpr_blockwise_shift_scale", {"data": BYTES, "scale": torch.zeros(0)}, "does not divide into"),
    "more scales than data": (
        "constexpr_blockwise_shift_scale", {"data": BYTES[:1], "scale": torch.zeros(2**20)}, "does not divide into",
    ),
    "offsets of another shape": (
        "constexpr_blockwise_shift_scale", {"data": BYTES, "scale": torch.zeros(2), "offset": torch.zeros(4)},
        "do not fit scales",
    ),
    "a vector of scales over an axis of one": (
        "constexpr_affine_dequantize",
        {"quantized_data": BYTES[:1], "zero_point": torch.zeros(()), "scale": torch.zeros(2**20),
         "axis": torch.tensor(0)},
        "has 1 channels",
    ),
}  # fmt: skip
"""Operation, arguments, what is said."""


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_arguments(case: str) -> None:
    kind, arguments, said = HOSTILE[case]
    with pytest.raises(UnreadableArtifact, match=said):
        OPS[kind](**arguments)


def _mil_op(name: str) -> Any:
    load_coremltools()
    from coremltools.converters.mil.mil.ops.defs.iOS18 import compression  # noqa: PLC0415

    return getattr(compression, name)


def _torch(value: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(value))
