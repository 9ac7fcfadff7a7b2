# SPDX-License-Identifier: Apache-2.0
"""Tests of `classic_options`, `timing_cache` and `precision_flags` against a recording stand-in of each version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cuda_stand_in import install
from tests.tensorrt_stand_in import VERSIONS, Situation, stand_in
from vitedge.errors import BadRecipe, UnreadableArtifact
from vitedge.export.tensorrt.classic_options import (
    OPTIONS,
    Build,
    apply_options,
    check_options,
    has,
    is_strongly_typed,
)
from vitedge.export.tensorrt.precision_flags import element_types, flags_for
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.export.tensorrt.timing_cache import keep_timing_cache, path_of
from vitedge.runtimes.cuda import Gpu

SAMPLES: Mapping[str, Any] = {
    "workspace_mib": 256,
    "optimization_level": 4,
    "timing_cache": "kept/timing.cache",
    "sparse_weights": True,
    "tf32": True,
    "version_compatible": True,
    "hardware_compatible": "ampere",
    "dla_core": 1,
    "strongly_typed": True,
    "external_libraries": False,
}
SINCE = {
    "optimization_level": "8.6.1",
    "version_compatible": "8.6.1",
    "hardware_compatible": "8.6.1",
    "strongly_typed": "10.0.1",
}
"""First version of the stand-ins that has an option; the others are in all."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def applied(version: str, situation: Situation, **options: Any) -> Any:
    """Checks and sets options in a stand-in, and returns it."""
    trt = stand_in(version, situation)
    check_options(trt, options)
    builder = trt.Builder(trt.ILogger())
    request = EngineRequest(Path("model.onnx"), Path("model.engine"), (), options=options)
    apply_options(Build(trt, builder, builder.create_builder_config(), request))
    return trt


def test_every_option_has_a_sample() -> None:
    assert SAMPLES.keys() == OPTIONS.keys()


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("version", VERSIONS)
def test_an_option_is_set_or_refused_by_name_and_version(here: Path, version: str, name: str) -> None:
    situation = Situation(dla_cores=2)
    if VERSIONS.index(version) < VERSIONS.index(SINCE.get(name, VERSIONS[0])):
        with pytest.raises(BadRecipe, match=rf"TensorRT {version} has no \w+\.\w+, which the option {name} "):
            applied(version, situation, **{name: SAMPLES[name]})
    else:
        applied(version, situation, **{name: SAMPLES[name]})


def test_options_set_what_they_say(here: Path) -> None:
    situation = Situation(dla_cores=2)
    trt = applied("10.3.0", situation, **SAMPLES)
    assert situation.named("set_memory_pool_limit") == [(trt.MemoryPoolType.WORKSPACE, 256 << 20)]
    assert situation.named("builder_optimization_level") == [(4,)]
    assert situation.named("hardware_compatibility_level") == [(trt.HardwareCompatibilityLevel.AMPERE_PLUS,)]
    assert situation.named("default_device_type") == [(trt.DeviceType.DLA,)]
    assert situation.named("DLA_core") == [(1,)]
    flags = [flag.name for (flag,) in situation.named("set_flag")]
    assert flags == ["SPARSE_WEIGHTS", "TF32", "VERSION_COMPATIBLE", "GPU_FALLBACK"]
    ((sources,),) = situation.named("set_tactic_sources")
    left = {source.name for source in trt.TacticSource if sources >> int(source) & 1}
    assert left == {"EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"}


def test_a_value_of_false_sets_nothing_and_needs_nothing() -> None:
    situation = Situation()
    applied("8.5.3", situation, version_compatible=False, sparse_weights=False, tf32=False, external_libraries=True)
    assert not situation.named("set_flag")
    assert not situation.named("set_tactic_sources")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"workspace": 1}, r"no option 'workspace'; choose from workspace_mib, "),
        ({"optimization_level": "high"}, r"optimization_level takes a value of type int, not 'high'"),
        ({"workspace_mib": True}, r"workspace_mib takes a value of type int, not True"),
        ({"hardware_compatible": "all"}, r"hardware_compatible takes ampere, same_capability, not 'all'"),
        ({"sparse_weights": 1}, r"sparse_weights takes True, False, not 1"),
        ({"dla_core": 2}, r"dla_core 2 does not exist on this device, which has 2 DLA cores"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRecipe, match=sentence):
        applied("10.3.0", Situation(dla_cores=2), **options)


def test_same_capability_is_refused_where_only_ampere_is_there() -> None:
    with pytest.raises(BadRecipe, match=r"10\.8\.0 has no HardwareCompatibilityLevel\.SAME_COMPUTE_CAPABILITY"):
        applied("10.8.0", Situation(), hardware_compatible="same_capability")
    applied("10.13.3", Situation(), hardware_compatible="same_capability")


@pytest.mark.parametrize("version", VERSIONS)
def test_typing_is_strong_where_it_can_be_and_weak_by_request(version: str) -> None:
    trt = stand_in(version, Situation())
    assert is_strongly_typed(trt, {}) == (not version.startswith("8."))
    if version.startswith("11."):
        with pytest.raises(BadRecipe, match=r"has no BuilderFlag\.FP16, which the option strongly_typed False needs"):
            check_options(trt, {"strongly_typed": False})
    else:
        check_options(trt, {"strongly_typed": False})
        assert not is_strongly_typed(trt, {"strongly_typed": False})


def test_has_looks_for_classes_and_members() -> None:
    trt = stand_in("8.5.3", Situation())
    assert has(trt, "BuilderFlag.TF32")
    assert not has(trt, "BuilderFlag.FP8")
    assert not has(trt, "HardwareCompatibilityLevel.NONE")


def test_a_timing_cache_is_kept_for_each_gpu_and_version(here: Path) -> None:
    path = path_of("kept/timing.cache", Gpu("NVIDIA GeForce RTX 3080", "SM86", "12.4"), "10.3.0")
    assert path == Path("kept/timing-SM86-geforce-rtx-3080-10.3.0.cache")
    situation = Situation()
    trt = applied("10.3.0", situation, timing_cache="kept/timing.cache")
    assert situation.named("create_timing_cache") == [(b"",)]
    assert situation.named("set_timing_cache")[0][1:] == (("ignore_mismatch", False),)
    request = EngineRequest(Path("m.onnx"), Path("m.engine"), (), options={"timing_cache": "kept/timing.cache"})
    keep_timing_cache(trt.IBuilderConfig(), request, "10.3.0")
    assert Path("kept/timing-SM86-stand-in-gpu-10.3.0.cache").read_bytes() == b"measured"
    again = Situation()
    applied("10.3.0", again, timing_cache="kept/timing.cache")
    assert again.named("create_timing_cache") == [(b"measured",)]


def test_a_timing_cache_that_does_not_fit_is_named(here: Path) -> None:
    with pytest.raises(BadRecipe, match=r"timing-SM86-stand-in-gpu-10\.3\.0\.cache is damaged or of another GPU"):
        applied("10.3.0", Situation(cache_fits=False), timing_cache="timing.cache")
    Path("timing-SM86-stand-in-gpu-10.3.0.cache").mkdir()
    with pytest.raises(BadRecipe, match="cannot be read"):
        applied("10.3.0", Situation(), timing_cache="timing.cache")


def write(path: Path, weights: dict[str, np.ndarray[Any, Any]], nodes: list[onnx.NodeProto]) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph), path)
    return path


def test_flags_are_those_of_the_file_s_types(tmp_path: Path) -> None:
    zero = {"scale": np.ones((), np.float32), "zero": np.zeros((), np.int8)}
    plain = write(tmp_path / "fp32.onnx", {}, [helper.make_node("Relu", ["x"], ["y"])])
    quantized = write(
        tmp_path / "int8.onnx",
        zero,
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
            helper.make_node("Cast", ["d"], ["h"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
        ],
    )
    bfloat = write(tmp_path / "bf16.onnx", {}, [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)])
    constant = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones((1, 4), np.float16)))
    assert element_types(write(tmp_path / "constant.onnx", {}, [constant])) == {"FLOAT", "FLOAT16"}
    trt = stand_in("8.6.1", Situation())
    assert flags_for(trt, plain) == ()
    assert {flag.name for flag in flags_for(trt, quantized)} == {"FP16", "INT8"}
    with pytest.raises(BadRecipe, match=r"8\.6\.1 has no BuilderFlag\.BF16, which the types of .*bf16\.onnx need"):
        flags_for(trt, bfloat)
    assert [flag.name for flag in flags_for(stand_in("10.0.1", Situation()), bfloat)] == ["BF16"]
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(UnreadableArtifact, match="not an ONNX model"):
        element_types(tmp_path / "text.onnx")
