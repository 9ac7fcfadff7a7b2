# SPDX-License-Identifier: Apache-2.0
"""Samples of both schemas, written by hand from what `inspector` says was read; no engine printed them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vitedge.export.tensorrt.inspector import layers
from vitedge.export.tensorrt.records import EngineLayer

HALF = "Channel major FP16 format where channel % 8 == 0"
INT8 = "Thirty-two wide channel vectorized row major Int8 format"


def tensor(name: str, phrase: str) -> dict[str, Any]:
    """A tensor of the schema up to 10."""
    return {"Name": name, "Location": "Device", "Dimensions": [1, 64], "Format/Datatype": phrase}


def split(name: str, dtype: str) -> dict[str, Any]:
    """A tensor of the schema of 11."""
    return {"Name": name, "Dimensions": [1, 64], "Format": "Row major linear", "Datatype": dtype}


def engine(*records: Any, **rest: Any) -> str:
    return json.dumps({"Layers": list(records), **(rest or {"Bindings": ["x", "y"]})})


def known(text: str) -> tuple[EngineLayer, ...]:
    found = layers(text)
    assert found is not None
    return found


COPY = {
    "Name": "Reformatting CopyNode for Input Tensor 0 to {ForeignNode[a...b]} + Relu_1",
    "LayerType": "Reformat",
    "Inputs": [tensor("x", "Row major linear FP32")],
    "Outputs": [tensor("h", HALF)],
    "TacticValue": "0x0",
}
CONVOLUTION = {
    "Name": "w + QuantizeLinear_8 + stem/Conv + PWN(PWN(stem/Sigmoid), stem/Mul)",
    "LayerType": "CaskConvolution",
    "Inputs": [tensor("q", INT8)],
    "Outputs": [tensor("r", HALF)],
    "Weights": {"Type": "Int8", "Count": 864},
    "Bias": {"Type": "Float", "Count": 32},
    "TacticName": "sm80_xmma",
}


def test_the_schema_of_eight_is_read() -> None:
    assert layers(engine(COPY, CONVOLUTION)) == (
        EngineLayer(COPY["Name"], "Reformat", ("fp32",), (), ("fp16",), ()),
        EngineLayer(
            CONVOLUTION["Name"],
            "CaskConvolution",
            ("int8",),
            ("int8",),
            ("fp16",),
            ("w", "QuantizeLinear_8", "stem/Conv", "stem/Sigmoid", "stem/Mul"),
        ),
    )


def test_the_kernels_of_ten_are_read_with_their_metadata() -> None:
    gemm = {
        "Name": "blocks.0.mlp.fc1/MatMul_myl0_7",
        "LayerType": "gemm",
        "Inputs": [tensor("q", "Int8")],
        "Constants": [tensor("w", "Int8"), tensor("scale", "Float")],
        "Outputs": [tensor("r", "Half")],
        "Metadata": "[ONNX Layer: blocks.0.mlp.fc1/MatMul]\x1e[ONNX Layer: blocks.0.mlp.fc1/Add]",
    }
    (found,) = known(engine(gemm))
    assert found.nodes == ("blocks.0.mlp.fc1/MatMul", "blocks.0.mlp.fc1/Add")
    assert (found.inputs, found.constants, found.outputs) == (("int8",), ("int8", "fp32"), ("fp16",))


def test_the_split_fields_of_eleven_are_read() -> None:
    attention = {
        "Name": "_gemm_mha_v2_myl0_9",
        "LayerType": "kgen",
        "Inputs": [split("q", "FP16"), split("k", "BFloat16"), split("mask", "Bool")],
        "Constants": [],
        "Outputs": [{"Name": "r", "DataType": "Half"}],
        "Metadata": "[ONNX Layer: blocks.0.attn/Softmax]",
    }
    (found,) = known(engine(attention, **{"I/O Tensors": [{"Name": "x", "IOMode": "Input"}]}))
    assert (found.kind, found.inputs, found.outputs) == ("kgen", ("fp16", "bf16", "bool"), ("fp16",))
    assert found.nodes == ("blocks.0.attn/Softmax",)


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("q/MatMul+k/MatMul_myl0_2", ("q/MatMul", "k/MatMul")),
        ("__myl_MulMaxSubExp_myl109_3", ()),
        ("norm/Add", ("norm/Add",)),
    ],
)
def test_names_stand_for_nodes_where_there_is_no_metadata(name: str, nodes: tuple[str, ...]) -> None:
    record = {"Name": name, "LayerType": "gemm", "Inputs": [], "Outputs": [tensor("r", "Half")]}
    assert [layer.nodes for layer in known(engine(record))] == [nodes]


@pytest.mark.parametrize("phrase", ["N/A due to dynamic shapes", "Row major linear", ""])
def test_a_type_that_is_not_told_is_unknown(phrase: str) -> None:
    record = {"Name": "n", "LayerType": "NoOp", "Inputs": [tensor("x", phrase)], "Outputs": [{"Name": "y"}]}
    (found,) = known(engine(record))
    assert (found.inputs, found.outputs) == (("unknown",), ("unknown",))


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "not JSON",
        "[]",
        "{}",
        engine(),
        engine("a name alone", "another"),
        engine(COPY, "a name alone"),
        engine({**COPY, "Outputs": []}),
        engine({**COPY, "Inputs": ["x"]}),
        engine({**COPY, "LayerType": None}),
        engine(CONVOLUTION, {**COPY, "Name": "{ForeignNode[blocks.0/Add...head/MatMul]}", "LayerType": "Myelin"}),
    ],
)
def test_what_is_not_understood_is_not_known(text: str | None) -> None:
    assert layers(text) is None
