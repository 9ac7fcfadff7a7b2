# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from platformdirs.macos import MacOS
from platformdirs.unix import Unix

from tests.vitedge.images.specs import make_spec
from vitedge.calibration import cache as module
from vitedge.calibration.cache import Cache, Observed, find_folder, hash_key, resumable
from vitedge.calibration.observations import SAMPLED_VALUES, Stats
from vitedge.errors import BadImages, OutputRefused, UnusableActivations
from vitedge.images.stream import ImageStream, open_images
from vitedge.progress import reporting, stage
from vitedge.stopping import kept

SPEC = make_spec((16, 16))
KEY = hash_key({"weights": "a", "images": "b"})
PIXELS = np.random.default_rng(0).integers(0, 255, (24, 16, 16, 3), np.uint8)
WEIGHT = torch.randn(192, 4096, generator=torch.Generator().manual_seed(0))


def observe(pixels: np.ndarray, stats: dict[str, Stats]) -> None:
    """Two layers: patches to tokens, and one with more rows than are kept."""
    patches = torch.from_numpy(pixels).float().unfold(2, 8, 8).unfold(3, 8, 8)
    tokens = patches.permute(0, 2, 3, 1, 4, 5).reshape(len(pixels), 4, 192) / 255
    stats.setdefault("embed", Stats()).update(tokens)
    stats.setdefault("wide", Stats()).update((tokens @ WEIGHT).repeat(1, 4, 1))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    np.save(tmp_path / "images.npy", PIXELS)
    return tmp_path / "images.npy"


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is saved after every batch."""
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(module, "SAVE_SHARE", 0)


def stream_of(images: Path, count: int = 22) -> ImageStream:
    return open_images(images, SPEC, count)


def walk(images: Path, folder: Path, step: Callable[..., None] = observe) -> tuple[Observed, list[str]]:
    lines: list[str] = []
    with reporting(lines.append), stage("calibrating"):
        return resumable(stream_of(images), KEY, 4, step, Cache(folder)), lines


def stopping_at(batch: int) -> Callable[..., None]:
    """Dies amid the batch of that number, after one of its layers was observed."""
    seen = []

    def step(pixels: np.ndarray, stats: dict[str, Stats]) -> None:
        seen.append(len(pixels))
        if len(seen) > batch:
            stats["embed"].update(torch.randn(4, 4, 192))
            raise KeyboardInterrupt
        observe(pixels, stats)

    return step


def assert_same(one: Observed, other: Observed) -> None:
    assert (one.images, one.sha256, dict(one.skipped), one.complete) == (
        other.images,
        other.sha256,
        dict(other.skipped),
        other.complete,
    )
    assert list(one.stats) == list(other.stats)
    for name, stats in one.stats.items():
        kept = other.stats[name].to_arrays()
        for key, array in stats.to_arrays().items():
            assert np.array_equal(array, kept[key]), (name, key)


def test_the_folder_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert find_folder() == Cache().folder == tmp_path / "calibration"


def test_the_folder_is_otherwise_in_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for unset in ("VITEDGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(unset, raising=False)
    for platform, place in ((Unix, ".cache"), (MacOS, "Library/Caches")):
        monkeypatch.setattr(platformdirs, "PlatformDirs", platform)
        assert find_folder() == Path.home() / place / "vitedge" / "calibration"
    monkeypatch.setattr(platformdirs, "PlatformDirs", Unix)
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert find_folder() == Path("/b/vitedge/calibration")


def test_keys_tell_every_part_apart() -> None:
    parts = {"weights": "a", "images": "b"}
    keys = {hash_key(other) for other in (parts, {**parts, "weights": "c"}, {**parts, "x": ""}, {"weightsa": "images"})}
    assert len(keys) == 4
    assert hash_key(dict(reversed(parts.items()))) == hash_key(parts)


def test_a_finished_walk_is_not_repeated(images: Path, tmp_path: Path) -> None:
    first, lines = walk(images, tmp_path / "cache")
    assert first.complete
    assert first.images == 22
    whole = stream_of(images)
    assert len(np.concatenate(list(whole.batches(5)))) == 22
    assert first.sha256 == whole.sha256
    assert lines == ["calibrating …"]
    again, lines = walk(images, tmp_path / "cache", lambda *_: pytest.fail("walked again"))
    assert_same(again, first)
    assert lines[1:] == [f"calibration: 22 images, from {tmp_path / 'cache'}"]
    assert list((tmp_path / "cache").iterdir()) == [tmp_path / "cache" / f"{KEY}.npz"]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_an_interrupted_walk_goes_on_to_the_same_result(images: Path, tmp_path: Path, stop: int) -> None:
    whole, _ = walk(images, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        walk(images, tmp_path / "cache", stopping_at(stop))
    rest: list[int] = []

    def step(pixels: np.ndarray, stats: dict[str, Stats]) -> None:
        rest.append(len(pixels))
        observe(pixels, stats)

    resumed, lines = walk(images, tmp_path / "cache", step)
    assert_same(resumed, whole)
    assert sum(rest) == 22 - 4 * stop
    assert lines[1] == f"calibration: goes on after image {4 * stop} of 22"
    assert kept() == ("the calibration of 22 images; the same command goes on from there.",)


@pytest.mark.usefixtures("eager")
def test_interruptions_may_follow_one_another(images: Path, tmp_path: Path) -> None:
    for stop in (2, 0, 1, 2):
        with pytest.raises((KeyboardInterrupt, KeyError)):
            walk(images, tmp_path / "cache", stopping_at(stop))
    assert_same(walk(images, tmp_path / "cache")[0], walk(images, tmp_path / "whole")[0])


@pytest.mark.usefixtures("eager")
def test_other_images_under_the_same_key_are_walked_from_the_start(images: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        walk(images, tmp_path / "cache", stopping_at(3))
    np.save(images, PIXELS[::-1])
    found, lines = walk(images, tmp_path / "cache")
    assert_same(found, walk(images, tmp_path / "whole")[0])
    assert not any("goes on" in line for line in lines)


def test_without_time_for_it_nothing_is_saved_before_the_end(images: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        walk(images, tmp_path / "cache", stopping_at(3))
    assert not (tmp_path / "cache").exists()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "foreign": lambda _: b"not an archive",
    "cut short": lambda whole: whole[: len(whole) // 2],
    "without its end": lambda whole: whole[:-30],
    "one bit": lambda whole: whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
    "another layout": lambda whole: whole.replace(b'"layout": %d' % module.LAYOUT, b'"layout": 0'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_ignored_and_written_anew(images: Path, tmp_path: Path, damage: str) -> None:
    whole, _ = walk(images, tmp_path / "cache")
    path = tmp_path / "cache" / f"{KEY}.npz"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert Cache(tmp_path / "cache").read(KEY) is None
    assert_same(walk(images, tmp_path / "cache")[0], whole)
    kept = Cache(tmp_path / "cache").read(KEY)
    assert kept is not None
    assert_same(kept, whole)


def test_arrays_of_something_else_are_no_entry(tmp_path: Path) -> None:
    for arrays in ({"x": np.zeros(3)}, {"about": np.frombuffer(b"[1]", np.uint8)}, {"about": np.zeros(2)}):
        np.savez(tmp_path / f"{KEY}.npz", **arrays)
        assert Cache(tmp_path).read(KEY) is None


def test_old_entries_make_room(tmp_path: Path) -> None:
    stats = Stats()
    stats.update(torch.randn(1, SAMPLED_VALUES // 64, 64))
    observed = Observed({"x": stats}, 1, "")
    cache = Cache(tmp_path, limit=5 * 2**20)  # two entries of 2 MiB
    for place, key in enumerate("abcd"):
        cache.write(key, observed)
        os.utime(tmp_path / f"{key}.npz", (place, place))
        if key == "c":
            assert cache.read("b") is not None  # used again, so kept
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["b", "d"]
    Cache(tmp_path, limit=1).write("e", observed)
    assert [path.stem for path in tmp_path.iterdir()] == ["e"]


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    (tmp_path / "file").write_text("in the way")
    found, lines = walk(images, tmp_path / "file" / "cache")
    assert found.complete
    assert_same(found, walk(images, tmp_path / "whole")[0])
    told = [line for line in lines if "not cached" in line]
    assert len(told) == 1
    with pytest.raises(OutputRefused, match="cannot be written"):
        Cache(tmp_path / "file" / "cache").write(KEY, found)


@pytest.mark.usefixtures("eager")
def test_activations_that_are_not_finite_stop_the_walk_with_the_layers_name(images: Path, tmp_path: Path) -> None:
    batches = []

    def step(pixels: np.ndarray, stats: dict[str, Stats]) -> None:
        batches.append(len(pixels))
        observe(pixels, stats)
        poison = float("nan") if len(batches) == 3 else 1.0
        stats["embed"].update(torch.full((4, 4, 192), poison))

    with pytest.raises(UnusableActivations, match="embed computes NaN or infinity"):
        walk(images, tmp_path / "cache", step)
    assert len(batches) == 3
    kept = Cache(tmp_path / "cache").read(KEY)
    assert kept is not None
    assert (kept.images, kept.complete) == (8, False)


def test_corrupt_images_are_in_the_record_also_from_the_cache(tmp_path: Path) -> None:
    from PIL import Image  # noqa: PLC0415

    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(24):
        Image.fromarray(PIXELS[index]).save(folder / f"{index:02}.png")
    (folder / "07.png").write_bytes(b"broken")
    for _ in range(2):
        found, _ = walk(folder, tmp_path / "cache")
        assert dict(found.skipped) in ({}, {"07.png": "not an image of a known kind, or damaged"})
    everything = resumable(open_images(folder, SPEC, 24), "other", 5, observe, Cache(tmp_path / "cache"))
    assert (everything.images, list(everything.skipped)) == (23, ["07.png"])
    (folder / "08.png").write_bytes(b"broken")
    with pytest.raises(BadImages, match=r"2 of the first"):
        resumable(open_images(folder, SPEC, 24), "third", 5, observe, Cache(tmp_path / "cache"))


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.tile(PIXELS, (16, 1, 1, 1)))

    def peak(count: int) -> int:
        tracemalloc.start()
        resumable(stream_of(tmp_path / "many.npy", count), str(count), 4, observe, Cache(tmp_path / "cache"))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(48)
    assert peak(384) < 1.05 * peak(48)
