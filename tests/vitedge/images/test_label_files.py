# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.vitedge.images.specs import make_spec
from vitedge.errors import BadRecipe
from vitedge.images.label_files import labels_for, named, read_labels
from vitedge.records import Origin

NAMES = ("tench, Tinca tinca", "crane", "white shark")

FILES = {
    "one a line": ("classes.txt", "\ufefftench, Tinca tinca\n crane \nwhite shark\n\n"),
    "one a line of Windows": ("obj.names", "tench, Tinca tinca\r\ncrane\r\nwhite shark\r\n"),
    "a column": ("a.csv", '"tench, Tinca tinca"\ncrane\nwhite shark\n'),
    "a column with a title": ("a.csv", 'Name\n"tench, Tinca tinca"\ncrane\nwhite shark\n'),
    "numbers and names": ("a.csv", '2,white shark\n0,"tench, Tinca tinca"\n1,crane\n'),
    "titles": ("a.csv", 'index,colour,label\n1,grey,crane\n0,green,"tench, Tinca tinca"\n2,white,white shark\n'),
    "tabs": ("a.tsv", "0\ttench, Tinca tinca\n1\tcrane\n2\twhite shark\n"),
    "a list": ("a.json", json.dumps(NAMES)),
    "numbers to names": ("a.json", json.dumps({"2": NAMES[2], "0": NAMES[0], "1": NAMES[1]})),
    "numbers to ids and names": ("a.json", json.dumps({i: [f"n0000000{i}", NAMES[i]] for i in range(3)})),
    "names to numbers": ("class_to_idx.json", json.dumps({name: number for number, name in enumerate(NAMES)})),
    "a configuration": ("config.json", json.dumps({"model_type": "vit", "id2label": dict(enumerate(NAMES))})),
    "a training log": ("args.json", json.dumps({"classes": 3, "class_to_idx": {NAMES[i]: i for i in range(3)}})),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_names_of_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    name, content = FILES[kind]
    (tmp_path / name).write_bytes(content.encode())
    assert read_labels(tmp_path / name) == NAMES
    if name == "config.json":
        assert read_labels(str(tmp_path)) == NAMES


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "", "it is empty"),
        ("a.txt", "ant\n\nbee\n", "class 1 has no name"),
        ("a.csv", "0,ant\n2,bee\n", "class 1 is missing: numbers begin with 0"),
        ("a.csv", "1,ant\n2,bee\n", "class 0 is missing: they seem to be counted from 1"),
        ("a.csv", "0,ant\n0,bee\n", "class 0 is there twice"),
        ("a.csv", "tench, Tinca tinca\ncrane\n", "stands in quotation marks"),
        ("a.csv", "ant,1,x\nbee,2,y\n", "begin it with the line index,name"),
        ("a.csv", "ant,1\nbee,2\n", "counted from 1"),
        ("a.csv", "index,name\nzero,ant\n", "'zero' is no number of a class"),
        ("a.json", "{", "cannot be read as the names of classes"),
        ("a.json", '{"ant": "bee"}', "neither a list of names"),
        ("a.json", "[1, 2]", "class 0 has no name"),
        ("config.json", '{"model_type": "vit"}', "it has none of id2label, label2id"),
        ("config.json", '{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}', "LABEL_0, LABEL_1, which are no names"),
        ("a.pth", "ant", "is no file of names: --labels takes one of .txt"),
        ("a.txt", "\udcff", "cannot be read"),
    ],
)
def test_what_is_no_list_of_names_is_refused(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadRecipe) as refused:
        read_labels(tmp_path / name)
    assert said in str(refused.value)
    assert name in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match=r"There is no .*gone\.txt: --labels takes a file of names"):
        read_labels(tmp_path / "gone.txt")


def test_there_is_a_name_for_each_class(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("background\n" + "\n".join(f"class {number}" for number in range(10)))
    with pytest.raises(BadRecipe) as refused:
        named(make_spec((8, 8)), str(path))
    assert f"{path} has names of 11 classes (background to class 9), and the model has 10: " in str(refused.value)
    assert str(refused.value).endswith("The first one may be a heading or a background class: take it out.")
    with pytest.raises(BadRecipe, match=r"There are names of 1 classes, and the model has 3"):
        labels_for(("ant",), 3)
    with pytest.raises(BadRecipe, match="an encoder without any: leave them out"):
        labels_for(NAMES, 0)


def test_given_names_become_part_of_the_spec() -> None:
    spec = named(make_spec((8, 8)), tuple("abcdefghij"))
    assert (spec.labels, spec.origins["labels"]) == (tuple("abcdefghij"), Origin.GIVEN)
    assert named(spec, None) is spec
