# SPDX-License-Identifier: Apache-2.0
"""The adapter over the classic API, against a recording stand-in with the members of each version.

The classic TensorRT itself was not run. TensorRT for RTX, whose Python API has the same names, was: it builds an engine
through the adapter without a GPU. Versions are tags of NVIDIA/TensorRT: for 10.13 the tag is 10.13.3.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cuda_stand_in import install
from tests.tensorrt_stand_in import ENGINE, VERSIONS, Situation, members, stand_in
from vitedge.errors import BadRecipe, CheckFailed, MissingBackend, UnreadableArtifact
from vitedge.export.tensorrt.classic import build, inspect
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.runtimes import cuda
from vitedge.runtimes.cuda import Gpu
from vitedge.runtimes.plan import parse_head

STRONGLY_TYPED = tuple(version for version in VERSIONS if not version.startswith("8."))
WEAKLY_TYPED = tuple(version for version in VERSIONS if not version.startswith("11."))

Request = Callable[..., EngineRequest]


@pytest.fixture
def request_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    """Writes a half-precision ONNX file and gives requests for it, on a machine that has the stand-in's GPU."""
    install(tmp_path, monkeypatch)
    weight = numpy_helper.from_array(np.ones((4, 4), np.float16), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, (1, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, (1, 4))],
        [weight],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), path)

    def make(targets: tuple[str, ...] = (), **options: Any) -> EngineRequest:
        return EngineRequest(path, tmp_path / "model.engine", targets, options=options)

    return make


def flags_of(trt: Any, situation: Situation) -> set[str]:
    """Names of the flags that a network was created with."""
    ((bits,),) = situation.named("create_network")
    return {flag.name for flag in trt.NetworkDefinitionCreationFlag if bits >> int(flag) & 1}


def set_flags(situation: Situation) -> list[str]:
    return [flag.name for (flag,) in situation.named("set_flag")]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_with_its_own_members_alone(request_for: Request, version: str) -> None:
    situation, phases = Situation(), list[str]()
    trt, request = stand_in(version, situation), request_for()
    assert build(trt, EngineRequest(request.onnx, request.out, ("SM86",), progress=phases.append)) == ENGINE
    created = flags_of(trt, situation)
    assert ("EXPLICIT_BATCH" in created) == (not version.startswith("11."))
    assert ("STRONGLY_TYPED" in created) == (version in STRONGLY_TYPED)
    assert set_flags(situation) == ([] if version in STRONGLY_TYPED else ["FP16"])
    assert [flag.name for (flag,) in situation.named("clear_flag")] == ["TF32"]
    assert [value.name for (value,) in situation.named("profiling_verbosity")] == ["DETAILED"]
    assert phases == (["Building Engine"] if version in STRONGLY_TYPED else [])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dynamic_input_gets_a_profile(request_for: Request, version: str) -> None:
    situation = Situation(inputs={"x": (-1, 4)})
    request = request_for()
    shapes = {"x": ((1, 4), (4, 4), (8, 4))}
    build(stand_in(version, situation), EngineRequest(request.onnx, request.out, (), shapes))
    assert situation.named("set_shape") == [("x", (1, 4), (4, 4), (8, 4))]
    assert len(situation.named("add_optimization_profile")) == 1


@pytest.mark.parametrize(
    ("inputs", "shapes", "sentence"),
    [
        ({"x": (-1, 4)}, {}, r"dynamic inputs x, and shapes were given for none\.$"),
        ({"x": (1, 4)}, {"z": ((1, 4), (4, 4), (8, 4))}, r"dynamic inputs none, and shapes were given for z\.$"),
        ({"x": (-1, 4)}, {"x": ((8, 4), (4, 4), (1, 4))}, "does not take x in the shapes .*inconsistent"),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    request_for: Request, inputs: dict[str, Any], shapes: dict[str, Any], sentence: str
) -> None:
    request = request_for()
    with pytest.raises(BadRecipe, match=sentence):
        build(stand_in("10.3.0", Situation(inputs=inputs)), EngineRequest(request.onnx, request.out, (), shapes))


def test_a_parser_error_names_the_node(request_for: Request) -> None:
    for version, place in (("8.6.1", "node 7: "), ("10.3.0", r"blocks\.0\.attn\.qkv/MatMul \(MatMul\): ")):
        situation = Situation(parse_error="Non-zero zero point\n is not supported.")
        with pytest.raises(UnreadableArtifact, match=rf"{version} cannot read .*: {place}Non-zero zero point is not"):
            build(stand_in(version, situation), request_for())


def test_a_file_without_outputs_is_refused_before_the_build(request_for: Request) -> None:
    situation = Situation(outputs={})
    with pytest.raises(UnreadableArtifact, match="has no outputs"):
        build(stand_in("10.3.0", situation), request_for())
    assert not situation.named("build_serialized_network")


def test_a_build_that_fails_gives_the_log_s_reason(request_for: Request) -> None:
    situation, log = (
        Situation(build_error="[x.cpp::f::1] Error Code 10: Internal Error (No tactic. In f at /a.cpp:3)"),
        [],
    )
    with pytest.raises(CheckFailed, match=r"builds no engine from .*: Internal Error \(No tactic\.\)\.$") as caught:
        build(stand_in("10.3.0", situation), request_for(), lambda *message: log.append(message))
    assert caught.value.exit_code == 4
    assert log == [("ERROR", situation.build_error)]


def test_a_machine_without_a_gpu_is_refused_in_one_sentence(
    request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingBackend, match=r"cannot use the GPU of this machine: Cuda Runtime .*\.$"):
        build(stand_in("10.3.0", Situation(no_gpu=True)), request_for())
    monkeypatch.setattr(cuda, "LIBRARIES", {"Linux": ("libcuda_not_there.so",)})
    with pytest.raises(MissingBackend, match="no NVIDIA driver"):
        build(stand_in("10.3.0", Situation()), request_for())


def test_a_version_before_names_of_inputs_is_refused(request_for: Request) -> None:
    trt = stand_in("8.5.3", Situation())
    del trt.ICudaEngine.num_io_tensors
    with pytest.raises(MissingBackend, match=r"TensorRT 8\.5\.3 is too old, .*trtexec"):
        build(trt, request_for())


def test_another_gpu_than_the_machine_s_is_refused(request_for: Request) -> None:
    assert cuda.gpu() == Gpu("Stand-in GPU", "SM86", "12.4")
    with pytest.raises(MissingBackend, match=r"here Stand-in GPU \(SM86\), and not for SM87"):
        build(stand_in("10.3.0", Situation()), request_for(("SM87",)))


def test_the_adapter_drives_a_real_builder(request_for: Request) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'vitedge[tensorrt-rtx]'")
    request, phases, log = request_for(), list[str](), list[tuple[str, str]]()
    path = request.onnx
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, path)
    shapes = {"x": ((1, 4), (4, 4), (8, 4))}
    options = {"workspace_mib": 1024, "optimization_level": 3, "sparse_weights": True, "tf32": False}
    request = EngineRequest(path, request.out, (), shapes, options, progress=phases.append)
    engine = build(trt, request, lambda *message: log.append(message))
    assert parse_head(engine).library == "tensorrt-rtx"
    assert phases
    assert {"INFO", "VERBOSE"} <= {severity for severity, _ in log}
    assert inspect(trt, engine) is None  # it is not loaded where there is no driver
    with pytest.raises(BadRecipe, match="does not take the shapes"):
        build(trt, EngineRequest(path, request.out, (), {"x": ((8, 4), (4, 4), (1, 4))}))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UnreadableArtifact, match=r"cannot read .*model\.onnx: .*"):
        build(trt, EngineRequest(path, request.out, (), shapes))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_is_inspected_in_its_usual_shape(version: str) -> None:
    situation = Situation(inputs={"x": (-1, 4)}, profile=((1, 4), (4, 4), (8, 4)))
    assert inspect(stand_in(version, situation), ENGINE) == '{"Layers": []}'
    assert situation.named("set_input_shape") == [("x", (4, 4))]
    assert len(situation.named("execution_context")) == 1
    allowed = "engine_host_code_allowed" in members(version, "Runtime")
    assert situation.named("engine_host_code_allowed") == [(True,)] * allowed


def test_an_engine_that_is_not_loaded_tells_nothing() -> None:
    assert inspect(stand_in("10.3.0", Situation(load_error="no")), ENGINE) is None
    assert inspect(stand_in("10.3.0", Situation(inputs={"x": (-1, 4)}, no_memory=True)), ENGINE) is None
    static = Situation()
    assert inspect(stand_in("10.3.0", static), ENGINE) is not None
    assert not static.named("create_execution_context")
