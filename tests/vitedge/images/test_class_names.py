# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from tests.vitedge.images.specs import make_spec
from vitedge.errors import BadImages
from vitedge.images.class_names import Classes, check_range, classes_of, number_folders, number_labels

ZOO = Classes(4, ("tench, Tinca tinca", "crane", "crane", "White_Shark"))


def test_folders_called_as_the_classes_are_found_in_any_order_and_need_not_be_all() -> None:
    assert number_folders(["white shark", "tench"], ZOO) == ({"white shark": 3, "tench": 0}, "")
    assert number_folders(["Tench, Tinca tinca"], ZOO)[0] == {"Tench, Tinca tinca": 0}


def test_folders_of_other_names_are_counted_in_their_order_and_that_is_said() -> None:
    found, note = number_folders(["b", "a", "d", "c"], ZOO)
    assert found == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert "in the order of their names" in note


def test_numbered_folders_are_read_as_numbers_and_that_is_said() -> None:
    found, note = number_folders([str(number) for number in range(11)], Classes(11))
    assert (found["2"], found["10"]) == (2, 10)
    assert "read as numbers" in note
    assert "read as" not in number_folders([str(number) for number in range(10)], Classes(10))[1]


def test_folders_have_to_be_called_as_names_that_were_given() -> None:
    given = Classes(3, ("tench", "crane", "white shark"), given=True)
    with pytest.raises(BadImages) as refused:
        number_folders(["tenchs", "cranes", "bicycle"], given)
    assert "None of the 3 class folders has a name of the labels that were given" in str(refused.value)
    assert "(nearest: cranes ~ crane, tenchs ~ tench)" in str(refused.value)
    assert number_folders(["2", "0", "1"], given)[0] == {"0": 0, "1": 1, "2": 2}


def test_names_that_begin_with_wordnet_ids_are_found_by_either() -> None:
    fish = Classes(2, ("n01440764 tench, Tinca tinca", "n01443537: goldfish"))
    assert number_folders(["n01443537"], fish)[0] == {"n01443537": 1}
    assert "WordNet ids" in number_folders(["n01443537"], fish)[1]
    assert number_folders(["Goldfish", "tench"], fish) == ({"Goldfish": 1, "tench": 0}, "")
    assert classes_of(replace(make_spec((8, 8)), labels=fish.names, classes=2)) == fish


def test_some_folders_of_imagenet_are_enough() -> None:
    """A subset of ten classes, as tutorials use it, is not its first ten."""
    found, note = number_folders(["n03445777", "n01440764"], Classes(1000))
    assert found == {"n01440764": 0, "n03445777": 574}
    assert "WordNet" in note


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        (["a", "b", "c", "d", "e"], "5 class folders, and the model has only 4"),
        (["tench", "cod"], "No class of the model is called cod, as folders"),
        (["crane", "tench"], "crane is what the classes 1 and 2 are called"),
        (["tench", "Tench, Tinca tinca"], "are both class 0"),
        (["a", "b"], "2 class folders, such as a, b, for 4 classes"),
    ],
)
def test_folders_that_do_not_fit_are_refused(folders: list[str], sentence: str) -> None:
    with pytest.raises(BadImages, match=sentence):
        number_folders(folders, ZOO)


def test_labels_are_numbers_or_names() -> None:
    assert number_labels(("3", "0", "+1", "tench", "white_shark"), ZOO) == {
        "3": 3,
        "0": 0,
        "+1": 1,
        "tench": 0,
        "white_shark": 3,
    }


def test_numerals_that_are_names_may_be_used_where_both_say_the_same() -> None:
    assert number_labels(("0", "2"), Classes(3, ("0", "1", "2"))) == {"0": 0, "2": 2}
    with pytest.raises(BadImages, match="may be class 7 or class 0"):
        number_labels(("7",), Classes(8, ("7", "6", "5", "4", "3", "2", "1", "0")))


@pytest.mark.parametrize(
    ("labels", "classes", "sentence"),
    [
        (("cod", "tench"), ZOO, "called cod, as labels"),
        (("cod",), Classes(4), "nothing says how the model's classes are called"),
        (("-1", "2"), ZOO, "a label -1: classes are counted from 0"),
        (("0", "9"), ZOO, "a label 9, and the model has 4 classes, counted from 0"),
        (("1", "2", "3", "4"), ZOO, "counted from 1"),
        (("1.0",), ZOO, "called 1.0"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: tuple[str, ...], classes: Classes, sentence: str) -> None:
    with pytest.raises(BadImages, match=sentence):
        number_labels(labels, classes)


def test_numbers_within_the_classes_pass() -> None:
    check_range([0, 3], ZOO)
    check_range([], ZOO)
