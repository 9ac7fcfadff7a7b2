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

from tests.vitedge.images.specs import make_spec
from vitedge.errors import BadImages
from vitedge.images.arrays import ArrayFile
from vitedge.images.image_set import load
from vitedge.images.preprocess import as_image, prepare_image

SPEC = make_spec((32, 32))
PIXELS = np.random.default_rng(0).integers(0, 255, (12, 40, 36, 3), np.uint8)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW"])
def test_every_layout_gives_the_same_images(tmp_path: Path, suffix: str, layout: str) -> None:
    array = {"NHWC": PIXELS, "NCHW": np.ascontiguousarray(PIXELS.transpose(0, 3, 1, 2)), "NHW": PIXELS[..., 0].copy()}
    path = tmp_path / f"set{suffix}"
    if suffix == ".npy":
        np.save(path, array[layout])
    else:
        np.savez_compressed(path, images=array[layout])
    found = load(path, SPEC, 5, seed=2)
    chosen = [int(name.split()[1]) for name in found.names]
    assert len(set(chosen)) == 5
    for index, pixels in zip(chosen, found.pixels, strict=True):
        element = PIXELS[index] if layout != "NHW" else PIXELS[index, ..., 0]
        assert np.array_equal(pixels, prepare_image(as_image(element), SPEC))
    assert "5 of 12" in found.source
    assert found.labels == ()


def test_labels_follow_their_images(tmp_path: Path) -> None:
    labels = np.arange(100, 112, dtype=np.int16)
    np.savez(tmp_path / "set.npz", images=PIXELS, labels=labels)
    found = load(tmp_path / "set.npz", SPEC, 7)
    assert found.labels == tuple(100 + int(name.split()[1]) for name in found.names)
    everything = load(tmp_path / "set.npz", SPEC, 99)
    assert everything.labels == tuple(range(100, 112))


def test_one_array_of_another_name_is_taken(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x_test=PIXELS, labels=np.arange(12))
    assert load(tmp_path / "one.npz", SPEC, 3).pixels.shape == (3, 3, 32, 32)
    np.savez(tmp_path / "two.npz", x_test=PIXELS, x_train=PIXELS)
    with pytest.raises(BadImages, match="'images'"):
        load(tmp_path / "two.npz", SPEC, 3)


@pytest.mark.parametrize(
    "array",
    [
        PIXELS.astype(np.float32),
        PIXELS[0, 0],
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((4, 8, 8, 5), np.uint8),
        np.asfortranarray(PIXELS),
        np.array([{"a": 1}], dtype=object),
    ],
    ids=["float", "two axes", "empty", "five channels", "Fortran", "objects"],
)
def test_what_is_no_array_of_images_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    with pytest.raises(BadImages, match=r"bad\.npy"):
        load(tmp_path / "bad.npy", SPEC, 4)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("keep", [0, 3, 60, 0.5, 0.97])
def test_a_file_cut_short_is_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"set{suffix}"
    np.save(path, PIXELS) if suffix == ".npy" else np.savez(path, images=PIXELS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(BadImages, match=r"set\.np"):
        load(path, SPEC, 12)


@pytest.mark.parametrize("text", ["{[]: 1}", "(" * 9000, "'''", "{'descr': '<q9'}"])
def test_a_header_of_nonsense_is_one_short_sentence(tmp_path: Path, text: str) -> None:
    content = npy_format.magic(1, 0) + struct.pack("<H", len(text)) + text.encode()
    (tmp_path / "bad.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("images.npy", content)
    for name in ("bad.npy", "bad.npz"):
        with pytest.raises(BadImages, match="its header") as caught:
            load(tmp_path / name, SPEC, 4)
        said = str(caught.value).replace(str(tmp_path), "")
        assert len(said) < 200
        assert len(said.splitlines()) == 1


def test_a_header_that_expands_does_not_eat_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", npy_format.magic(2, 0) + struct.pack("<I", 2**26) + b" " * 2**26)
    tracemalloc.start()
    with pytest.raises(BadImages, match="its header"):
        load(tmp_path / "bomb.npz", SPEC, 4)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_labels_cut_short_are_refused(tmp_path: Path) -> None:
    labels = io.BytesIO()
    np.save(labels, np.arange(len(PIXELS)))
    np.savez(tmp_path / "set.npz", images=PIXELS)
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.writestr("labels.npy", labels.getvalue()[:-8])
    with ArrayFile(tmp_path / "set.npz") as file, pytest.raises(BadImages, match=r"labels of .* cut short"):
        file.labels()


def test_a_lying_header_does_not_eat_memory(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (9000000, 4000, 4000, 3), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 1000
    (tmp_path / "lie.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.writestr("images.npy", content)
    tracemalloc.start()
    for name in ("lie.npy", "lie.npz"):
        with pytest.raises(BadImages, match="cut short"):
            load(tmp_path / name, SPEC, 4)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_memory_is_that_of_one_image(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "large.npz", images=np.zeros((800, 256, 256, 3), np.uint8))
    tracemalloc.start()
    found = load(tmp_path / "large.npz", SPEC, 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.pixels.shape == (8, 3, 32, 32)
    assert peak < 60e6  # the whole array has 157 MB


@pytest.mark.parametrize("labels", [np.zeros(5, np.int64), np.zeros(12, np.float32), np.zeros((12, 1), np.int64)])
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "set.npz", images=PIXELS, labels=labels)
    with pytest.raises(BadImages, match="labels"):
        load(tmp_path / "set.npz", SPEC, 4)
