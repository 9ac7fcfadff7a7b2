# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

import vitedge
from tests.bad_files import VIT
from tests.vitedge.quantization.file.headers import CONTENT, with_activations, with_batch, written
from vitedge.cli.main import app
from vitedge.devices import machine
from vitedge.devices.fitting import fitting, fitting_profile
from vitedge.devices.profiles import profiles
from vitedge.errors import BadRecipe
from vitedge.export.formats import CORE_ML, FORMATS, PROCESSOR, TENSORRT, QuantizedForm
from vitedge.files.bundle import read_manifest
from vitedge.files.plain import from_dict, to_dict
from vitedge.progress import reporting
from vitedge.recipe import ExportRecipe, QuantizationRecipe, ResolvedRecipe
from vitedge.verbs.resolve import resolve
from vitedge.verbs.targets import strictest, targets


@pytest.mark.parametrize("name", list(profiles()))
def test_a_profile_gives_the_same_from_the_command_line_and_from_python(name: str) -> None:
    typed = from_dict(ExportRecipe, {"profiles": (name,)})  # what --for makes
    assert resolve(typed, "m.pth") == resolve(ExportRecipe(profiles=(name,)), "m.pth")
    profile, found = profiles()[name], resolve(ExportRecipe(profiles=(name,)), "m.pth")
    assert (found.formats, found.precision) == (profile.formats[:1], profile.precisions[0])


@pytest.mark.parametrize("name", ["iphone", "jetson-orin-nano"])
def test_an_export_for_a_profile_is_the_same_both_ways(name: str, tmp_path: Path) -> None:
    typed, written = tmp_path / "typed", tmp_path / "written"
    app(["export", str(VIT), "-o", str(typed), "--for", name, "--image-count", "2"], standalone_mode=False)
    vitedge.export(VIT, written, ExportRecipe(profiles=(name,), image_count=2))
    assert read_manifest(typed).recipe == read_manifest(written).recipe
    assert read_manifest(typed).recipe["precision"] == "fp16"
    models = [
        path.relative_to(typed) for path in typed.rglob("*") if path.is_file() and path.suffix in (".onnx", ".bin")
    ]
    assert models
    assert all((typed / name).read_bytes() == (written / name).read_bytes() for name in models)


def test_auto_is_the_profile_that_fits_the_device_which_is_told() -> None:
    said: list[str] = []
    with reporting(said.append):
        found = resolve(ExportRecipe(profiles=("auto", "iphone"), precision="fp32"), "m.pth")
    nearest = fitting(machine.identity())[0]
    assert found.profiles == (nearest, "iphone")
    assert said == [f"profile: {nearest}, as local tells of itself"]
    with reporting(said.append):
        assert resolve(ExportRecipe(profiles=("iphone",)), "m.pth").profiles == ("iphone",)
    assert len(said) == 1  # nothing is asked where nothing is open


def test_auto_is_refused_where_nothing_fits() -> None:
    with pytest.raises(
        BadRecipe, match=r"No profile is for ssh:board, whose architecture is riscv64: .* vitedge profiles"
    ):
        fitting_profile({"architecture": "riscv64"}, "ssh:board")
    with pytest.raises(BadRecipe, match="architecture is unknown"):
        fitting_profile({}, "local")


def test_what_is_not_said_gets_its_default() -> None:
    assert resolve(ExportRecipe(), "m.pth") == ResolvedRecipe(formats=("onnx",), precision="fp32")
    w8 = QuantizationRecipe("w8")
    assert resolve(ExportRecipe(quantization=w8), "m.pth").precision == "w8"


def test_a_resolved_recipe_is_plain_text_in_a_manifest() -> None:
    recipe = resolve(ExportRecipe(profiles=("iphone",)), "m.pth")
    plain = to_dict(recipe)
    assert json.loads(json.dumps(plain)) == plain
    assert from_dict(ResolvedRecipe, plain) == recipe


@pytest.mark.parametrize(
    ("asked", "option", "form"),
    [
        ({"formats": ("coreml",), "opset": 17}, "--opset", "onnx"),
        ({"coreml_target": "iOS16"}, "--coreml-target", "coreml"),
        ({"batch": "dynamic", "engine_batch": (2, 4)}, "--engine-batch", "tensorrt"),
    ],
)
def test_a_setting_of_a_format_that_is_not_written_is_refused(asked: dict[str, object], option: str, form: str) -> None:
    with pytest.raises(BadRecipe, match=rf"^{option} is for .*: leave it out, or add --format {form}\.$"):
        resolve(from_dict(ExportRecipe, asked), "m.pth")
    with_it = resolve(from_dict(ExportRecipe, {**asked, "formats": ("onnx", "coreml", "tensorrt")}), "m.pth")
    assert set(with_it.formats) == {"onnx", "coreml", "tensorrt"}


def test_formats_that_are_none_are_refused_with_the_choices() -> None:
    for formats in ((), ("onx",)):
        with pytest.raises(BadRecipe, match=", ".join(FORMATS)):
            resolve(ExportRecipe(formats=formats), "m.pth")


@pytest.mark.parametrize(
    ("formats", "names", "expected"),
    [
        (("onnx",), (), PROCESSOR),
        (("onnx",), ("cpu-x86",), PROCESSOR),
        (("onnx", "coreml"), (), CORE_ML),
        (("onnx", "coreml", "tensorrt"), (), TENSORRT),
        (("onnx",), ("jetson-orin-nano",), TENSORRT),
    ],
)
def test_one_program_for_all_targets_has_the_strictest_form(
    formats: tuple[str, ...], names: tuple[str, ...], expected: QuantizedForm
) -> None:
    assert strictest(targets(ResolvedRecipe(formats=formats, profiles=names))) is expected


def test_what_a_quantized_file_fixes_is_kept_in_an_export(tmp_path: Path) -> None:
    source, asked = str(written(tmp_path / "m.pt2")), ExportRecipe(formats=("onnx", "coreml"), opset=17)
    assert resolve(asked, source) == ResolvedRecipe(formats=("onnx", "coreml"), opset=17, precision="int8", batch=1)
    same = resolve(ExportRecipe(precision="int8", image_size=(32, 48)), source)
    assert (same.precision, same.image_size, same.batch) == ("int8", (32, 48), 1)
    dynamic = str(written(tmp_path / "m.pt2", with_batch("batch")))
    assert resolve(asked, dynamic).batch == "dynamic"


def test_what_was_resolved_once_stays_as_it_is(tmp_path: Path) -> None:
    source = str(written(tmp_path / "m.pt2"))
    once = resolve(ExportRecipe(profiles=("cpu-x86",)), source)
    assert once.precision == "int8"  # which the file fixes, and not fp32, with which the profile begins
    assert resolve(once, source) == once


def test_a_file_for_processors_is_not_for_tensorrt(tmp_path: Path) -> None:
    asked = ExportRecipe(profiles=("jetson-orin-nano",))
    signed = str(written(tmp_path / "m.pt2", with_activations("int8", None)))
    assert resolve(asked, signed).precision == "int8"
    with pytest.raises(BadRecipe, match=r"for processors, .*quantize --for jetson-orin-nano\.$"):
        resolve(asked, str(written(tmp_path / "m.pt2")))


def test_a_profile_that_does_not_run_the_scheme_is_refused(tmp_path: Path) -> None:
    w4 = {**CONTENT, "record": {"scheme": "w4", "layers": []}}
    with pytest.raises(BadRecipe, match="does not run w4"):
        resolve(ExportRecipe(profiles=("jetson-orin-nano",)), str(written(tmp_path / "m.pt2", w4)))
