# SPDX-License-Identifier: Apache-2.0
"""Mistakes in `quantize` end in one sentence and the right exit code; nothing is half-written or lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.bad_files import VIT, State, changed
from tests.vitedge.cli.command import Command, check_refusal
from tests.vitedge.quantization.captures import captured_once
from vitedge.calibration import cache
from vitedge.program.lockstep import PART
from vitedge.quantization import run
from vitedge.quantization.file.model import read_model

QUICK = tuple(
    f"-Q{setting}"
    for setting in ("smoothing=off", "equalization=off", "attention=none", "bias_correction=off", "ranges=minmax")
)
GOOD = 40
SEEN = ("--images", "synthetic", "--image-count", "8")


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with captured_once():
        yield


def write_images(folder: Path, good: int = GOOD, bad: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for index in range(good):
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{index:02}.png")
    for index in range(bad):
        (folder / f"broken{index}.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good images and one that cannot be read."""
    return write_images(tmp_path_factory.mktemp("images") / "set", bad=1)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_broken_image_is_named_skipped_and_counted(vitedge: Command, images: Path, tmp_path: Path) -> None:
    outcome = vitedge("quantize", VIT, "-o", tmp_path / "m.pt2", "--images", images, "--image-count", "41", *QUICK)
    assert outcome.code == 0
    assert outcome.sentence == ""
    # Of 41 that were asked for there are 40.
    assert "skipped: broken0.png: not an image of a known kind, or damaged" in outcome.out
    assert f"calibrated on {GOOD} images" in outcome.out
    assert f"vitedge export {tmp_path / 'm.pt2'}" in outcome.out
    written = read_model(tmp_path / "m.pt2")
    assert (written.record.images, list(written.record.skipped)) == (GOOD, ["broken0.png"])
    assert names(tmp_path) == ["m.pt2"]
    again = vitedge("quantize", VIT, "-o", tmp_path / "m.pt2", "--images", images)
    check_refusal(again, "m.pt2 is already there", "--force")


MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no images": ((), ("int8 finds the ranges of activations on images", "--images DIR")),
    "a layer that needs them": (("--scheme", "w8", "--layer", "head=int8"), ("--images DIR",)),
    "no such folder": (("--images", "{folder}/none"), ("There is no", "none")),
    "a folder without images": (("--images", "{folder}/empty"), ("empty holds no images",)),
    "too many that are broken": (("--images", "{folder}/broken"), ("cannot be read, which is more than 5%", "broken")),
    "an unknown layer": (
        ("--images", "synthetic", "--layer", "blocks.0.attn.qk=float"),
        ("'blocks.0.attn.qk'", "did you mean blocks.0.attn.qkv?"),
    ),
    "an unknown scheme": (("--images", "synthetic", "--scheme", "int7"), ("int8, int8-dynamic, w8",)),
    "an unknown scheme of a layer": (
        ("--images", "synthetic", "--layer", "head=int7"),
        ("no scheme of a layer 'int7'", "choose from float, int8"),
    ),
    "a layer without its scheme": (("--images", "synthetic", "--layer", "head"), ("NAME=VALUE", "'head'")),
    "an unknown setting": (("--images", "synthetic", "-Q", "nonsense=1"), ("no entry nonsense", "ranges")),
    "a block that is none": (("--images", "synthetic", "-Q", "block=24"), ("power of two from 16 up; got 24",)),
    "a block that is no number": (("--images", "synthetic", "-Q", "block=big"), ("block takes int; got 'big'",)),
    "ranges that are none": (("--images", "synthetic", "-Q", "ranges=wide"), ("'wide'", "auto", "minmax")),
    "a smoothing that is none": (("--images", "synthetic", "-Q", "smoothing=much"), ("on or off", "'much'")),
    "a setting without its value": (("--images", "synthetic", "-Q", "block"), ("NAME=VALUE",)),
    "a negative seed": (("--images", "synthetic", "--seed", "-1"), ("--seed", "-1")),
    "no image at all": (("--images", "synthetic", "--image-count", "0"), ("--image-count",)),
    "a budget without labels": (("--images", "synthetic", "--max-drop", "0.5"), ("--eval LABELLED_DIR",)),
    "labels that are not there": (
        ("--images", "synthetic", "--max-drop", "0.5", "--eval", "{folder}/empty"),
        ("empty",),
    ),
    "a checkpoint that is none": (("--images", "synthetic", "--weights", "ema"), ("ema",)),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_refused_and_nothing_is_lost(kind: str, vitedge: Command, tmp_path: Path) -> None:
    arguments, words = MISTAKES[kind]
    (tmp_path / "empty").mkdir()
    if kind == "too many that are broken":
        write_images(tmp_path / "broken", good=20, bad=6)
    (tmp_path / "m.pt2").write_bytes(b"the old program")
    before = names(tmp_path)
    filled = (argument.format(folder=tmp_path) for argument in arguments)
    check_refusal(vitedge("quantize", VIT, "-o", tmp_path / "m.pt2", "--force", *filled), *words)
    assert names(tmp_path) == before
    assert (tmp_path / "m.pt2").read_bytes() == b"the old program"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("model.onnx", ("is a .pt2 file", "name the output", "model.pt2.")),
        ("none/model.pt2", ("There is no folder", "none")),
        ("folder.pt2", ("is a folder",)),
    ],
)
def test_an_output_that_cannot_be_is_refused_first(
    output: str, words: tuple[str, ...], vitedge: Command, tmp_path: Path
) -> None:
    (tmp_path / "folder.pt2").mkdir()
    check_refusal(vitedge("quantize", "nowhere.pth", "-o", tmp_path / output, "--images", "synthetic"), *words)
    assert names(tmp_path) == ["folder.pt2"]


def overflowing(state: State) -> None:
    state["blocks.1.mlp.fc1.weight"].mul_(1e38)


def with_nan(state: State) -> None:
    state["blocks.1.mlp.fc1.weight"][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "asked", "words"),
    [
        (overflowing, SEEN, ("NaN or infinity", "in logits", "vitedge inspect")),
        (overflowing, ("--scheme", "w8"), ("NaN or infinity", "in logits", "vitedge inspect")),
        (with_nan, SEEN, ("blocks.1.mlp.fc1.weight", "NaN or infinity")),
    ],
)
def test_what_is_not_finite_is_refused_with_its_name(
    change: Callable[[State], None], asked: tuple[str, ...], words: tuple[str, ...], vitedge: Command, tmp_path: Path
) -> None:
    path = changed(change)(tmp_path)
    outcome = vitedge("quantize", path, "-o", tmp_path / "m.pt2", *asked)
    check_refusal(outcome, *words)
    assert names(tmp_path) == [path.name]


def test_an_exceeded_tolerance_says_what_to_do(vitedge: Command, tmp_path: Path) -> None:
    asked = ("--precision", "int8", "--min-sqnr", "90", "--image-count", "8", *SEEN[:2], *QUICK)
    outcome = vitedge("export", VIT, "-o", tmp_path / "out", *asked)
    assert outcome.code == 4
    said = outcome.err.splitlines()[-1]
    assert "the tolerance is 90 dB" in said
    assert "--precision mixed" in said
    assert names(tmp_path) == []


def test_a_speed_that_has_nothing_to_be_compared_with_is_refused(vitedge: Command, tmp_path: Path) -> None:
    check_refusal(vitedge("export", VIT, "-o", tmp_path / "out", "--compare-speed"), "add --precision int8")
    assert names(tmp_path) == []


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_what_was_there_and_is_gone_on_with(
    stop: signal.Signals, vitedge: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.pt2").write_bytes(b"the old program")
    for name in ("SAVE_SECONDS", "SAVE_SHARE"):
        monkeypatch.setattr(cache, name, 0)
    original, seen = run.watcher, []

    def stopping(structure: Any) -> Any:
        step = original(structure)

        def counted(pixels: torch.Tensor, stats: Any) -> None:
            step(pixels, stats)
            seen.append(len(pixels))
            if len(seen) == 2:
                os.kill(os.getpid(), stop)

        return counted

    monkeypatch.setattr(run, "watcher", stopping)
    arguments = (
        "quantize",
        VIT,
        "-o",
        tmp_path / "m.pt2",
        "--images",
        "synthetic",
        "--image-count",
        "24",
        "--force",
        *QUICK,
    )
    outcome = vitedge(*arguments)
    assert (outcome.code, outcome.out) == (128 + stop, "")
    assert outcome.sentence.startswith(f"vitedge: Stopped by {stop.name}")
    kept = f"Kept: the calibration of {PART} of 24 images; the same command goes on from there."
    assert outcome.sentence.endswith(kept)
    assert names(tmp_path) == ["m.pt2"]
    assert (tmp_path / "m.pt2").read_bytes() == b"the old program"
    if stop == signal.SIGINT:
        return
    outcome = vitedge(*arguments)
    assert outcome.code == 0
    assert f"goes on after image {PART} of 24" in outcome.err
    assert seen == [PART] * (24 // PART + 1)  # the second was not yet saved when the signal came
    assert read_model(tmp_path / "m.pt2").record.images == 24
