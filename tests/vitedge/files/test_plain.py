# SPDX-License-Identifier: Apache-2.0
"""Tests of `plain`, `converter`, on `records`, `accuracy.records`, `pruning.records` and `quantization.records`."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Literal

import pytest

from vitedge import records
from vitedge.accuracy import records as accuracy_records
from vitedge.errors import BadRecipe
from vitedge.files.plain import from_dict, to_dict
from vitedge.pruning import records as pruning_records
from vitedge.quantization import records as quantization_records
from vitedge.recipe import ExportRecipe
from vitedge.records import Manifest, ModelSpec, Origin, OutputParity, Preprocessing, TensorSpec, Tolerance

RECORDS = [
    kind
    for module in (records, accuracy_records, pruning_records, quantization_records)
    for kind in vars(module).values()
    if dataclasses.is_dataclass(kind) and kind.__module__.startswith(module.__name__)
]


class Search(str, Enum):
    OFF = "off"
    ON = "on"


@dataclasses.dataclass(frozen=True)
class Part:
    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise BadRecipe("A size is never negative.")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A field of every type that settings have."""

    enabled: bool = False
    search: Search = Search.ON
    fallback: Search | None = None
    mode: Literal["fast", "exact"] = "fast"
    batch: int | Literal["dynamic"] | None = 1
    shift: bool | Search = False
    layers: Mapping[str, Search] = dataclasses.field(default_factory=dict)
    names: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    whole: Part | str = ""


PLAIN: dict[Any, list[Any]] = {
    int: [7],
    float: [1e-5, float("inf"), float("-inf")],
    str: ["β"],
    bool: [True],
    type(None): [None],
    Any: [{"a": [1, "b"]}],
}
"""Values of the types of which everything else is made."""


def examples(hint: Any) -> list[Any]:
    """Values of a type, one for each member of a union and each value of an enum."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return list(arguments)
    if origin in (typing.Union, types.UnionType):
        return [value for argument in arguments for value in examples(argument)]
    if origin is tuple:
        each = [examples(argument) for argument in arguments if argument is not Ellipsis]
        return [tuple(each[0][:2]) if Ellipsis in arguments else tuple(found[0] for found in each)]
    if origin is not None:
        return [{f"key {index}": value for index, value in enumerate(examples(arguments[1]))}]
    if dataclasses.is_dataclass(hint):
        return list(records_of(hint))
    return list(hint) if isinstance(hint, type) and issubclass(hint, Enum) else PLAIN[hint]


def records_of(kind: Any) -> Iterator[Any]:
    """As many records as the field with the most examples has."""
    hints = typing.get_type_hints(kind)
    values = {field.name: examples(hints[field.name]) for field in dataclasses.fields(kind)}
    for index in range(max(len(found) for found in values.values())):
        yield kind(**{name: found[index % len(found)] for name, found in values.items()})


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_every_record_comes_back_from_json(kind: Any) -> None:
    for record in records_of(kind):
        text = json.dumps(to_dict(record), allow_nan=False)
        assert from_dict(kind, json.loads(text)) == record


def test_the_examples_reach_every_kind_of_value() -> None:
    """Otherwise the round trip above would show little."""
    text = json.dumps([to_dict(record) for kind in RECORDS for record in records_of(kind)])
    assert all(part in text for part in ('"inf"', '"-inf"', "null", '"assumed"', "1e-05", "true"))
    assert next(records_of(TensorSpec)).shape == (7, "β")


def test_nan_comes_back_as_nan() -> None:
    nan = float("nan")
    found = from_dict(OutputParity, json.loads(json.dumps(to_dict(OutputParity("y", nan, nan, 1.0, 1.0, None, None)))))
    assert found.relative_error != found.relative_error
    assert found.centred_sqnr_db == 1.0


def test_types_are_restored() -> None:
    preprocessing = from_dict(Preprocessing, {"mean": [0, 1], "std": [1, 1]})
    assert preprocessing.mean == (0.0, 1.0)
    assert all(isinstance(value, float) for value in preprocessing.mean)
    shape = from_dict(TensorSpec, {"name": "image", "shape": ["batch", 3], "dtype": "float32"}).shape
    assert shape == ("batch", 3)
    spec = next(records_of(ModelSpec))
    assert from_dict(ModelSpec, to_dict(spec)).origins["key 0"] is Origin.SHAPE


@pytest.mark.parametrize(
    "changed",
    [
        {"enabled": True},
        {"search": Search.OFF},
        {"fallback": Search.ON},
        {"mode": "exact"},
        {"batch": None},
        {"batch": 8},
        {"batch": "dynamic"},
        {"shift": True},
        {"shift": Search.ON},
        {"layers": {"head": Search.OFF}},
        {"names": ("a", "b")},
        {"parts": (Part(1), Part(2))},
        {"whole": Part(3)},
        {"whole": "3"},
    ],
    ids=str,
)
def test_settings_come_back_as_what_they_were(changed: dict[str, Any]) -> None:
    settings = Settings(**changed)
    back = from_dict(Settings, json.loads(json.dumps(to_dict(settings))))
    assert back == settings
    assert [type(value) for value in vars(back).values()] == [type(value) for value in vars(settings).values()]


def test_a_string_enum_becomes_a_string_wherever_it_stands() -> None:
    found = to_dict(Settings(shift=Search.ON, layers={"head": Search.OFF}))
    assert [type(found["search"]), type(found["shift"]), type(found["layers"]["head"])] == [str, str, str]
    assert type(to_dict({"search": (Search.ON,)})["search"][0]) is str


def test_tuples_and_mappings_of_records_are_written_too() -> None:
    assert to_dict((Part(1), {"a": (Part(2), float("inf"))})) == [{"size": 1}, {"a": [{"size": 2}, "inf"]}]


def test_nothing_is_imported_before_the_first_record() -> None:
    """cattrs would take a tenth of the time of ``vitedge --help``."""
    script = "import sys, vitedge.recipe, vitedge.files.plain; sys.exit('cattrs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        (Tolerance, {"relativ_error": 1}, ("Tolerance", "relativ_error", "relative_error")),
        (ExportRecipe, {"tolerance": {"sqnr": 1}}, ("Tolerance", "sqnr", "centred_sqnr_db")),
        (TensorSpec, {"name": "x", "shape": []}, ("TensorSpec", "dtype")),
        (Manifest, {}, ("Manifest", "format_version")),
        (Tolerance, [1], ("Tolerance", "[1]")),
        (Tolerance, None, ("Tolerance", "None")),
        (ExportRecipe, {"image_size": 224}, ("image_size", "224")),
        (ExportRecipe, {"image_size": [1, 2, 3]}, ("image_size", "[1, 2, 3]")),
        (ExportRecipe, {"seed": 0.5}, ("seed", "int", "0.5")),
        (ExportRecipe, {"seed": True}, ("seed", "int", "True")),
        (ExportRecipe, {"features": 1}, ("features", "bool")),
        (ExportRecipe, {"profiles": [3]}, ("profiles", "3")),
        (ExportRecipe, {"overrides": [1]}, ("overrides", "[1]")),
        (ExportRecipe, {"batch": [4]}, ("batch", "[4]")),
        (Tolerance, {"agreement": "most"}, ("agreement", "most")),
        (Tolerance, {"agreement": True}, ("agreement", "True")),
        (TensorSpec, {"name": "x", "shape": [None], "dtype": "float32"}, ("shape", "[None]")),
        (TensorSpec, {"name": None, "shape": [], "dtype": "float32"}, ("name", "None")),
        (ModelSpec, {"origins": {"patch": "guessed"}}, ("origins", "guessed")),
        (ModelSpec, {"origins": {"patch": "guessed"}}, ("'shape' | 'config' | 'table' | 'assumed' | 'given'",)),
        (TensorSpec, {"name": "x", "shape": []}, ("TensorSpec lacks dtype",)),
        (TensorSpec, {"name": "x", "shape": [], "dtyp": "float32"}, ("TensorSpec has no entry dtyp",)),
        (Settings, {"enabled": 1}, ("enabled takes bool; got 1",)),
        (Settings, {"enabled": "on"}, ("enabled takes bool; got 'on'",)),
        (Settings, {"search": "maybe"}, ("search takes 'off' | 'on'; got 'maybe'",)),
        (Settings, {"search": True}, ("search takes 'off' | 'on'; got True",)),
        (Settings, {"fallback": "maybe"}, ("fallback takes 'off' | 'on' | None; got 'maybe'",)),
        (Settings, {"mode": "slow"}, ("mode takes 'fast' | 'exact'; got 'slow'",)),
        (Settings, {"mode": ["fast"]}, ("mode takes 'fast' | 'exact'; got ['fast']",)),
        (Settings, {"batch": True}, ("batch takes int | 'dynamic' | None; got True",)),
        (Settings, {"batch": "many"}, ("batch takes int | 'dynamic' | None; got 'many'",)),
        (Settings, {"shift": 0}, ("shift takes bool | 'off' | 'on'; got 0",)),
        (Settings, {"layers": {"a": "maybe"}}, ("layers takes Mapping[str, 'off' | 'on']; got {'a': 'maybe'}",)),
        (Settings, {"layers": ["a"]}, ("layers takes Mapping", "['a']")),
        (Settings, {"names": "abc"}, ("names takes [str, ...]; got 'abc'",)),
        (Settings, {"parts": {"size": 1}}, ("parts takes [Part, ...]; got {'size': 1}",)),
        (Settings, {"parts": [3]}, ("parts takes [Part, ...]; got [3]",)),
        (Settings, {"parts": [{"size": 1}, {"size": "2"}]}, ("size takes int; got '2'",)),
        (Settings, {"parts": [{"size": 1}, {}]}, ("Part lacks size",)),
        (Settings, {"parts": [{"size": 1}, {"size": 1, "unit": "mm"}]}, ("Part has no entry unit; it has size",)),
        (Settings, {"parts": [{"size": -1}]}, ("A size is never negative.",)),
        (Settings, {3: 4}, ("Settings has no entry 3",)),
    ],
)
def test_what_does_not_fit_is_named(kind: Any, data: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(BadRecipe) as caught:
        from_dict(kind, data)
    for word in words:
        assert word in str(caught.value)
