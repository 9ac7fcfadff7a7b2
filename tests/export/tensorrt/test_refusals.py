# SPDX-License-Identifier: Apache-2.0
"""`refusals`, `reading` and `graph`: files that no engine can be built from, each refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from tests.export.tensorrt.bad_files import good
from tests.export.tensorrt.engine_files import BATCHES, float16, int8, needs_rtx
from vitedge.errors import BadRecipe, CheckFailed, UnreadableArtifact, VitedgeError
from vitedge.export.tensorrt import building
from vitedge.export.tensorrt.building import build
from vitedge.export.tensorrt.graph import OnnxGraph, ValueType
from vitedge.export.tensorrt.reading import refusal
from vitedge.export.tensorrt.refusals import check_file, float32_gemms
from vitedge.export.tensorrt.request import EngineRequest

LAST = '["second.proj/MatMul"] y = MatMul (a, weight)'
WEIGHTS = "float16[32] scales>"


def replaced(*lines: str, constants: str = "", opset: int = 19) -> Callable[[Path], None]:
    """Writes the good file with another last node, further constants, or another opset."""
    changes = [(LAST, "\n  ".join(lines) or LAST), (WEIGHTS, WEIGHTS.replace(">", f"{constants}>"))]
    changes += [("ir_version: 9", "ir_version: 10"), ('["" : 19]', f'["" : {opset}]')]
    return lambda path: onnx.save(good(*changes), path)


def scaled(scale: float) -> Callable[[Path], None]:
    return lambda path: onnx.save(good(scale=scale), path)


def external(location: str, length: int) -> Callable[[Path], None]:
    """Writes the good file with one weight in another file, of that name and that many bytes."""

    def write(path: Path) -> None:
        model = good()
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
        if length:
            path.with_name("weights.bin").write_bytes(bytes(length))
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(32 * 32 * 2))):
            weight.external_data.add(key=key, value=value)
        path.write_bytes(model.SerializeToString())

    return write


def content(read: Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(read()) and None


@dataclass(frozen=True)
class Bad:
    """A file with one fault, and how it is refused."""

    write: Callable[[Path], None]
    error: type[VitedgeError]
    sentence: str
    targets: tuple[str, ...] = ("SM86",)
    before: bool = True
    """Whether it is refused before a build is started."""


BAD = {
    "not there": Bad(lambda path: None, UnreadableArtifact, "There is no file"),
    "empty": Bad(content(lambda: b""), UnreadableArtifact, "is not an ONNX model: it has no outputs."),
    "text": Bad(content(lambda: b"a note about a model\n" * 9), UnreadableArtifact, "is not an ONNX model"),
    "truncated": Bad(
        content(lambda: good().SerializeToString()[:900]), UnreadableArtifact, "is not an ONNX model, or is cut short."
    ),
    "no file of weights": Bad(external("weights.bin", 0), UnreadableArtifact, "weights.bin, which is not beside it."),
    "weights cut short": Bad(external("weights.bin", 99), UnreadableArtifact, "cut short: weight ends at byte 2048."),
    "weights elsewhere": Bad(
        external("../weights.bin", 0), UnreadableArtifact, "in ../weights.bin, which is outside its folder."
    ),
    "attention of one tensor": Bad(
        replaced('["second.attn/Attention"] y = Attention <q_num_heads = 2, kv_num_heads = 2> (a, a, a)', opset=23),
        UnreadableArtifact,
        "the Attention of second.attn reads one tensor as query, key and value",
    ),
    "an opset beyond what is allowed": Bad(replaced(opset=24), BadRecipe, "has opset 24, and 23 is the newest"),
    "a free batch": Bad(
        content(lambda: float16("vit", "dynamic")), BadRecipe, "The input image of {} has the shape (batch, 3, 32, 32)"
    ),
    "float32 on Turing": Bad(
        content(lambda: int8("mobilevit")),
        CheckFailed,
        "cannot be built for SM75: float32 GEMM is not supported there, and it has one in "
        "stages.1.1.transformer.0.attn.qkv, ",
        ("SM86", "SM75"),
    ),
    "a zero point": Bad(
        lambda path: onnx.save(good(("zero = {0}", "zero = {3}")), path),
        UnreadableArtifact,
        "parser: first.proj (first.proj/QuantizeLinear): its zero point has to be 0.",
        before=False,
    ),
    **{
        f"a scale of {scale}": Bad(
            scaled(scale),
            UnreadableArtifact,
            "first.proj (first.proj/QuantizeLinear): its scales have to be above 0.",
            before=False,
        )
        for scale in (0.0, -1.0, float("nan"))
    },
    "a bias in int32": Bad(
        replaced(
            '["second.proj/DequantizeLinear"] b = DequantizeLinear <axis = 0> (bias, scales)',
            '["second.proj/Add"] y = Add (a, b)',
            constants=f", int32[32] bias = {{{', '.join(['1'] * 32)}}}",
        ),
        UnreadableArtifact,
        "second.proj (second.proj/DequantizeLinear): input has type Int32 but must have type FP8",
        before=False,
    ),
    "a product of int64": Bad(
        replaced(
            "i = Cast <to = 7> (a)",
            "t = Transpose <perm = [0, 2, 1]> (i)",
            '["second.proj/MatMul"] p = MatMul (t, i)',
            "y = Cast <to = 10> (p)",
        ),
        UnreadableArtifact,
        "second.proj (second.proj/MatMul): ",
        before=False,
    ),
    "an unknown operator": Bad(
        replaced('["second.act/Gizmo"] y = Gizmo (a)'),
        UnreadableArtifact,
        "second.act (second.act/Gizmo): there is no such operator, and no plugin for it.",
        before=False,
    ),
    "an operator on integers": Bad(
        replaced(
            '["second/QLinearMatMul"] i = QLinearMatMul (q, s, zero, integers, s, zero, s, zero)',
            "y = DequantizeLinear (i, s, zero)",
        ),
        UnreadableArtifact,
        "second (second/QLinearMatMul): the operator is not supported.",
        before=False,
    ),
    "two types in a sum": Bad(
        replaced('["second/Add"] y = Add (a, f)', constants=", float f = {1.0}"),
        UnreadableArtifact,
        "second (second/Add): ElementWiseOperation SUM must have same input types.",
        before=False,
    ),
    "an antialiased Resize": Bad(
        replaced(
            "r = Unsqueeze (a, first)",
            '["second/Resize"] t = Resize <mode = "linear", antialias = 1> (r, , sizes)',
            "y = Squeeze (t, first)",
            constants=", int64[1] first = {0}, float[4] sizes = {1.0, 1.0, 1.0, 1.0}",
        ),
        UnreadableArtifact,
        "second (second/Resize): Antialiasing is not supported currently.",
        before=False,
    ),
}


@needs_rtx
@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_built_is_refused_in_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, path = BAD[name], tmp_path / "model.onnx"
    bad.write(path)
    if bad.before:
        monkeypatch.setattr(building, "BuilderProcess", None)  # not started
    with pytest.raises(bad.error) as caught:
        build(EngineRequest(path, tmp_path / "model.engine", bad.targets, newest_opset=23))
    message = str(caught.value)
    assert bad.sentence.format(path) in message
    assert "\n" not in message
    assert message.endswith(".")
    assert not {"cudaError", "Assertion", ".cpp"} & set(message.replace(":", " ").split())
    assert not (tmp_path / "model.engine").exists()


@needs_rtx
@pytest.mark.parametrize(
    ("shape", "result", "body"),
    [
        ("1,16,64", "1,16,64", "y = MatMul (x, w)"),
        ("1,64", "1,64", "y = MatMul (x, w)"),
        ("4,64", "4,64", "y = Gemm (x, w)"),
        ("64,64", "64,64", 'y = Einsum <equation = "ij,jk->ik"> (x, w)'),
        ("1,16,64", "1,16,64", "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = MatMul (d, v)"),
        ("1,64,8,8", "1,64,8,8", "y = Conv (x, k)"),
        ("1,16,64", "1,16,64", "h = Cast <to = 10> (x) c = Cast <to = 10> (w) p = MatMul (h, c) y = Cast <to = 1> (p)"),
        ("1,16,64", "1,16,64", "m = MatMul (w, w) r = ReduceMax <keepdims = 0> (m) y = Add (x, r)"),
    ],
)
def test_float32_on_turing_is_refused_where_the_compiler_does(
    shape: str, result: str, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check before the build and the real compiler without it, on the same files."""
    text = (
        f"float[{shape}] x) => (float[{result}] y) <float s = {{0.1}}, int8 z = {{0}}> {{ v = DequantizeLinear (i, s) "
    )
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> one ({text}{body} }}')
    values = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    for name, weight in (("w", values), ("k", values[:, :, None, None]), ("i", (values * 20).astype(np.int8))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    onnx.save(model, tmp_path / "model.onnx")
    request = EngineRequest(tmp_path / "model.onnx", tmp_path / "model.engine", ("SM75",))
    found = float32_gemms(OnnxGraph(model))
    monkeypatch.setattr(building, "check_file", lambda request, builder: OnnxGraph(model))
    if found:
        with pytest.raises(CheckFailed, match=r"for Turing \(SM75\): node_of_[ym].*: FP32 GEMM is not supported\."):
            build(request)
        with pytest.raises(CheckFailed, match=r"float32 GEMM is not supported there, and it has one in node_of_[ym];"):
            check_file(request, "tensorrt-rtx")
        assert check_file(request, "tensorrt").model == model  # the classic builder has such products
    else:
        assert build(request).layers


def test_shapes_have_to_fit_the_inputs(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(float16("vit", "dynamic"))
    small, usual, large = BATCHES["image"]
    check_file(EngineRequest(path, path, ("SM86",), BATCHES), "tensorrt-rtx")
    for shapes, message in (
        ({**BATCHES, "mask": BATCHES["image"]}, "has no input mask; it has image."),
        ({"image": (large, usual, small)}, "have to follow each other."),
        ({"image": (small[1:], usual[1:], large[1:])}, "do not fit the input image"),
        ({"image": ((1, 1, 32, 32), usual, large)}, r"which is \(batch, 3, 32, 32\)"),
    ):
        with pytest.raises(BadRecipe, match=message):
            check_file(EngineRequest(path, path, ("SM86",), shapes), "tensorrt-rtx")


def test_a_graph_knows_the_types_of_its_values() -> None:
    graph = OnnxGraph(good())
    assert graph.type_of("q") == ValueType("int8", (1, 16, 32))
    assert graph.type_of("a") == ValueType("fp16", (1, 16, 32))
    assert graph.type_of("integers") == ValueType("int8", (32, 32))
    assert graph.type_of("nothing") == ValueType("", ())
    assert graph.is_dequantized("w")
    assert not graph.is_dequantized("a")
    assert [node.name for node in graph.consumers("a")] == ["second.proj/MatMul"]


@needs_rtx
@pytest.mark.parametrize("name", [name for name, bad in BAD.items() if not bad.before])
def test_the_parser_alone_says_the_same(name: str, tmp_path: Path) -> None:
    bad, path = BAD[name], tmp_path / "model.onnx"
    bad.write(path)
    assert bad.sentence.format(path) in refusal(path)


@needs_rtx
def test_the_parser_reads_what_is_built(tmp_path: Path) -> None:
    onnx.save(good(), tmp_path / "model.onnx")
    assert refusal(tmp_path / "model.onnx") == ""
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
