# SPDX-License-Identifier: Apache-2.0
"""With `onnx.translation`, `onnx.skeleton`, `onnx.writer`, `onnx.artifact`, `onnx.passes.half`, `onnx.passes.opset`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

from tests.export import tiny
from tests.releases import older
from tests.vitedge.program.test_capture import Wrapper
from vitedge.errors import BadRecipe, CheckFailed
from vitedge.export import to_onnx
from vitedge.export.onnx import writer as onnx_writer
from vitedge.export.onnx.passes.opset import NEWEST_OPSET
from vitedge.export.to_onnx import DEFAULT_OPSET, lower
from vitedge.program.capture import capture
from vitedge.recipe import ResolvedRecipe
from vitedge.records import Artifact

PLAIN: dict[str, object] = {"batch": 1, "opset": None, "precision": "fp32"}
"""The recipe of a file of which nothing is asked."""
FIXED = ("vit", "pit", "swin", "mobilevit", "mobilevitv2")
"""Models whose graphs for one image are of different kinds: DeiT and BEiT join their tokens as ViT does."""
OF_OTHER_OPSETS = (
    ("swin", "dynamic", 17),
    ("mobilevitv2", "dynamic", NEWEST_OPSET),
    pytest.param("swin", "dynamic", NEWEST_OPSET, marks=pytest.mark.slow),
    pytest.param("mobilevitv2", "dynamic", 17, marks=pytest.mark.slow),
)
"""GELU and windows in one, a group norm and a linear attention in the other: what opsets spell differently."""


def lowered(folder: Path, name: str, **recipe: object) -> tuple[Artifact, Path]:
    artifact, content = written(name, tuple(sorted({**PLAIN, **recipe}.items())))
    out = folder / "model.onnx"
    out.write_bytes(content)
    return artifact, out


@cache
def written(name: str, recipe: tuple[tuple[str, object], ...]) -> tuple[Artifact, bytes]:
    """Lowered once, for all tests that look at the same file."""
    asked = ResolvedRecipe(**dict(recipe))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.onnx"
        artifact = lower(tiny.program(name, asked.batch)[1], asked, out)
        return artifact, out.read_bytes()


def run(out: Path, images: torch.Tensor, *, at_once: bool) -> np.ndarray:
    session = tiny.session(out)
    parts = [images] if at_once else images.split(1)
    return np.concatenate([session.run(["logits"], {"image": part.numpy()})[0] for part in parts])


def reference_of(name: str, batch: int | str, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return tiny.program(name, batch)[0](images).numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "batch", "opset"),
    [
        *((name, "dynamic", None) for name in tiny.NAMES),
        *((name, 1, None) for name in FIXED),
        *OF_OTHER_OPSETS,
    ],
)
def test_the_file_computes_what_the_model_computes(
    tmp_path: Path, name: str, batch: int | str, opset: int | None
) -> None:
    images = tiny.images()
    artifact, out = lowered(tmp_path, name, batch=batch, opset=opset)
    found = run(out, images, at_once=batch == "dynamic")
    tolerance = 1e-4 if name == "mobilevitv2" else 2e-5
    assert tiny.relative_error(found, reference_of(name, batch, images)) <= tolerance
    asked = opset or DEFAULT_OPSET
    assert {entry.domain: entry.version for entry in onnx.load(out).opset_import} == {"": asked}
    assert artifact.target == f"opset {asked}"


@pytest.mark.parametrize(
    ("name", "batch", "opset"), [*((name, "dynamic", None) for name in tiny.NAMES), *OF_OTHER_OPSETS]
)
def test_half_precision_holds_40_db(tmp_path: Path, name: str, batch: int | str, opset: int | None) -> None:
    images = tiny.images()
    _, out = lowered(tmp_path, name, batch=batch, opset=opset, precision="fp16")
    found = run(out, images, at_once=batch == "dynamic")
    assert tiny.centred_sqnr(found, reference_of(name, batch, images)) >= 40


@pytest.mark.parametrize(("name", "opset"), [("vit", 13), ("vit", 16), ("mobilevitv2", 13)])
def test_an_opset_without_layer_normalization_says_so(tmp_path: Path, name: str, opset: int) -> None:
    images = tiny.images()
    artifact, out = lowered(tmp_path, name, batch="dynamic", opset=opset)
    assert tiny.relative_error(run(out, images, at_once=True), reference_of(name, "dynamic", images)) <= 1e-4
    assert any("LayerNormalization" in note for note in artifact.notes)
    assert {"LayerNormalization", "Gelu"}.isdisjoint(node.op_type for node in onnx.load(out).graph.node)


@pytest.mark.parametrize("opset", [12, NEWEST_OPSET + 1])
def test_an_opset_that_cannot_be_had_is_refused_with_those_that_can(tmp_path: Path, opset: int) -> None:
    with pytest.raises(BadRecipe, match=f"from 13 to {NEWEST_OPSET}"):
        lowered(tmp_path, "vit", opset=opset)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "batch"), [*((name, "dynamic") for name in tiny.NAMES), *((name, 1) for name in FIXED)]
)
def test_the_graph_holds_nothing_that_computes_nothing(tmp_path: Path, name: str, batch: int | str) -> None:
    _, out = lowered(tmp_path, name, batch=batch)
    model = onnx.load(out)
    kinds = [node.op_type for node in model.graph.node]
    assert {"Identity", "Cast", "CastLike", "Constant", "Resize", "BatchNormalization", "Dropout"}.isdisjoint(kinds)
    if batch == 1:
        assert {"Shape", "Expand"}.isdisjoint(kinds)
    norms = sum("LayerNorm" in type(part).__name__ for part in tiny.program(name, batch)[0].modules())
    assert kinds.count("LayerNormalization") == norms
    contents = [(tensor.data_type, tuple(tensor.dims), tensor.raw_data) for tensor in model.graph.initializer]
    assert len(set(contents)) == len(contents)
    computed = [(node.op_type, tuple(node.input), str(sorted(map(str, node.attribute)))) for node in model.graph.node]
    assert len(set(computed)) == len(computed)


def test_newer_opsets_have_gelu_as_one_operator_and_older_ones_the_exact_one(tmp_path: Path) -> None:
    _, out = lowered(tmp_path, "vit", opset=20)
    assert [node.op_type for node in onnx.load(out).graph.node].count("Gelu") == 2
    _, out = lowered(tmp_path, "vit", opset=19)
    kinds = [node.op_type for node in onnx.load(out).graph.node]
    assert kinds.count("Erf") == 2
    assert "Tanh" not in kinds


@pytest.mark.parametrize("name", tiny.NAMES)
def test_names_are_those_of_the_reference(tmp_path: Path, name: str) -> None:
    _, out = lowered(tmp_path, name, batch="dynamic")
    graph = onnx.load(out).graph
    module = tiny.program(name, "dynamic")[0]
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_./-]+", entry) for entry in names)
    modules = {path for path, _ in module.named_modules()}
    assert {entry.rpartition("/")[0] for entry in names} <= modules
    weights = {tensor.name for tensor in graph.initializer}
    parameters = {entry for entry, tensor in module.named_parameters() if "bn." not in entry and tensor.ndim > 1}
    folded = {entry for entry in parameters if "relative_position" in entry or "pos_embed" in entry}
    assert parameters - folded <= weights


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", tiny.NAMES)
def test_block_values_equal_the_modules_outputs(tmp_path: Path, name: str, precision: str) -> None:
    artifact, out = lowered(tmp_path, name, batch="dynamic", precision=precision)
    assert tuple(artifact.blocks) == tiny.BLOCKS[name]
    module = tiny.program(name, "dynamic")[0]
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.get_submodule(block).register_forward_hook(lambda *call, block=block: seen.update({block: call[2]}))
        for block in artifact.blocks
    ]
    images = tiny.images(2)
    with torch.no_grad():
        module(images)
    for hook in hooks:
        hook.remove()
    model = onnx.load(out)
    for value in artifact.blocks.values():
        model.graph.output.append(onnx.ValueInfoProto(name=value))
    results = tiny.session_of(model).run(list(artifact.blocks.values()), {"image": images.numpy()})
    for block, result in zip(artifact.blocks, results, strict=True):
        expected = seen[block][0] if isinstance(seen[block], tuple) else seen[block]
        assert tiny.relative_error(result.astype(np.float32), expected.numpy()) <= (
            2e-5 if precision == "fp32" else 2e-2
        )


@pytest.mark.skipif(older("onnxruntime", 1, 30), reason="it infers no shapes of what the files consist of")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "batch"), [*((name, "dynamic") for name in tiny.NAMES), ("swin", 1)])
def test_onnx_runtimes_own_tools_read_the_file(tmp_path: Path, name: str, batch: int | str) -> None:
    _, out = lowered(tmp_path, name, batch=batch)
    inferred = SymbolicShapeInference.infer_shapes(onnx.load(out)).graph
    known = {value.name for value in (*inferred.value_info, *inferred.output)}
    assert {value for node in inferred.node for value in node.output if value} <= known
    prepared, quantized = tmp_path / "prepared.onnx", tmp_path / "quantized.onnx"
    quant_pre_process(str(out), str(prepared))
    quantize_dynamic(str(out), str(quantized), weight_type=QuantType.QUInt8, op_types_to_quantize=["MatMul"])
    images = tiny.images(1)
    reference = reference_of(name, batch, images)
    assert tiny.relative_error(run(prepared, images, at_once=True), reference) <= 1e-4
    assert tiny.relative_error(run(quantized, images, at_once=True), reference) <= 0.5


def test_half_precision_is_typed_and_keeps_the_interface(tmp_path: Path) -> None:
    artifact, out = lowered(tmp_path, "vit", precision="fp16")
    graph = onnx.load(out).graph
    assert (artifact.inputs[0].dtype, artifact.outputs[0].dtype) == ("float32", "float32")
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    floats = {name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT}
    assert set(kinds.values()) - {onnx.TensorProto.INT64} == {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    norms = {name for node in graph.node if node.op_type == "LayerNormalization" for name in node.input[1:]}
    assert {name for name in floats if "mlp.act" not in name} == norms
    apart = sum(node.op_type in ("LayerNormalization", "Softmax", "Erf") for node in graph.node)
    assert 2 <= [node.op_type for node in graph.node].count("Cast") <= 2 + 2 * apart
    _, single = lowered(tmp_path, "vit")
    assert artifact.size < 0.6 * single.stat().st_size


@pytest.mark.parametrize(
    ("form", "kind"), [("processor", onnx.TensorProto.FLOAT), ("tensorrt", onnx.TensorProto.FLOAT16)]
)
def test_what_onnx_runtime_gets_wrong_in_half_precision_stays_in_float32(tmp_path: Path, form: str, kind: int) -> None:
    """On Arm processors; `benchmarks.arm_board` runs such files there."""
    _, out = lowered(tmp_path, "pit", precision="fp16", form=form)
    model = onnx.shape_inference.infer_shapes(onnx.load(out))
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    (erf, *_) = [node for node in model.graph.node if node.op_type == "Erf"]
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    groups = {group.i: node for node in convolutions for group in node.attribute if group.name == "group"}
    assert kinds[erf.output[0]] == kind
    assert {kinds[node.input[1]] for group, node in groups.items() if group > 1} == {kind}
    assert kinds[groups[1].input[1]] == onnx.TensorProto.FLOAT16


def test_bytes_go_in_as_they_are(tmp_path: Path) -> None:
    wrapper = Wrapper(tiny.model("vit"))
    program = capture(wrapper, tiny.spec("vit"), tiny.BLOCKS["vit"], batch="dynamic", dtype="uint8")
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        reference = wrapper(images).numpy()
    for precision in ("fp32", "fp16"):
        artifact = lower(
            program, ResolvedRecipe(input="uint8", batch="dynamic", precision=precision), tmp_path / "m.onnx"
        )
        assert artifact.inputs[0].dtype == "uint8"
        result = run(tmp_path / "m.onnx", images, at_once=True)
        assert tiny.centred_sqnr(result, reference) >= (100 if precision == "fp32" else 40)
        nodes = onnx.load(tmp_path / "m.onnx").graph.node
        (reader,) = [node for node in nodes if "image" in node.input and node.op_type != "Shape"]
        assert (reader.op_type, reader.attribute[0].i) == ("Cast", onnx.TensorProto.FLOAT)


def test_metadata_says_what_the_file_is(tmp_path: Path) -> None:
    artifact, out = lowered(tmp_path, "vit")
    model = onnx.load(out)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert model.producer_name == "vitedge"
    assert json.loads(entries["vitedge.preprocessing"])["std"] == [0.25, 0.25, 0.25]
    assert json.loads(entries["vitedge.labels"]) == list("abcdefg")
    assert json.loads(entries["vitedge.spec"])["family"] == "vit"
    assert json.loads(entries["vitedge.blocks"]) == dict(artifact.blocks)
    assert json.loads(entries["vitedge.recipe"])["precision"] == "fp32"
    assert str(Path(__file__).parents[2]).encode() not in out.read_bytes()


def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    """Captured and lowered once more, after all that was lowered before."""
    artifact, out = lowered(tmp_path, "swin", batch="dynamic", precision="fp16")
    assert artifact.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    program = capture(tiny.model("swin"), tiny.spec("swin"), tiny.BLOCKS["swin"], batch="dynamic")
    again = lower(program, ResolvedRecipe(batch="dynamic", precision="fp16"), tmp_path / "again.onnx")
    assert again.files == {"again.onnx": artifact.sha256}


def test_lowering_leaves_the_program_as_it_was(tmp_path: Path) -> None:
    module, program = tiny.program("mobilevit")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    names = [node.name for node in program.exported.graph.nodes]
    lower(program, ResolvedRecipe(precision="fp16"), tmp_path / "model.onnx")
    assert names == [node.name for node in program.exported.graph.nodes]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    """A model whose weights are over the limit of one file, and its folder. Not to be changed."""
    folder = tmp_path_factory.mktemp("beside")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_writer, "ONE_FILE_LIMIT", 100_000)
        artifact = lower(tiny.program("vit", 1)[1], ResolvedRecipe(), folder / "model.onnx")
    return artifact, folder


def test_weights_over_the_limit_go_to_one_file_beside(beside: tuple[Artifact, Path]) -> None:
    artifact, folder = beside
    out = folder / "model.onnx"
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert artifact.files == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())
    }
    assert artifact.size == sum(path.stat().st_size for path in folder.iterdir())
    assert out.stat().st_size < 100_000
    images = tiny.images()
    assert tiny.relative_error(run(out, images, at_once=False), reference_of("vit", 1, images)) <= 2e-5


def test_external_weights_cut_short_are_not_valid(beside: tuple[Artifact, Path], tmp_path: Path) -> None:
    artifact, folder = beside
    out = Path(shutil.copytree(folder, tmp_path / "cut")) / "model.onnx"
    data = out.with_name("model.onnx.data")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(CheckFailed, match="bytes and has"):
        to_onnx._check_written(artifact, out, 18)


def test_a_dynamic_batch_that_is_none_is_not_claimed(tmp_path: Path) -> None:
    artifact, out = lowered(tmp_path, "vit")
    model = onnx.load(out)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    onnx.save(model, out)
    free = dataclasses.replace(artifact.inputs[0], shape=("batch", *artifact.inputs[0].shape[1:]))
    with pytest.raises(CheckFailed, match="at 2"):
        to_onnx._check_written(dataclasses.replace(artifact, inputs=(free,)), out, 18)


def test_a_damaged_file_is_not_valid(tmp_path: Path) -> None:
    artifact, out = lowered(tmp_path, "vit")
    model = onnx.load(out)
    model.graph.node[0].input[0] = "nothing"
    onnx.save(model, out)
    with pytest.raises(CheckFailed, match="not valid ONNX"):
        to_onnx._check_written(artifact, out, 18)


def test_a_file_cut_short_is_not_valid(tmp_path: Path) -> None:
    artifact, out = lowered(tmp_path, "vit")
    out.write_bytes(out.read_bytes()[:-100])
    with pytest.raises(CheckFailed, match="cut short"):
        to_onnx._check_written(artifact, out, 18)
