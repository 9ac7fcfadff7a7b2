# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy_format

from vitedge.files.npy import read_header, write_npz

ARRAYS = {
    "images": np.zeros((2, 4, 4, 3), np.uint8),
    "one number": np.array(1.5),
    "nothing": np.zeros((0, 3), np.int64),
    "the other order of bytes": np.zeros((3, 2), ">f4"),
    "columns first": np.asfortranarray(np.zeros((3, 2), np.float32)),
    "bfloat16 as JAX saves it": np.zeros((3, 2), "V2"),
    "fields": np.zeros(3, [("a", "<f4"), ("b", "u1", (2,))]),
}


def saved(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    npy_format.write_array(file, array, version)
    return file.getvalue()


def written(header: str, version: tuple[int, int] = (1, 0), claimed: int | None = None) -> bytes:
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header) if claimed is None else claimed)
    return npy_format.magic(*version) + length + header.encode("latin1")


def described(shape: object, descr: object = "<f4", *, fortran_order: object = False) -> str:
    return str({"descr": descr, "fortran_order": fortran_order, "shape": shape})


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("name", ARRAYS)
def test_a_header_says_what_was_saved(name: str, version: tuple[int, int]) -> None:
    array = ARRAYS[name]
    content = saved(array, version)
    file = io.BytesIO(content)
    header = read_header(file)
    assert (header.shape, header.dtype) == (array.shape, array.dtype)
    assert header.fortran_order == (array.ndim > 1 and not array.flags.c_contiguous)
    assert header.file_size == len(content)
    assert file.tell() == header.start == len(content) - array.nbytes


def test_a_pickle_is_known_and_not_read() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    file.seek(0)
    assert read_header(file).dtype.hasobject


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_of_an_archive_is_left_at_its_first_element(tmp_path: Path, compression: int) -> None:
    array = np.arange(200_000, dtype=np.uint32)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive:
        archive.writestr("a.npy", saved(array))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive, archive.open("a.npy") as file:
        assert read_header(file).file_size == archive.getinfo("a.npy").file_size
        assert np.array_equal(np.frombuffer(file.read(), np.uint32), array)


@pytest.mark.parametrize("length", range(len(saved(ARRAYS["images"])) - ARRAYS["images"].nbytes))
def test_a_header_cut_short_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"cut short|begin"):
        read_header(io.BytesIO(saved(ARRAYS["images"])[:length]))


HOSTILE = {
    "another file": b"\x89PNG\r\n\x1a\n" + bytes(1000),
    "a format to come": written(described((1,)), (9, 9)),
    "names in Unicode": written(described((1,)), (3, 0)),
    "code": written("__import__('os').system('true')"),
    "nested too deep": written("(" * 9000),
    "nested too deep for Python": written("-" * 9000 + "1"),
    "no end": written("'''"),
    "indented": written("{\n  1:\n 2"),
    "a key that is a list": written("{[]: 1}"),
    "a null": written("\0"),
    "another key": written("{'shape': (1,)}"),
    "no shape": written(described(3)),
    "a shape of texts": written(described(("6", 10))),
    "a shape of truths": written(described((True, 10))),
    "a shape below zero": written(described((-2, -5))),
    "a shape beyond all memory": written(described((0, 10**3000))),
    "an unknown type": written(described((1,), "<q9")),
    "a type that is a number": written(described((1,), 7)),
    "a type too large": written(described((1,), "S99999999999999999999")),
    "an unknown order": written(described((1,), fortran_order="no")),
    "more text than NumPy reads": written(described((1,)) + " " * 20_000),
    "gigabytes of text": written(described((1,)), (2, 0), claimed=2**32 - 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_one_short_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read_header(io.BytesIO(HOSTILE[name]))
    assert len(str(caught.value)) < 100
    assert len(str(caught.value).splitlines()) == 1


def test_a_header_that_expands_is_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", written(" " * 2**26, (2, 0)))
    tracemalloc.start()
    archive = zipfile.ZipFile(tmp_path / "bomb.npz")
    with archive, archive.open("a.npy") as file, pytest.raises(ValueError, match="cut short"):
        read_header(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive_holds_what_was_given_and_nothing_else(compressed: bool, tmp_path: Path) -> None:
    given = {"images": ARRAYS["images"], "output.logits": np.float32([[1, 2]])}
    write_npz(tmp_path / "a.npz", given, compressed=compressed)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert {name: values.tolist() for name, values in found.items()} == {
            name: values.tolist() for name, values in given.items()
        }
    (np.savez_compressed if compressed else np.savez)(tmp_path / "b.npz", **given)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with pytest.raises(ValueError, match="Object arrays"):
        write_npz(tmp_path / "a.npz", {"objects": np.array([{}])})
