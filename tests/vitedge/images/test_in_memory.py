# SPDX-License-Identifier: Apache-2.0
"""Tests of `vitedge.images.in_memory` and `vitedge.images.handed_out`: images in memory, beside the same in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from tests.vitedge.images.specs import make_spec
from vitedge.errors import BadImages
from vitedge.files.plain import to_dict
from vitedge.images.class_names import Classes
from vitedge.images.image_set import load
from vitedge.images.in_memory import collect
from vitedge.images.labelled import find_labelled
from vitedge.images.stream import open_images
from vitedge.recipe import ExportRecipe
from vitedge.records import Origin

SPEC = make_spec((32, 32))
PIXELS: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (20, 40, 48, 3), np.uint8)
TENSORS = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy())
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (SPEC.preprocessing.mean, SPEC.preprocessing.std))

WAYS: dict[str, Callable[[], Any]] = {
    "array": lambda: PIXELS,
    "array with channels first": lambda: PIXELS.transpose(0, 3, 1, 2),
    "list of arrays": lambda: list(PIXELS),
    "pictures": lambda: [Image.fromarray(pixels) for pixels in PIXELS],
    "tensor": lambda: TENSORS,
    "tensor from 0 to 1": lambda: TENSORS / 255.0,
    "half precision": (TENSORS / 255.0).half,
    "pairs": lambda: list(zip(PIXELS, range(20), strict=True)),
    "a batch": lambda: [(TENSORS, torch.arange(20))],
    "batches of examples": lambda: [
        {"pixel_values": half, "label": range(10)} for half in (TENSORS[:10], TENSORS[10:])
    ],
    "a data set": lambda: TensorDataset(TENSORS / 255.0, torch.arange(20)),
}
"""Ways to hold the same twenty images."""


@pytest.mark.parametrize("way", WAYS)
def test_images_in_memory_are_those_of_the_same_array_in_a_file(way: str, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", PIXELS)
    held = collect(WAYS[way](), 8)
    assert held.startswith("8 of 20 images in memory, sha256 ")
    assert load(held, SPEC, 8).sha256 == load(tmp_path / "images.npy", SPEC, 8).sha256


def test_files_are_opened_where_paths_are_handed_out(tmp_path: Path) -> None:
    for index, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / f"{index:02}.png")
    held = collect(sorted(tmp_path.glob("*.png")), 8)
    assert load(held, SPEC, 8).sha256 == load(collect(PIXELS, 8), SPEC, 8).sha256


def test_an_iterator_is_read_once_and_no_further_than_needed() -> None:
    read = []

    def filled_again() -> Iterator[NDArray[np.uint8]]:
        buffer = np.empty_like(PIXELS[0])
        for index in cycle(range(20)):
            read.append(index)
            buffer[:] = PIXELS[index]
            yield buffer

    held = collect(filled_again(), 6)
    assert read == list(range(6))
    assert load(held, SPEC, 6).sha256 == load(collect(PIXELS[:6], 6), SPEC, 6).sha256
    part = load(held, SPEC, 3)
    assert part.source.startswith("3 of 6 images in memory, sha256 ")
    assert len(part.names) == 3
    assert len(collect(DataLoader(TensorDataset(TENSORS), batch_size=8), 10).held) == 10


def test_the_text_and_the_fingerprint_tell_sets_apart_and_the_text_stays_one_in_a_recipe() -> None:
    held, other = collect(PIXELS, 8), collect(PIXELS[::-1], 8)
    assert held == collect(PIXELS.copy(), 8) != other
    fingerprints = [open_images(images, SPEC, 8).fingerprint() for images in (held, held, other)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    recipe = replace(ExportRecipe(images=held), opset=17)
    assert load(str(recipe.images), SPEC, 8).sha256 == load(held, SPEC, 8).sha256
    assert to_dict(recipe)["images"] == f"{held}"
    assert type(to_dict(recipe)["images"]) is str


def test_normalized_images_are_the_model_s_input_and_checked_against_its_numbers() -> None:
    exact = (TENSORS[..., :32, :32] / 255.0 - MEAN) / STD
    held = collect(exact, None, normalized=True)
    assert held.startswith("20 normalized images in memory")
    assert np.array_equal(load(held, SPEC, 20).pixels, TENSORS[..., :32, :32].numpy())
    bgr = replace(SPEC, preprocessing=replace(SPEC.preprocessing, channel_order="bgr"))
    reversed_pixels = TENSORS.flip(1)[..., :32, :32] / 255.0
    held = collect((reversed_pixels - MEAN) / STD, None, normalized=True)
    assert np.array_equal(load(held, bgr, 20).pixels, TENSORS[..., :32, :32].numpy())
    for values in ((TENSORS[..., :32, :32] / 255.0 - 0.5) / 0.5, exact * 3):
        with pytest.raises(BadImages, match="were not normalized with the model's mean"):
            load(collect(values, 8, normalized=True), SPEC, 8)
    guessed = replace(SPEC, origins={"preprocessing.mean": Origin.ASSUMED})
    with pytest.raises(BadImages, match="the mean and std of custom ViT are guessed: say preprocessing=dict"):
        load(collect(exact, 8, normalized=True), guessed, 8)
    with pytest.raises(BadImages, match="is normalized and has 40x48 pixels, and the model takes 32x32"):
        load(collect((TENSORS / 255.0 - MEAN) / STD, 8, normalized=True), SPEC, 8)
    with pytest.raises(BadImages, match="not all are floating-point arrays"):
        collect(PIXELS, 8, normalized=True)


def exhausted() -> Iterator[Any]:
    found = iter(PIXELS)
    assert len(list(found)) == 20
    return found


REFUSED: dict[str, Callable[[], Any]] = {
    "which look normalized: say normalized=True": lambda: (TENSORS / 255.0 - MEAN) / STD,
    "from 0 to 255: give uint8, or divide them by 255": TENSORS.float,
    "as if they were divided by 255 twice": lambda: TENSORS / 255.0 / 255.0,
    "got int64: convert them": lambda: PIXELS.astype(np.int64),
    "The images hold NaN": lambda: [np.full((9, 9, 3), np.nan, np.float32)],
    "hands out none: an iterator that was read before is empty": exhausted,
    r"got \(40, 48, 3\): one image is given in a list": lambda: PIXELS[0],
    "got one image": lambda: Image.fromarray(PIXELS[0]),
    "images takes an iterable or a path, and got int": lambda: 5,
    "images handed out int, which is no image": lambda: [1, 2],
    "images handed out tuple, which is no image": lambda: [(PIXELS[0], PIXELS[0, :, :, 0])],
    "images handed out a mapping of x: the image goes by": lambda: [{"x": PIXELS[0]}],
    "nowhere.png cannot be read": lambda: ["nowhere.png"],
    "A batch has 20 images and 3 classes": lambda: [(TENSORS, torch.arange(3))],
    "The class of an image is a number or a name; got float": lambda: [(PIXELS[0], 0.5)],
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_could_be_misread_is_refused_in_a_sentence(sentence: str) -> None:
    with pytest.raises(BadImages, match=sentence) as refused:
        collect(REFUSED[sentence](), 8)
    assert "\n" not in str(refused.value)


def test_channels_have_to_be_the_model_s() -> None:
    with pytest.raises(BadImages, match=r"shape \(9, 9, 7\), and images for custom ViT have 1, 3 or 4 channels"):
        load(collect(np.zeros((4, 9, 9, 7), np.uint8), 4), SPEC, 4)
    seven = load(collect(np.zeros((4, 9, 9, 7), np.uint8), 4), make_spec((8, 8), channels=7), 4)
    assert seven.pixels.shape == (4, 7, 8, 8)
    grey = load(collect(PIXELS[..., 0], 4), make_spec((8, 8), channels=1), 4)
    assert grey.pixels.shape == (4, 1, 8, 8)


def test_classes_are_those_beside_the_images() -> None:
    classes = Classes(3, ("cat", "dog", "emu"))
    named = collect(list(zip(PIXELS, ["dog", "Emu"] * 10, strict=True)), None)
    found = find_labelled(named, classes, 4)
    stream = found.stream(SPEC)
    assert [len(batch) for batch in stream.batches(8)] == [4]
    assert sorted(stream.labels) == [1, 1, 2, 2]
    assert found.title.startswith("20 images in memory, sha256 ")
    numbered = find_labelled(collect(list(zip(PIXELS, [0, 2] * 10, strict=True)), None), classes)
    assert {item.label for item in numbered.items} == {0, 2}
    with pytest.raises(BadImages, match=r"Image 0 of 20 images in memory, .* has no class: give pairs"):
        find_labelled(collect(PIXELS, None), classes)
    with pytest.raises(BadImages, match="label 3, and the model has 3 classes"):
        find_labelled(collect([(PIXELS[0], 3)], None), classes)
