# SPDX-License-Identifier: Apache-2.0
"""`options` and `settings`: what is typed for each version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.export.tensorrt.bad_files import good
from tests.vitedge.devices.trtexec import stand_in
from tests.vitedge.devices.trtexec.boards import VERSIONS, Board, every_version, program_of
from vitedge.devices.trtexec.options import build_words, is_strongly_typed, shape_words, skip_inference
from vitedge.devices.trtexec.program import Trtexec
from vitedge.devices.trtexec.settings import Settings
from vitedge.errors import BadRecipe

FULL: dict[str, Any] = {"workspace_mib": 512, "timing_cache": "t", "sparse_weights": True, "dla_core": 0}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(good(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def the(version: str, folder: Path) -> Trtexec:
    return program_of(version, Board(folder / version))


@every_version
def test_no_version_is_told_what_it_does_not_know(version: str, model: Path, tmp_path: Path) -> None:
    program = the(version, tmp_path)
    words = (
        *build_words(program, {**FULL, "external_libraries": False}, model),
        skip_inference(program),
        *Settings().words(program),
        *Settings(cuda_graph=False, spin_wait=False, transfers=True).words(program),
    )
    known = stand_in.Program(version, []).options()
    assert {word.partition("=")[0] for word in words} <= set(known)
    assert not [word for word in words if program.options.get(word.partition("=")[0])]  # none that is deprecated
    assert ("--workspace=512" in words) == (version == "8.2")
    assert ("--memPoolSize=workspace:512" in words) == (version != "8.2")
    assert ("--buildOnly" in words) == (version in ("8.2", "8.5"))
    assert {"--noTF32", "--useDLACore=0", "--allowGPUFallback", "--sparsity=enable"} <= set(words)
    assert ("--tacticSources=-CUBLAS,-CUBLAS_LT,-CUDNN" in words) == (version != "11.1")


@every_version
def test_types_are_those_of_the_file(version: str, model: Path, tmp_path: Path) -> None:
    program = the(version, tmp_path)
    words = build_words(program, {"tf32": True}, model)
    expected = {"8": ("--fp16", "--int8"), "10": ("--stronglyTyped",), "11": ()}
    assert words == expected[version.partition(".")[0]]
    assert is_strongly_typed(program, {}) == (not version.startswith("8"))


def test_typing_can_be_weak_where_there_are_flags_for_it(model: Path, tmp_path: Path) -> None:
    assert build_words(the("10.3", tmp_path), {"strongly_typed": False}, model) == ("--fp16", "--int8", "--noTF32")
    with pytest.raises(BadRecipe, match="builds with the types of the file alone: leave strongly_typed out"):
        build_words(the("11.1", tmp_path), {"strongly_typed": False}, model)
    with pytest.raises(BadRecipe, match=r"trtexec 8\.6\.1 on ssh:board has no --stronglyTyped, which the option"):
        build_words(the("8.6", tmp_path), {"strongly_typed": True}, model)


def test_types_without_a_flag_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.onnx"
    onnx.save(
        onnx.parser.parse_model(
            '<ir_version: 9, opset_import: ["" : 19]> g (bfloat16[2] x) => (bfloat16[2] y) { y = Relu (x) }'
        ),
        path,
    )
    with pytest.raises(
        BadRecipe, match=r"trtexec 8\.6\.1 on ssh:board has no --bf16, which the types of .*wide\.onnx need"
    ):
        build_words(the("8.6", tmp_path), {}, path)
    assert "--bf16" in build_words(the("10.3", tmp_path), {"strongly_typed": False}, path)


@pytest.mark.parametrize(
    ("option", "value", "first", "word"),
    [
        ("optimization_level", 5, "8.6", "--builderOptimizationLevel=5"),
        ("version_compatible", True, "8.6", "--versionCompatible"),
        ("hardware_compatible", "ampere", "8.6", "--hardwareCompatibilityLevel=ampere+"),
        ("hardware_compatible", "same_capability", "10.13", "--hardwareCompatibilityLevel=sameComputeCapability"),
    ],
)
def test_an_option_that_matters_is_refused_by_older_versions(
    option: str, value: Any, first: str, word: str, model: Path, tmp_path: Path
) -> None:
    for version in VERSIONS:
        program = the(version, tmp_path)
        if VERSIONS.index(version) >= VERSIONS.index(first):
            assert word in build_words(program, {option: value}, model)
        else:
            with pytest.raises(
                BadRecipe, match=rf"{version}.* has no --\w+=?.*, which the option {option} {value} needs"
            ):
                build_words(program, {option: value}, model)


def test_options_that_do_not_exist_are_refused(model: Path, tmp_path: Path) -> None:
    program = the("8.6", tmp_path)
    with pytest.raises(BadRecipe, match="no option 'speed'"):
        build_words(program, {"speed": 9}, model)
    with pytest.raises(BadRecipe, match="The option hardware_compatible takes ampere, same_capability"):
        build_words(program, {"hardware_compatible": "turing"}, model)


def test_shapes_of_several_inputs_go_into_one_option() -> None:
    shapes = {"x": ((1, 3), (2, 3)), "a:0": ((1,), (2,))}
    assert shape_words(shapes, ("minShapes", "maxShapes")) == ("--minShapes=x:1x3,a:0:1", "--maxShapes=x:2x3,a:0:2")
    assert shape_words({}, ("shapes",)) == ()
    with pytest.raises(BadRecipe, match="cannot be told of the input a,b"):
        shape_words({"a,b": ((1,),)}, ("shapes",))


@every_version
def test_settings_are_equal_on_every_version(version: str, tmp_path: Path) -> None:
    """What is typed differs, and what it means does not."""
    new = version == "11.1"
    asked = ("--useCudaGraph", "--useSpinWait", "--noDataTransfers")
    undone = ("--noCudaGraph", "--noSpinWait", "--includeDataTransfers")
    program = the(version, tmp_path)
    assert Settings(warmup_ms=300).words(program) == ("--warmUp=300", *(() if new else asked))
    everything_else = Settings(cuda_graph=False, spin_wait=False, transfers=True)
    assert everything_else.words(program) == ("--warmUp=200", *(undone if new else ()))


def test_the_method_tells_settings_apart() -> None:
    kinds = [
        Settings(),
        Settings(cuda_graph=False),
        Settings(spin_wait=False),
        Settings(transfers=True),
        Settings(warmup_ms=100),
    ]
    assert len({kind.method() for kind in kinds}) == len(kinds)
    assert Settings().method(captured=False) == Settings(cuda_graph=False).method()
    assert Settings().method() == (
        "trtexec, time of the kernels, with CUDA graph, with spin wait, without copies to and from the GPU, a process "
        "and 200 ms of warm-up for every turn"
    )
