# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vitedge.export.tensorrt.layers import read_layers
from vitedge.export.tensorrt.records import EngineLayer

TENSOR = "{{ Name: {}, Dimensions: [{}], Strides: [1], StrideOrder: [0], Datatype: {}, Format: (Linear) Row major }}"
GEMM = (
    "Name: head, LayerType: x/MatMul_U7_myl0_1, LayerType: gemm, "
    f"Inputs: [ {TENSOR.format('a [1], b', '1,17,48', 'Int8')}], "
    f"Constants: [ {TENSOR.format('w', '48,7', 'Int8')}, {TENSOR.format('alpha', '1', 'Float')}], "
    f"Outputs: [ {TENSOR.format('y', '1,17,7', 'Half')}], "
    "TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: "
    "[ONNX Layer: head/MatMul]__gemm_from_conv1x1\x1f[ONNX Layer: head/Dequantize[0]]__folded"
)
EMPTY = "Name: k, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: "
EMPTY = EMPTY.replace("Metadata", "EventId: 8, Metadata")


def test_a_kernel_is_read_whatever_its_names_hold() -> None:
    layers = read_layers(["Parsing.", f"Layers:\n{GEMM}\n{EMPTY}\n\nI/O Tensors:\n Name: image, IOMode: Input", "End."])
    assert layers == (
        EngineLayer(
            "head, LayerType: x/MatMul_U7_myl0_1", "gemm", ("int8",), ("int8",), ("fp16",),
            ("head/MatMul", "head/Dequantize[0]"),
        ),
        EngineLayer("k", "signal", (), (), (), ()),
    )  # fmt: skip


@pytest.mark.parametrize(
    "messages",
    [
        [],
        ["Building engine."],
        ["Layers:\n"],
        [f"Layers:\n{GEMM}", f"Layers:\n{GEMM}"],
        [f"Layers:\n{GEMM.replace('LayerType: gemm', 'Kind: gemm')}"],
        [f"Layers:\n{GEMM}\n{GEMM.replace('Outputs: [', 'Results: [')}"],
        [f"Layers:\n{GEMM.replace('Datatype: Int8', 'DType: Int8')}"],
        [f"Layers:\n{GEMM[: len(GEMM) // 2]}"],
    ],
)
def test_a_list_that_is_absent_or_of_another_form_is_not_known(messages: list[str]) -> None:
    assert read_layers(messages) is None
