# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import coremltools
import pytest

from vitedge.devices import profiles as module
from vitedge.devices.profiles import apply, profiles
from vitedge.errors import BadRecipe
from vitedge.export.formats import FORMATS
from vitedge.recipe import SCHEMES, ExportRecipe

NAMES = (
    "cpu-x86", "cpu-x86-avx2", "cpu-x86-vnni", "cpu-x86-amx",
    "cpu-arm", "cpu-arm-dotprod", "cpu-arm-i8mm", "raspberry-pi-4", "raspberry-pi-5", "android-cpu",
    "jetson-nano", "jetson-xavier", "jetson-orin-jetpack5", "jetson-orin-nano", "jetson-orin", "jetson-thor",
    "rtx", "rtx-turing", "rtx-ampere", "rtx-ada", "rtx-blackwell",
    "gpu", "gpu-turing", "gpu-ampere", "gpu-ada", "gpu-hopper", "gpu-blackwell",
    "iphone", "iphone-a11", "iphone-a12", "iphone-a17", "iphone-ios18", "mac", "mac-m1", "mac-m4",
)  # fmt: skip
SOURCED = (
    "opset", "opset_max", "formats", "precisions", "coreml_target", "scheme", "onnxruntime", "openvino", "tensorrt",
    "builder", "gpus", "minimum_share", "fits",
)  # fmt: skip


def test_table_holds_the_promised_devices() -> None:
    assert tuple(profiles()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_has_its_source_and_no_other(name: str) -> None:
    profile = profiles()[name]
    assert set(profile.sources) == {entry for entry in SOURCED if getattr(profile, entry)}
    assert all(len(source) > 10 for source in profile.sources.values())


@pytest.mark.parametrize("name", NAMES)
def test_entries_are_ones_that_a_recipe_and_the_tools_know(name: str) -> None:
    profile = profiles()[name]
    assert set(profile.formats) <= set(FORMATS)
    assert set(profile.precisions) <= {"fp32", "fp16", "int8"}
    assert ("onnx" in profile.formats) == (profile.opset is not None)
    assert ("coreml" in profile.formats) == (profile.coreml_target is not None)
    if profile.coreml_target:
        assert profile.coreml_target in coremltools.target.__members__
    if profile.opset_max:
        assert profile.opset is not None
        assert profile.opset <= profile.opset_max


def test_opsets_follow_what_the_devices_tensorrt_reads() -> None:
    # LayerNormalization came with opset 17 and is imported from TensorRT 8.6; JetPack 5 stops at 8.5.2.
    assert profiles()["jetson-xavier"].opset == 16
    assert profiles()["jetson-orin-nano"].opset == 17


@pytest.mark.parametrize("name", NAMES)
def test_profile_fills_what_the_recipe_leaves_open(name: str) -> None:
    profile = profiles()[name]
    filled = apply(ExportRecipe(), name)
    assert filled == ExportRecipe(
        profiles=(name,),
        formats=profile.formats[:1],
        precision=profile.precisions[0],
        opset=profile.opset if profile.opset_max else None,
        coreml_target=profile.coreml_target,
    )


def test_where_nothing_limits_the_opset_a_program_may_need_a_higher_one() -> None:
    assert apply(ExportRecipe(precision="w8a16"), "cpu-x86").opset is None
    assert apply(ExportRecipe(opset=19), "cpu-x86").opset == 19


def test_explicit_settings_win() -> None:
    asked = ExportRecipe(profiles=("rtx",), opset=19, precision="fp32", formats=("tensorrt", "onnx"))
    assert apply(asked, "rtx") == asked
    assert apply(replace(asked, opset=None), "rtx") == asked


@pytest.mark.parametrize(
    ("recipe", "ways_out"),
    [
        (ExportRecipe(profiles=("jetson-orin-nano",), opset=20), ("opset 17", "--opset", "--for jetson-orin-nano")),
        (ExportRecipe(profiles=("jetson-xavier",), opset=17), ("opset 16", "--opset", "--for jetson-xavier")),
        (ExportRecipe(profiles=("rtx",), formats=("coreml",)), ("--format onnx --format tensorrt", "--for rtx")),
        (ExportRecipe(profiles=("iphone",), formats=("onnx",)), ("--format coreml", "--for iphone")),
    ],
)
def test_contradiction_is_refused_with_two_ways_out(recipe: ExportRecipe, ways_out: tuple[str, ...]) -> None:
    with pytest.raises(BadRecipe) as caught:
        apply(recipe, recipe.profiles[0])
    assert all(way in str(caught.value) for way in ways_out)
    assert "\n" not in str(caught.value)


def test_precision_that_the_device_does_not_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    only = {"old": replace(profiles()["cpu-x86"], name="old", precisions=("fp32",))}
    monkeypatch.setattr(module, "profiles", lambda: only)
    with pytest.raises(BadRecipe, match=r"does not run fp16: ask for --precision fp32, or leave --for old out\.$"):
        apply(ExportRecipe(precision="fp16"), "old")


@pytest.mark.parametrize("name", NAMES)
def test_every_scheme_is_for_processors_and_apple_and_eight_bits_are_for_tensorrt(name: str) -> None:
    profile = profiles()[name]
    for scheme in SCHEMES:
        recipe = ExportRecipe(formats=profile.formats[:1], precision=scheme)
        if "int8" not in profile.precisions:
            with pytest.raises(BadRecipe, match=rf"does not run {scheme}: ask for --precision fp16 or fp32, or leave"):
                apply(recipe, name)
        elif profile.tensorrt and scheme not in ("int8", "mixed", "w8"):
            with pytest.raises(BadRecipe, match=rf"does not run {scheme}: .*int8 or mixed or w8, or leave"):
                apply(recipe, name)
        else:
            assert apply(recipe, name).precision == scheme


def test_unknown_profile_lists_the_names() -> None:
    with pytest.raises(BadRecipe) as caught:
        apply(ExportRecipe(), "jetson")
    assert all(name in str(caught.value) for name in NAMES)
