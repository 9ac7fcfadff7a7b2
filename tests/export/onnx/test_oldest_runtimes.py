# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import runtime_versions as benchmark
from vitedge.export.onnx import oldest_runtimes as module
from vitedge.export.onnx.oldest_runtimes import (
    NO_RELEASE,
    TABLE,
    UNKNOWN,
    newest,
    of_opset,
    of_precision,
    oldest_runtimes,
    operators_of,
    reaches,
    sentence,
)

ROWS = benchmark.read(benchmark.RESULTS)
CONTRIB = "com.microsoft"


def packed_product(bits: int, opset: int = 18) -> onnx.ModelProto:
    """A graph of one LayerNormalization and one product with packed weights."""
    names = {
        "x": (TensorProto.FLOAT, [1, 2, 32]),
        "w": (TensorProto.UINT8, [32, 1, 32]),
        "s": (TensorProto.FLOAT, [32]),
    }
    inputs = [helper.make_tensor_value_info(name, *kind) for name, kind in names.items()]
    nodes = [
        helper.make_node("LayerNormalization", ["x", "s", "s"], ["n"]),
        helper.make_node("MatMulNBits", ["n", "w", "s"], ["y"], domain=CONTRIB, bits=bits, block_size=32, K=32, N=32),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 32])
    graph = helper.make_graph(nodes, "g", inputs, [output])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def test_the_table_is_what_the_committed_results_say() -> None:
    assert json.loads(TABLE.read_text(encoding="utf-8")) == json.loads(json.dumps(benchmark.table_of(ROWS)))


def test_nothing_measured_contradicts_it_and_what_has_to_work_does() -> None:
    assert benchmark.missing(ROWS) == []


def test_operators_are_told_apart_by_definition_types_and_kernel() -> None:
    assert operators_of(packed_product(8)) == (
        "IR 8",
        "LayerNormalization-17 f32,f32,f32 -> ?",
        "com.microsoft:MatMulNBits ?,u8,f32 -> f32 bits=8 blocks",
        "opset 18",
    )
    assert set(operators_of(packed_product(4))) ^ set(operators_of(packed_product(8))) == {
        f"com.microsoft:MatMulNBits ?,u8,f32 -> f32 bits={bits} blocks" for bits in (4, 8)
    }


def test_files_in_float32_throughout_are_apart() -> None:
    model = packed_product(8)
    del model.graph.node[1]
    assert "LayerNormalization-17 f32,f32,f32 -> ? in float32" in operators_of(model)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    assert "LayerNormalization-17 f16,f32,f32 -> ?" in operators_of(model)


def test_what_was_never_measured_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(oldest_runtimes(packed_product(3)).values()) == {UNKNOWN}
    known = {name: {"onnxruntime": "1.17", "openvino": "none"} for name in operators_of(packed_product(8))}
    known["opset 18"]["onnxruntime"] = "1.16"
    releases = {"onnxruntime": ["1.16", "1.17"], "openvino": ["2024.0"]}
    monkeypatch.setattr(module, "_table", lambda: {"releases": releases, "operators": known})
    assert oldest_runtimes(packed_product(8)) == {"onnxruntime": "1.17", "openvino": NO_RELEASE}


def test_a_file_needs_the_newest_of_what_its_operators_need() -> None:
    assert newest("onnxruntime", iter(("1.17", "1.16", "1.32"))) == "1.32"
    assert newest("onnxruntime", iter(("1.17", UNKNOWN))) == UNKNOWN
    assert newest("onnxruntime", iter((NO_RELEASE, UNKNOWN))) == NO_RELEASE


@pytest.mark.parametrize(
    ("release", "needed", "enough"),
    [("1.18.1", "1.18", True), ("1.9", "1.17", False), ("2.0", "1.17", True), ("1.18", UNKNOWN, False)],
)
def test_releases_are_compared_by_their_numbers(release: str, needed: str, *, enough: bool) -> None:
    assert reaches(release, needed) is enough


def test_precisions_and_opsets_have_a_release_each() -> None:
    assert of_precision("int8", "packed")["onnxruntime"] == "1.16"
    assert of_precision("w8", "packed")["onnxruntime"] == "1.23"
    assert of_precision("w8", "expanded")["onnxruntime"] == "1.16"
    assert of_precision("w4", "packed")["onnxruntime"] == "1.23"
    assert of_precision("w4", "packed", models="some")["onnxruntime"] == "1.17"
    assert of_precision("w3", "packed") == {}
    assert of_opset(21)["onnxruntime"] == "1.18"
    assert of_opset(99) == {}


def test_a_sentence_says_what_is_known_and_what_is_not() -> None:
    told = sentence({"onnxruntime": "1.17", "openvino": "2025.0"})
    assert told == "computed right from ONNX Runtime 1.17 and OpenVINO 2025.0 on"
    told = sentence({"onnxruntime": "1.17", "openvino": UNKNOWN})
    assert told == "computed right from ONNX Runtime 1.17 on, not measured in OpenVINO"
    told = sentence({"onnxruntime": "1.17", "openvino": NO_RELEASE})
    assert told == "computed right from ONNX Runtime 1.17 on, by no measured release of OpenVINO"
