# SPDX-License-Identifier: Apache-2.0
"""Tests of `stream` and of the `sources` that it reads."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.vitedge.images.specs import make_spec
from vitedge.errors import BadImages
from vitedge.images.image_set import load
from vitedge.images.stream import ImageStream, open_images

SPEC = make_spec((32, 32))
PIXELS = np.random.default_rng(0).integers(0, 255, (12, 40, 36, 3), np.uint8)
SOURCES = ["folder", "list.txt", "one.png", "set.npy", "set.npz", "synthetic"]


def write_images(folder: Path, names: list[str]) -> None:
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(index).integers(0, 255, (40, 48, 3), np.uint8)).save(folder / name)


def make_source(tmp_path: Path, kind: str) -> str:
    if kind == "folder":
        write_images(tmp_path / "folder", [f"{place}/{index}.png" for place in "ab" for index in range(6)])
    elif kind == "list.txt":
        names = [f"below/{place}/{index}.png" for place in "ab" for index in range(6)]
        write_images(tmp_path, names)
        (tmp_path / kind).write_text("\n".join(names))
    elif kind == "one.png":
        write_images(tmp_path, [kind])
    elif kind == "set.npy":
        np.save(tmp_path / kind, PIXELS)
    elif kind == "set.npz":
        np.savez_compressed(tmp_path / kind, images=PIXELS, labels=np.arange(12))
    return kind if kind == "synthetic" else str(tmp_path / kind)


def gathered(stream: ImageStream, size: int, start: int = 0) -> np.ndarray:
    return np.concatenate(list(stream.batches(size, start)))


@pytest.mark.parametrize("kind", SOURCES)
def test_stream_and_load_give_the_same_images(tmp_path: Path, kind: str) -> None:
    source = make_source(tmp_path, kind)
    whole = load(source, SPEC, 10, seed=3)
    for size in (1, 4, 64):
        stream = open_images(source, SPEC, 10, seed=3)
        batches = list(stream.batches(size))
        assert np.array_equal(np.concatenate(batches), whole.pixels)
        assert all(len(batch) == size for batch in batches[:-1])
        assert (stream.names, stream.labels, stream.sha256) == (whole.names, whole.labels, whole.sha256)
        assert stream.describe() == whole.source
        assert stream.read == stream.count == len(whole.names)
    assert whole.sha256 == hashlib.sha256(whole.pixels.tobytes()).hexdigest()


@pytest.mark.parametrize("kind", SOURCES)
def test_a_stream_restarts_anywhere(tmp_path: Path, kind: str) -> None:
    source = make_source(tmp_path, kind)
    whole = load(source, SPEC, 10)
    for start in {0, len(whole.names) // 2, len(whole.names) - 1}:
        fresh = open_images(source, SPEC, 10)
        for _ in range(2):  # before and after everything was read
            assert np.array_equal(gathered(fresh, 4, start), whole.pixels[start:])
            assert fresh.sha256 == whole.sha256
            assert fresh.names == whole.names
    assert list(open_images(source, SPEC, 10).batches(4, start=10**6)) == []


def test_two_walks_do_not_disturb_one_another(tmp_path: Path) -> None:
    source = make_source(tmp_path, "set.npz")
    whole, stream = load(source, SPEC, 10), open_images(source, SPEC, 10)
    first, second = stream.batches(2), stream.batches(3, start=1)
    seen = [next(first), next(second), next(second), next(first), next(first)]
    assert np.array_equal(np.concatenate([seen[0], seen[3], seen[4]]), whole.pixels[:6])
    assert np.array_equal(np.concatenate(seen[1:3]), whole.pixels[1:7])
    assert np.array_equal(gathered(stream, 5), whole.pixels)
    assert stream.sha256 == whole.sha256


def test_corrupt_images_are_named_and_replaced_wherever_it_starts(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{index:02}.png" for index in range(42)])
    (tmp_path / "03.png").write_bytes(b"broken")
    (tmp_path / "17.png").unlink()
    (tmp_path / "17.png").symlink_to("nowhere.png")
    whole = load(tmp_path, SPEC, 40)
    stream = open_images(tmp_path, SPEC, 40)
    assert np.array_equal(gathered(stream, 8, start=30), whole.pixels[30:])
    assert dict(stream.skipped) == dict(whole.skipped)
    assert stream.skipped == {
        "03.png": "not an image of a known kind, or damaged",
        "17.png": "no such file or directory",
    }
    assert stream.read == stream.count == 40


def test_too_many_corrupt_images_end_the_stream(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{index:02}.png" for index in range(30)])
    for index in (4, 11, 20):
        (tmp_path / f"{index:02}.png").write_bytes(b"broken")
    stream = open_images(tmp_path, SPEC, 30)
    with pytest.raises(BadImages, match=r"of the first \d+ images .* 5%.*\.png: not an image"):
        list(stream.batches(4))


def test_an_image_that_changes_under_the_stream_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    stream = open_images(tmp_path, SPEC, 2)
    gathered(stream, 2)
    (tmp_path / "b.png").write_bytes(b"broken")
    with pytest.raises(BadImages, match=r"b\.png of .* could be read before and cannot now"):
        gathered(stream, 2)


def test_too_few_images_are_told(tmp_path: Path) -> None:
    source = make_source(tmp_path, "folder")
    stream = open_images(source, SPEC, 100)
    assert (stream.asked, stream.found, stream.count) == (100, 12, 12)
    assert stream.shortage == f"100 images were asked for, and only 12 can be taken of {stream.describe()}."
    assert load(source, SPEC, 100).shortage == stream.shortage
    assert open_images(source, SPEC, 12).shortage == load(source, SPEC, 12).shortage == ""
    write_images(tmp_path / "folder", ["a/0.png"])
    (tmp_path / "folder" / "b" / "1.png").write_bytes(b"broken")
    short = open_images(source, SPEC, 12)
    gathered(short, 4)
    assert "only 11" in short.shortage
    assert "only 11" in load(source, SPEC, 12).shortage


def test_a_list_names_images_relative_to_itself(tmp_path: Path) -> None:
    write_images(tmp_path, ["here.png", "below/there.png", "elsewhere/far.png", "not/listed.png"])
    (tmp_path / "lists").mkdir()
    lines = ["../here.png", "", "  ../below/there.png\r", f"{tmp_path}/elsewhere/far.png", "../here.png"]
    (tmp_path / "lists" / "set.txt").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    found = load(tmp_path / "lists" / "set.txt", SPEC, 9)
    assert sorted(found.names) == sorted(["../here.png", "../below/there.png", f"{tmp_path}/elsewhere/far.png"])
    assert "3 of 3" in found.source


def test_a_list_is_drawn_from_as_its_folder_is(tmp_path: Path) -> None:
    source = Path(make_source(tmp_path, "folder"))
    names = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*.png"))]
    (source / "all.txt").write_text("\n".join(names))
    assert load(source / "all.txt", SPEC, 5, seed=4).names == load(source, SPEC, 5, seed=4).names


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_list_of_nothing_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "empty.txt").write_bytes(content)
    with pytest.raises(BadImages, match=r"empty\.txt names no images"):
        open_images(tmp_path / "empty.txt", SPEC, 4)


@pytest.mark.parametrize("content", [b"nowhere.png", b"\x00\x01\xff\xfe", b"/"])
def test_a_list_that_names_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "wrong.txt").write_bytes(content)
    with pytest.raises(BadImages, match=r"No image of .*wrong\.txt.* can be read"):
        load(tmp_path / "wrong.txt", SPEC, 4)


def test_the_fingerprint_is_of_the_contents_and_decodes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(make_source(tmp_path, "folder"))

    def print_of(count: int, seed: int = 0) -> str:
        return open_images(source, SPEC, count, seed).fingerprint()

    drawn = load(source, SPEC, 4).names
    undrawn = load(source, SPEC, 12).names[-1]
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("decoded"))
    first = print_of(4)
    assert first == print_of(4)
    assert len({first, print_of(5), print_of(4, seed=1)}) == 3
    (source / undrawn).write_bytes(b"other")
    assert print_of(4) == first
    (source / drawn[2]).write_bytes((source / drawn[2]).read_bytes() + b"\0")
    assert print_of(4) != first


@pytest.mark.parametrize("kind", ["set.npz", "synthetic"])
def test_the_fingerprint_tells_arrays_and_seeds_apart(tmp_path: Path, kind: str) -> None:
    source = make_source(tmp_path, kind)
    prints = {open_images(source, SPEC, 4, seed).fingerprint() for seed in (0, 1, 1)}
    if kind == "set.npz":
        np.savez(source, images=PIXELS[::-1])
        prints.add(open_images(source, SPEC, 4).fingerprint())
    assert len(prints) == (3 if kind == "set.npz" else 2)


@pytest.mark.parametrize("kind", ["set.npy", "synthetic"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, kind: str) -> None:
    if kind == "set.npy":
        np.save(tmp_path / kind, np.zeros((300, 64, 64, 3), np.uint8))
    source = "synthetic" if kind == "synthetic" else str(tmp_path / kind)

    def peak(count: int) -> int:
        stream = open_images(source, make_spec((64, 64)), count)
        tracemalloc.start()
        for batch in stream.batches(4):
            assert batch.shape[1:] == (3, 64, 64)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = (30, 300) if kind == "set.npy" else (8, 16)
    peak(few)
    # A name and a place of each image are kept; its pixels are 12288 bytes.
    assert peak(many) < peak(few) + 400 * (many - few)


def test_impossible_batches_are_refused() -> None:
    stream = open_images("synthetic", SPEC, 2)
    for size, start in ((0, 0), (1, -1)):
        with pytest.raises(ValueError, match="a batch has at least one image"):
            next(stream.batches(size, start))
