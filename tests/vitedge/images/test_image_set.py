# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.vitedge.images.specs import make_spec
from vitedge.errors import BadImages, BadRecipe
from vitedge.images.image_set import load
from vitedge.images.preprocess import prepare_image
from vitedge.images.synthetic import synthesize

SPEC = make_spec((32, 32))


def write_images(folder: Path, names: list[str], size: tuple[int, int] = (48, 40)) -> None:
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 255, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)


def write_png_header(path: Path, width: int, height: int) -> None:
    """A PNG that says how large it is and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def test_synthetic_is_named_and_hashed() -> None:
    found = load("synthetic", SPEC, 4, seed=3)
    assert np.array_equal(found.pixels, synthesize(4, 32, 32, 3))
    assert found.source == "synthetic, seed 3"
    assert found.names == ("synthetic 0", "synthetic 1", "synthetic 2", "synthetic 3")
    assert found.sha256 == hashlib.sha256(found.pixels.tobytes()).hexdigest()
    assert load("synthetic", make_spec((32, 32), channels=1), 4).pixels.shape == (4, 1, 32, 32)


def test_folder_is_searched_with_its_sub_folders(tmp_path: Path) -> None:
    kinds = ["a.jpg", "b.PNG", "cats/c.webp", "cats/d.bmp", "dogs/old/e.tiff", "dogs/f.jpeg"]
    write_images(tmp_path, kinds)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "cats" / "._c.jpg").write_bytes(b"a note of another system")
    found = load(tmp_path, SPEC, 100)
    assert sorted(found.names) == sorted(kinds)
    assert found.pixels.shape == (6, 3, 32, 32)
    assert found.skipped == {}
    assert str(tmp_path) in found.source
    assert "6 of 6" in found.source
    for name, pixels in zip(found.names, found.pixels, strict=True):
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(pixels, prepare_image(image, SPEC))


def test_choice_is_spread_and_repeatable(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{kind}/{index}.png" for kind in "abcd" for index in range(20 if kind == "a" else 4)])
    first, again, other = load(tmp_path, SPEC, 8), load(tmp_path, SPEC, 8), load(tmp_path, SPEC, 8, seed=1)
    assert sorted(name[0] for name in first.names) == list("aabbccdd")
    assert first.names == again.names
    assert first.sha256 == again.sha256
    assert set(first.names) != set(other.names)
    assert load(tmp_path, SPEC, 4).names == first.names[:4]


def test_folders_linked_in_a_circle_end(tmp_path: Path) -> None:
    write_images(tmp_path / "data", ["a/x.png"])
    write_images(tmp_path / "elsewhere", ["y.png"])
    (tmp_path / "data" / "a" / "again").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    assert sorted(load(tmp_path / "data", SPEC, 10).names) == ["a/x.png", "linked/y.png"]


def test_corrupt_images_are_named_skipped_and_replaced(tmp_path: Path) -> None:
    names = [f"{index:02}.jpg" for index in range(42)]
    write_images(tmp_path, names)
    (tmp_path / "03.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    whole = (tmp_path / "17.jpg").read_bytes()
    (tmp_path / "17.jpg").write_bytes(whole[: len(whole) // 2])
    found = load(tmp_path, SPEC, 38)
    assert len(found.names) == 38
    assert set(found.skipped) <= {"03.jpg", "17.jpg"}
    everything = load(tmp_path, SPEC, 1000, seed=1)
    assert set(everything.skipped) == {"03.jpg", "17.jpg"}
    assert "not an image" in everything.skipped["03.jpg"]
    assert "truncated" in everything.skipped["17.jpg"]


def test_one_corrupt_image_is_forgiven_in_a_small_set(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "b.png").write_bytes(b"")
    found = load(tmp_path, SPEC, 3)
    assert sorted(found.names) == ["a.png", "c.png"]
    assert list(found.skipped) == ["b.png"]


def test_many_corrupt_images_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{index:02}.png" for index in range(20)])
    (tmp_path / "04.png").write_bytes(b"broken")
    (tmp_path / "11.png").write_bytes(b"broken")
    with pytest.raises(BadImages, match=r"2 of the first \d+ images .* 5%.*(04|11)\.png"):
        load(tmp_path, SPEC, 20)


def test_nothing_readable_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(BadImages, match=r"No image of .* can be read; a\.png"):
        load(tmp_path, SPEC, 4)
    with pytest.raises(BadImages, match=r"No image of .* can be read; a\.png"):
        load(tmp_path / "a.png", SPEC, 4)


def test_a_folder_full_of_rubbish_is_given_up_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    genuine = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or genuine(path))
    for index in range(200):
        (tmp_path / f"{index}.png").write_bytes(b"broken")
    with pytest.raises(BadImages, match="first"):
        load(tmp_path, SPEC, 16)
    assert len(opened) < 5


@pytest.mark.parametrize(("width", "height"), [(12_000, 12_000), (60_000, 60_000)])
def test_bombs_are_skipped_without_memory_or_warning(tmp_path: Path, width: int, height: int) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    write_png_header(tmp_path / "bomb.png", width, height)
    tracemalloc.start()
    found = load(tmp_path, SPEC, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "decompression bomb" in found.skipped["bomb.png"]
    assert len(found.names) == 2
    assert peak < 20e6


def test_one_image(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    found = load(str(tmp_path / "a.png"), SPEC, 16)
    assert found.pixels.shape == (1, 3, 32, 32)
    assert found.names == ("a.png",)


def test_photographs_with_odd_metadata_are_quiet(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 10, 10)).save(buffer, "TIFF")
    (tmp_path / "odd.tif").write_bytes(buffer.getvalue()[:-3])
    palette = Image.new("P", (40, 40))
    palette.putpalette(range(256))
    palette.save(tmp_path / "palette.png", transparency=bytes(range(8)))
    found = load(tmp_path, SPEC, 2)
    assert "palette.png" in found.names


@pytest.mark.parametrize("source", ["nowhere", "nowhere/images.npz", "two\nlines"])
def test_a_missing_source_is_one_sentence(source: str) -> None:
    with pytest.raises(BadImages, match="synthetic"):
        load(source, SPEC, 4)


def test_an_empty_folder_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadImages, match="holds no images"):
        load(tmp_path, SPEC, 4)
    (tmp_path / "list.csv").write_text("a,b")
    with pytest.raises(BadImages, match="is no image"):
        load(tmp_path / "list.csv", SPEC, 4)


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(BadRecipe, match="at least 1"):
        load("synthetic", SPEC, 0)
    with pytest.raises(BadImages, match="GiB"):
        load("synthetic", SPEC, 10**9)
