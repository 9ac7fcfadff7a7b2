# SPDX-License-Identifier: Apache-2.0
"""`products`, `records` and `summary`: what files ask for beside what the compiler made of them, by real builds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from tests.export.tensorrt.bad_files import good
from tests.export.tensorrt.engine_files import built, float16, int8, needs_rtx, weights_int8
from vitedge.export.tensorrt.graph import OnnxGraph
from vitedge.export.tensorrt.products import match_products
from vitedge.export.tensorrt.records import EngineLayer, EngineProduct, EngineRecord
from vitedge.export.tensorrt.summary import (
    UNKNOWN_KERNELS,
    float32_products,
    narrowed_products,
    shortfall,
    summary,
)

pytestmark = needs_rtx


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> EngineRecord:
    """Int8 as TensorRT runs it fast: the rest in half precision, queries, keys and values apart."""
    return built(tmp_path_factory.mktemp("apart"), int8("vit", rest="fp16"))


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> EngineRecord:
    return built(tmp_path_factory.mktemp("joined"), int8("vit", rest="fp16", apart=False))


@pytest.fixture(scope="module")
def float32_rest(tmp_path_factory: pytest.TempPathFactory) -> EngineRecord:
    return built(tmp_path_factory.mktemp("rest"), int8("vit"))


def test_a_file_in_the_form_that_is_fast_keeps_all_that_it_asks_for(apart: EngineRecord) -> None:
    assert summary(apart) == ("14 of 14 quantized products in int8, 4 of 4 products in fp16, 2 of 2 attentions fused")
    assert shortfall(apart, 1.0, half=True) == ""
    assert float32_products(apart) == ()


def test_joined_queries_keys_and_values_lose_their_integers(joined: EngineRecord) -> None:
    lost = [product for product in joined.products if product.found != product.asked]
    assert [product.module for product in lost] == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    assert {product.found for product in lost} == {"fp16"}
    assert shortfall(joined, 0.95, half=True) == (
        "8 of 10 quantized products run in int8 (not blocks.0.attn.qkv, blocks.1.attn.qkv), "
        "where at least 95% was asked for."
    )
    assert shortfall(joined, 0.8, half=True) == ""


def test_a_rest_in_float32_is_found_though_every_quantized_product_is_one(float32_rest: EngineRecord) -> None:
    quantized = [product for product in float32_rest.products if product.asked == "int8"]
    assert {product.found for product in quantized} == {"int8"}
    assert [product.node for product in float32_products(float32_rest)] == [
        f"blocks.{block}.attn/{name}" for block in (0, 1) for name in ("MatMul", "MatMul_1")
    ]
    found = shortfall(float32_rest, 0.95, half=True)
    assert "14 of 18 products run in less than float32 (not blocks.0.attn" in found
    assert "0 of 2 attentions are fused (not blocks.0.attn, blocks.1.attn)" in found
    assert shortfall(float32_rest, 0.95, half=True, kept=("blocks.0.attn", "blocks.1.attn")) == ""


def test_half_precision_is_fused_and_float32_is_not_asked_to_be(tmp_path: Path) -> None:
    half = built(tmp_path, float16("vit"), "SM75", "SM86")
    assert summary(half) == "14 of 14 products in fp16, 2 of 2 attentions fused"
    assert {attention.found for attention in half.attentions} == {"fp16"}


@pytest.mark.parametrize("mask", ["", ", mask"])
def test_an_attention_that_is_quantized_whole_is_fused_in_int8(mask: str, tmp_path: Path) -> None:
    """With a rest in float32 too, where one that is not quantized is not fused."""
    shape = "float[1,2,64,32]"
    pairs = "".join(f"{x}_i = QuantizeLinear ({x}, s, z) {x}_d = DequantizeLinear ({x}_i, s, z) " for x in "qkv")
    scores = "a = MatMul (q_d, t) b = Add (a, m) p = Softmax (b)" if mask else "a = MatMul (q_d, t) p = Softmax (a)"
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 19]> '
        f"whole ({shape} q, {shape} k, {shape} v, float[1,2,64,64] mask) => ({shape} y) "
        f"<float s = {{0.05}}, int8 z = {{0}}> {{ {pairs} t = Transpose <perm = [0, 1, 3, 2]> (k_d) m = Abs (mask) "
        f"{scores} p_i = QuantizeLinear (p, s, z) p_d = DequantizeLinear (p_i, s, z) c = MatMul (p_d, v_d) "
        "y_i = QuantizeLinear (c, s, z) y = DequantizeLinear (y_i, s, z) }"
    )
    record = built(tmp_path, model.SerializeToString())
    assert [(found.asked, found.found) for found in (*record.products, *record.attentions)] == [("int8", "int8")] * 3


def test_products_of_dequantized_weights_are_in_floating_point_and_say_who_dequantizes(tmp_path: Path) -> None:
    record = built(tmp_path, weights_int8("vit"))
    dequantized = [product for product in record.products if product.stored_weights]
    assert {(product.asked, product.found, product.stored_weights) for product in dequantized} == {
        ("fp16", "fp16", "int8")
    }
    assert {product.read_weights for product in dequantized} == {"int8", "fp16"}
    assert "dequantize their weights in the product's own kernel" in summary(record)


def test_convolutions_have_no_int8_on_turing(tmp_path: Path) -> None:
    content = int8("mobilevit", rest="fp16")
    ampere = [p.found for p in built(tmp_path, content).products if p.node.endswith("/Conv") and p.asked == "int8"]
    turing = [p.found for p in built(tmp_path, content, "SM75").products if p.node.endswith("/Conv")]
    assert set(ampere) == {"int8"}
    assert set(turing) == {"fp16"}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("a = MatMul (c, w) y = Cast <to = 10> (a)", "fp16"),
        ("a = MatMul (c, w) b = Sigmoid (a) y = Cast <to = 10> (b)", "fp32"),
    ],
)
def test_a_product_alone_in_float32_is_narrowed_by_the_compiler_and_told(body: str, found: str, tmp_path: Path) -> None:
    """Even where its weights overflow float16, as these do."""
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 19]> alone (float16[1,64,64] x) => (float16[1,64,64] y)'
        f"{{ c = Cast <to = 1> (x) {body} }}"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.full((64, 64), 1e6, np.float32), "w"))
    record = built(tmp_path, model.SerializeToString())
    assert [(product.asked, product.found) for product in record.products] == [("fp32", found)]
    assert narrowed_products(record) == (record.products if found == "fp16" else ())
    assert ("1 product asked for in float32 in less" in summary(record)) == (found == "fp16")


def test_multiplications_are_counted(apart: EngineRecord, joined: EngineRecord) -> None:
    by_node = {product.node: product.macs for product in joined.products}
    assert by_node["patch_embed.proj/Conv"] == 48 * 4 * 4 * 3 * 8 * 8
    assert by_node["blocks.0.attn.qkv/MatMul"] == 17 * 48 * 144
    assert by_node["blocks.0.attn/MatMul"] == 3 * 17 * 16 * 17
    assert joined.attentions[0].macs == 2 * 3 * 17 * 16 * 17
    assert sum(product.macs for product in apart.products) == sum(by_node.values())
    asked = [product for product in joined.products if product.asked == "int8"]
    lost = [product.macs for product in asked if product.found != "int8"]
    assert lost == [17 * 48 * 144] * 2


def test_kernels_that_are_not_known_are_neither_passed_nor_short(apart: EngineRecord) -> None:
    unknown = EngineRecord(**{**vars(apart), "layers": None, "products": (), "attentions": ()})
    assert summary(unknown) == UNKNOWN_KERNELS
    assert shortfall(unknown, 1.0, half=True) == ""


def test_a_product_that_no_kernel_lists_is_not_counted_as_found(joined: EngineRecord) -> None:
    graph = OnnxGraph(onnx.load_from_string(int8("vit", rest="fp16", apart=False)))
    products, attentions = match_products(graph, ())
    assert {product.found for product in (*products, *attentions)} == {""}
    nothing = EngineRecord(**{**vars(joined), "layers": (), "products": products, "attentions": attentions})
    assert shortfall(nothing, 0.01, half=True).startswith("0 of 10 quantized products run in int8")


@pytest.mark.parametrize(
    ("name", "kind", "inputs", "constants", "found"),
    [
        ("first.proj/MatMul_U7_myl0_1", "gemm", ("int8",), ("int8",), "int8"),
        ("first.proj/MatMul_U7_myl0_1", "gemm", ("int8", "int8"), (), "int8"),
        ("__myl_CastMulFc_myl0_4", "runtime_fusion", ("int8", "fp16"), (), "fp16"),
        ("__myl_CastMulCastMulFc_myl0_4", "runtime_fusion", ("int8",), ("int8", "fp16"), "fp16"),
        ("__myl_FcAdd_myl0_4", "runtime_fusion", ("int8",), ("int8", "fp16"), "int8"),
        ("__myl_AddMulSum_myl0_4", "kgen", ("int8",), ("int8",), "fp16"),
        ("__myl_MulRounCast_myl0_4", "kgen", ("fp16",), ("int8",), ""),
    ],
)
def test_a_kernel_counts_by_the_type_that_it_multiplies_in(
    name: str, kind: str, inputs: tuple[str, ...], constants: tuple[str, ...], found: str
) -> None:
    layer = EngineLayer(name, kind, inputs, constants, ("fp16",), ("first.proj/MatMul",))
    products, _ = match_products(OnnxGraph(good()), (layer,))
    assert products[0] == EngineProduct("first.proj/MatMul", "first.proj", "int8", found, 16 * 32 * 32)
