# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vitedge.errors import BadRecipe
from vitedge.export.formats import (
    DEFAULT,
    FORMATS,
    FORMS,
    PROCESSOR,
    TENSORRT,
    named,
    of_file,
    readiness,
)
from vitedge.registry import RUNTIMES


def test_a_format_that_there_is_none_of_is_answered_with_the_choices() -> None:
    assert named(DEFAULT) is FORMATS[DEFAULT]
    with pytest.raises(BadRecipe, match=r"no format 'gguf'; choose from onnx, coreml, tensorrt\."):
        named("gguf")


def test_a_file_is_known_by_its_suffix() -> None:
    for name, kind in FORMATS.items():
        assert of_file(f"folder/any{kind.suffix}") == (name if kind.suffix else None)
    assert of_file("model") is None
    assert of_file("model.pt2") is None


def test_a_file_is_checked_for_a_compiler_where_one_builds_from_it() -> None:
    assert readiness("onnx", TENSORRT) is TENSORRT.readiness is not None
    assert readiness("onnx", PROCESSOR) is None
    assert readiness("coreml", TENSORRT) is None


def test_what_the_records_name_is_there() -> None:
    suffixes = [kind.suffix for kind in FORMATS.values() if kind.suffix]
    assert len(set(suffixes)) == len(suffixes)
    for kind in FORMATS.values():
        assert kind.file.endswith(kind.suffix)
        assert kind.made_from in ("", *FORMATS)
        assert kind.form in FORMS
        assert {*kind.runtimes, *kind.without_rounding, *kind.without_rounding.values()} <= RUNTIMES.keys()
        assert kind.without_rounding.keys() <= set(kind.runtimes)
