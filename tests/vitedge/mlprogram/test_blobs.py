# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.vitedge.mlprogram.handmade import blob_file
from vitedge.errors import CheckFailed, UnreadableArtifact
from vitedge.export.coreml.quiet import load_coremltools
from vitedge.mlprogram import blobs
from vitedge.mlprogram.blobs import ELEMENT_TYPES, Blobs, Place, unpack

BY_NAME = {element.name: element for element in ELEMENT_TYPES.values()}
WRITERS = {
    "float16": "fp16", "float32": "float", "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16",
    "int32": "int32", "uint32": "uint32", "int4": "int4", "uint1": "uint1", "uint2": "uint2", "uint3": "uint3",
    "uint4": "uint4", "uint6": "uint6",
}  # fmt: skip
"""Element type to the name that coremltools' writer has for it."""
BY_HAND = {
    "bfloat16": (5, ml_dtypes.bfloat16),
    "float8_e4m3fn": (16, ml_dtypes.float8_e4m3fn),
    "float8_e5m2": (17, ml_dtypes.float8_e5m2),
}
"""Element type to its code in a blob file and NumPy's type, where coremltools has no writer."""
COUNTS = (1, 5, 8, 131)


def values(name: str, count: int) -> np.ndarray:
    element = BY_NAME[name]
    rng = np.random.default_rng(count)
    if element.storage.kind == "f":
        return rng.standard_normal(count).astype(element.storage)
    lowest = 0 if name.startswith("u") else -(1 << (element.bits - 1))
    highest = lowest + (1 << element.bits)
    found = rng.integers(lowest, highest, count, dtype=np.int64)
    found[0], found[-1] = lowest, highest - 1
    return found.astype(element.storage)


def read(file: Blobs, offset: int, name: str, count: int) -> np.ndarray:
    return unpack(file.read(file.find(offset, BY_NAME[name], count)), BY_NAME[name], count)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, int, int]]]:
    """A file that coremltools wrote, and what lies at which offset: every type at several lengths."""
    path = tmp_path_factory.mktemp("blobs") / "weight.bin"
    load_coremltools()
    from coremltools.libmilstoragepython import _BlobStorageWriter  # noqa: PLC0415  (it takes seconds)

    writer = _BlobStorageWriter(str(path))
    entries = []
    for name, method in WRITERS.items():
        for count in COUNTS:
            array = values(name, count)
            array = array.view(np.uint16) if name == "float16" else array
            entries.append((name, count, getattr(writer, f"write_{method}_data")(array)))
    del writer  # which closes the file
    return path, entries


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("count", COUNTS)
def test_what_coremltools_writes_is_read_back(
    written: tuple[Path, list[tuple[str, int, int]]], name: str, count: int
) -> None:
    path, entries = written
    (offset,) = [place for kind, size, place in entries if (kind, size) == (name, count)]
    found = read(Blobs(path), offset, name, count)
    assert found.dtype == BY_NAME[name].storage
    np.testing.assert_array_equal(found, values(name, count))


def test_every_byte_that_coremltools_writes_is_accounted_for(
    written: tuple[Path, list[tuple[str, int, int]]],
) -> None:
    path, entries = written
    file = Blobs(path)
    file.check_unused([file.find(offset, BY_NAME[name], count) for name, count, offset in entries])
    with pytest.raises(CheckFailed, match=r"holds 1 blobs that no constant refers to, one at 64"):
        file.check_unused([file.find(offset, BY_NAME[name], count) for name, count, offset in entries[1:]])


@pytest.mark.parametrize("name", BY_HAND)
def test_types_that_coremltools_does_not_write(tmp_path: Path, name: str) -> None:
    code, dtype = BY_HAND[name]
    expected = np.linspace(-3, 3, 13).astype(dtype)
    (tmp_path / "weight.bin").write_bytes(blob_file([(code, expected.tobytes())]))
    found = read(Blobs(tmp_path / "weight.bin"), 64, name, 13)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))


def test_every_blob_type_is_an_element_type() -> None:
    assert set(blobs._BLOB_TYPES.values()) == {*WRITERS, *BY_HAND}


def test_whole_bytes_are_not_copied(written: tuple[Path, list[tuple[str, int, int]]]) -> None:
    path, entries = written
    file = Blobs(path)
    offset = next(place for name, count, place in entries if (name, count) == ("float32", 131))
    assert np.shares_memory(read(file, offset, "float32", 131), file.mapped)


@pytest.mark.parametrize("name", ["uint1", "uint2", "uint3", "uint4", "uint6"])
def test_narrow_numbers_are_packed_from_the_lowest_bit(name: str) -> None:
    bits = BY_NAME[name].bits
    numbers = values(name, 29)
    whole = sum(int(number) << (index * bits) for index, number in enumerate(numbers))
    data = np.frombuffer(whole.to_bytes(-(-29 * bits // 8), "little"), np.uint8)
    np.testing.assert_array_equal(unpack(data, BY_NAME[name], 29), numbers)


def test_any_flipped_bit_outside_of_the_data_is_noticed(tmp_path: Path) -> None:
    """Those of the data change a value, which is compared elsewhere; the unused bits of a last byte are not data."""
    content = blob_file([(12, bytes((0xD1, 0x0B))), (1, np.ones(3, np.float16).tobytes()), (2, bytes(8))])
    content = bytearray(content)
    content[64 + 24] = 1  # 15 of 16 bits are used

    def check() -> None:
        (tmp_path / "weight.bin").write_bytes(content)
        file = Blobs(tmp_path / "weight.bin")
        places = ((64, "uint3", 5), (192, "float16", 3), (320, "float32", 2))
        file.check_unused([file.find(offset, BY_NAME[name], count) for offset, name, count in places])

    check()
    data = {bit for start, bits in ((128, 15), (256, 48), (384, 64)) for bit in range(start * 8, start * 8 + bits)}
    for bit in range(len(content) * 8):
        if bit not in data:
            content[bit // 8] ^= 1 << bit % 8
            with pytest.raises((CheckFailed, UnreadableArtifact), match=r"weight\.bin"):
                check()
            content[bit // 8] ^= 1 << bit % 8


def test_a_file_that_goes_on_is_damaged(tmp_path: Path) -> None:
    content = blob_file([(2, bytes(8))])
    (tmp_path / "weight.bin").write_bytes(content + bytes(56))
    file = Blobs(tmp_path / "weight.bin")
    file.check_unused([file.find(64, BY_NAME["float32"], 2)])  # zeros up to the next boundary are no data
    (tmp_path / "weight.bin").write_bytes(content + bytes(57))
    with pytest.raises(UnreadableArtifact, match="goes on after the last of its 1 blobs"):
        Blobs(tmp_path / "weight.bin").find(64, BY_NAME["float32"], 2)


def test_a_place_says_where_the_data_lie(tmp_path: Path) -> None:
    path = tmp_path / "weight.bin"
    path.write_bytes(blob_file([(12, bytes((0xD1, 0x0B)))]))
    assert Blobs(path).find(64, BY_NAME["uint3"], 5) == Place(path, offset=64, start=128, size=2, bits=15)
