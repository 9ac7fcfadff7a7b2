# SPDX-License-Identifier: Apache-2.0
"""Inputs and outputs by a log and the types of layers."""

from __future__ import annotations

import pytest

from vitedge.devices.trtexec.log import read_log
from vitedge.devices.trtexec.tensors import declared_by
from vitedge.export.tensorrt.inspector import tensor_types
from vitedge.records import TensorSpec

OUT = """[01/02/2026-03:04:05] [I] Input binding for x with dimensions 4x3x8 is created.
[01/02/2026-03:04:05] [I] Output binding for y with dimensions 4x2 is created.
"""
OLD = """{"Layers": ["a name", {"Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP16 format"}],
"Outputs": [{"Name": "y", "Format/Datatype": "N/A due to dynamic shapes"}]}], "Bindings": ["x", "y"]}"""
NEW = """{"Layers": [], "I/O Tensors": [{"Name": "x", "DataType": "Half"}, {"Name": "y", "DataType": "Int32"}]}"""


@pytest.mark.parametrize(
    ("text", "types"), [(OLD, ("float16", "float32")), (NEW, ("float16", "int32")), ("no JSON", ("float32", "float32"))]
)
def test_what_is_not_told_is_float32(text: str, types: tuple[str, str]) -> None:
    log = read_log(OUT, "")
    assert declared_by(log, tensor_types(text), is_dynamic=False) == (
        (TensorSpec("x", (4, 3, 8), types[0]),),
        (TensorSpec("y", (4, 2), types[1]),),
    )
    inputs, outputs = declared_by(log, tensor_types(text), is_dynamic=True)
    assert [spec.shape for spec in (*inputs, *outputs)] == [("batch", 3, 8), ("batch", 2)]


@pytest.mark.parametrize("text", [None, "", "[]", "7", '{"Layers": [1, "x"]}', '{"Layers": 7}'])
def test_other_texts_tell_no_types(text: str | None) -> None:
    assert tensor_types(text) == {}
