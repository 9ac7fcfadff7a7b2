# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.vitedge.grey_models import GREYS, NAMES, spec, write_arrays, write_folders
from vitedge.errors import BadImages, BadRecipe
from vitedge.images.class_names import Classes
from vitedge.images.labelled import LabelledSet, find_labelled

CLASSES = Classes(len(GREYS), NAMES)


def read(found: LabelledSet) -> list[tuple[str, int, int]]:
    """Name, label and grey of every image that can be read."""
    stream = found.stream(spec())
    greys = [int(image[0, 0, 0]) for batch in stream.batches(4) for image in batch]
    return list(zip(stream.names, stream.labels, greys, strict=True))


def test_class_folders_are_labels_and_their_sub_folders_are_searched(tmp_path: Path) -> None:
    write_folders(tmp_path, NAMES[:3], each=1)
    (tmp_path / "cat" / "deep").mkdir()
    Image.new("RGB", (9, 7), (71,) * 3).save(tmp_path / "cat" / "deep" / "x.PNG")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "cat" / "._000.png").write_bytes(b"a note of another system")
    Image.new("RGB", (8, 8)).save(tmp_path / "no-class.png")
    found = find_labelled(tmp_path, CLASSES)
    assert read(found) == [
        ("ant/000.png", 0, 10),
        ("bee, honey bee/000.png", 1, 40),
        ("cat/000.png", 2, 70),
        ("cat/deep/x.PNG", 2, 71),
    ]
    assert (found.available, found.count, found.note) == (4, 4, "")
    assert found.title == f"{tmp_path}, all 4 images"


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na/ant/000.png,0\na/cat/000.png,cat\n",
        "a/ant/000.png,ant\r\na/cat/000.png,2\r\n",
        '\ufeffID,Category,"Image"\n7,cat,a/cat/000.png\n8,ANT,"a/ant/000.png"\n\n',
        " a/ant/000.png , 0 \n\na/cat/000.png,2,more\n",
    ],
)
def test_a_table_has_paths_and_numbers_or_names(tmp_path: Path, text: str) -> None:
    write_folders(tmp_path / "a", NAMES[:3], each=1)
    (tmp_path / "set.CSV").write_text(text, encoding="utf-8")
    found = read(find_labelled(tmp_path / "set.CSV", CLASSES))
    assert sorted(found) == [("a/ant/000.png", 0, 10), ("a/cat/000.png", 2, 70)]


def test_arrays_with_labels(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "set.npz", [2, 0, 1, 1])
    found = find_labelled(path, CLASSES)
    assert read(found) == [("set.npz 0", 2, 70), ("set.npz 1", 0, 10), ("set.npz 2", 1, 40), ("set.npz 3", 1, 40)]


@pytest.mark.parametrize("kind", ["folder", "arrays"])
def test_few_images_are_drawn_evenly_and_the_same_again(tmp_path: Path, kind: str) -> None:
    labels = [0] * 20 + [1] * 5 + [2] * 20
    if kind == "folder":
        source = write_folders(tmp_path / "set", NAMES[:3], each=12)
    else:
        source = write_arrays(tmp_path / "set.npz", labels)
    found = find_labelled(source, CLASSES, 10, seed=1)
    drawn = read(found)
    assert sorted(Counter(label for _, label, _ in drawn).values()) == [3, 3, 4]
    assert drawn == read(find_labelled(source, CLASSES, 10, seed=1))
    assert drawn != read(find_labelled(source, CLASSES, 10, seed=2))
    assert "10 of" in found.title
    assert "seed 1" in found.title
    assert len(read(find_labelled(source, CLASSES, 1000))) == found.available


def test_a_packed_array_is_read_forwards(tmp_path: Path) -> None:
    """Going back in it means to unpack it again from its beginning."""
    path = write_arrays(tmp_path / "set.npz", list(range(7)) * 4)
    names = [name for name, _, _ in read(find_labelled(path, CLASSES, 12))]
    assert names == sorted(names, key=lambda name: int(name.split()[1]))


def test_a_corrupt_image_is_named_and_skipped_and_replaced_where_there_is_another(tmp_path: Path) -> None:
    write_folders(tmp_path, NAMES[:2], each=10)
    (tmp_path / "ant" / "000.png").write_bytes(b"\x89PNG no more")
    stream = find_labelled(tmp_path, CLASSES).stream(spec())
    assert sum(len(batch) for batch in stream.batches(8)) == 19
    assert list(stream.skipped) == ["ant/000.png"]
    assert stream.labels == (0,) * 9 + (1,) * 10
    fewer = find_labelled(tmp_path, CLASSES, 19).stream(spec())
    assert sum(len(batch) for batch in fewer.batches(8)) == 19


def test_more_corrupt_images_than_one_in_twenty_are_refused(tmp_path: Path) -> None:
    rows = [f"ant/{index:03}.png,0" for index in range(10)] + ["gone.png,1", "notes.txt,1"]
    write_folders(tmp_path, NAMES[:1], each=10)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "set.csv").write_text("\n".join(rows))
    with pytest.raises(BadImages, match=r"gone.png: there is no such file"):
        read(find_labelled(tmp_path / "set.csv", CLASSES))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no images"),
        ("path,label\n", "names no images"),
        ("a.png\n", "Row 1 of .* is 'a.png'"),
        ("path,label\na.png,1\nb.png,\n", "Row 3 of"),
        ("a.png,cod\n", "set.csv: No class of the model is called cod"),
        ("a.png,7\n", "a label 7, and the model has 7"),
        ("a.png,-2\n", "a label -2"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "set.csv").write_text(text)
    with pytest.raises(BadImages, match=sentence):
        find_labelled(tmp_path / "set.csv", CLASSES)


def test_what_tells_no_classes_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    np.savez(tmp_path / "plain.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    write_arrays(tmp_path / "beyond.npz", [0, 9])
    (tmp_path / "raw.csv").write_bytes(b"\xff\x00\xfe")
    for source, sentence in (
        ("synthetic", "Synthetic images have no classes"),
        (tmp_path / "nowhere", "There is no"),
        (tmp_path, "holds no class folders"),
        (tmp_path / "x.png", "tells no classes"),
        (tmp_path / "plain.npz", "images and no labels"),
        (tmp_path / "beyond.npz", "a label 9"),
        (tmp_path / "raw.csv", "cannot be read as a table"),
    ):
        with pytest.raises(BadImages, match=sentence):
            find_labelled(source, CLASSES)
    for name in NAMES:
        (tmp_path / "bare" / name).mkdir(parents=True)
    with pytest.raises(BadImages, match="hold no images"):
        find_labelled(tmp_path / "bare", CLASSES)
    with pytest.raises(BadRecipe, match="at least 1"):
        find_labelled(tmp_path, CLASSES, 0)
