# SPDX-License-Identifier: Apache-2.0
"""`pages` writes what explains a bundle, `readme` says it, and `programs` fills the programs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.vitedge import grey_models
from tests.vitedge.guide.bundles import with_channels, write_bundle
from vitedge.files.bundle import check_files, read_manifest
from vitedge.guide import infer
from vitedge.guide.pages import reseal, write_pages
from vitedge.guide.programs import install, python_program, swift_program
from vitedge.guide.readme import _WORDS, readme, words
from vitedge.images.steps import preprocessing_steps
from vitedge.records import BenchReport, LatencyReport, Manifest, Origin, Quantiles, SpeedComparison, TensorSpec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_the_files_are_listed_and_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    manifest = read_manifest(folder)
    assert check_files(folder, manifest) == 5
    assert sorted(manifest.files) == ["README.md", "infer.py", "labels.txt", "reference.npz"]
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines() == list(grey_models.NAMES)
    write_bundle(tmp_path / "again")
    for name in manifest.files:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_readme_says_what_it_is_and_how_to_feed_it(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    manifest = read_manifest(folder)
    for said in (
        "exported it from `greys.pth` (6.1 MB, weights `model_ema`, SHA-256 `abababababababab…`)",
        "| `model.onnx` |",
        "pip install numpy 'pillow>=9.1' onnxruntime\npython infer.py PICTURE",
        "| `model.onnx` | input | `image` | float32 | (1, 3, 8, 8) |",
        "| `model.onnx` | output | `logits` | float32 | (1, 7), class scores before the softmax |",
        "The same steps, in this order: `infer.py`, `manifest.json` (`preprocessing`).",
        "| `model.onnx` | onnxruntime | `logits` | 1.5e-07 | 124.5 dB | 100.0% | passed |",
        "How fast it is was not measured",
    ):
        assert said in text
    assert "/home/somebody" not in text
    for number, step in enumerate(manifest.preprocessing, 1):
        assert f"{number}. {words(step)}\n" in text


def test_the_program_is_filled_from_the_manifest(folder: Path) -> None:
    tree = ast.parse((folder / "infer.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    values = {
        (node.targets[0] if isinstance(node, ast.Assign) else node.target).id: ast.literal_eval(node.value)  # type: ignore[union-attr,arg-type]
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, (ast.List, ast.Constant))
    }
    assert values["STEPS"] == [dict(step) for step in read_manifest(folder).preprocessing]
    assert values["MODELS"] == ["model.onnx"]


def test_the_program_is_as_ruff_would_write_it(folder: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    settings = ("--isolated", "--line-length", "120", "--target-version", "py38")
    for command in ("check", "format"):
        checks = ("--select", "E,F,I,N,PL,UP,W", "--ignore", "PLR2004") if command == "check" else ("--check",)
        done = subprocess.run(
            [ruff, command, *settings, *checks, folder / "infer.py"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_what_was_measured_since_goes_into_the_readme(folder: Path) -> None:
    times = Quantiles(1.0, 1.25, 1.3, 1.5, 1.6, None, 0.01, 0.0)
    measured = LatencyReport(
        "bundle/model.onnx", "onnxruntime", {"model": "Board|1"}, 1, 200, 1.0, 2.0, 3.0, 4, times, stable=True
    )
    told = SpeedComparison("int8 is 2.0 times as fast")
    reseal(folder, replace(read_manifest(folder), latency=BenchReport((measured,)), speed=told))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "| `model.onnx` | onnxruntime | Board_1 | 1 | 1.25 ms | 1.60 ms |" in text
    assert "int8 is 2.0 times as fast" in text
    assert "not measured" not in text
    assert check_files(folder, read_manifest(folder)) == 5


def test_a_bundle_of_an_earlier_version_gets_no_page(folder: Path) -> None:
    manifest = read_manifest(folder)
    (folder / "README.md").unlink()
    earlier = replace(manifest, files={name: digest for name, digest in manifest.files.items() if name != "README.md"})
    reseal(folder, earlier)
    assert not (folder / "README.md").exists()
    assert check_files(folder, read_manifest(folder)) == 4


def test_a_guess_is_said_to_be_one(folder: Path) -> None:
    manifest = read_manifest(folder)
    spec = replace(manifest.spec, origins={"preprocessing.mean": Origin.ASSUMED, "heads": Origin.ASSUMED})
    assert "**Guessed**, because no file tells it: mean. Ask" in readme(replace(manifest, spec=spec), {})


def test_names_from_files_cannot_break_the_page_or_the_list(folder: Path) -> None:
    manifest = read_manifest(folder)
    odd = ("a\nb\x1b[2J", "c\u2028d", "|`<b>", *grey_models.NAMES[3:])
    spec = replace(manifest.spec, labels=odd, variant="x\n# y | <script>\u202e")
    written = write_pages(folder, replace(manifest, spec=spec))
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines()[:3] == ["a b [2J", "c d", "|`<b>"]
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("# x # y _ _script__\n")
    assert written.files["labels.txt"] != manifest.files["labels.txt"]


def swift(manifest: Manifest, dtype: str, pixels: bool = False) -> str:
    steps = preprocessing_steps(manifest.spec, "uint8" if pixels else dtype)
    image = TensorSpec("image", (1, manifest.spec.in_channels, 8, 8), dtype, pixels)
    return swift_program(replace(manifest.artifacts[0], path="model.mlpackage", inputs=(image,)), steps)


def test_the_program_for_a_mac_has_the_numbers_of_the_package(folder: Path) -> None:
    """It is not compiled here, where there is no Swift."""
    manifest = read_manifest(folder)
    preprocessing = replace(manifest.spec.preprocessing, mean=(0.25, 0.5, 0.75), channel_order="bgr", crop=0.5)
    manifest = replace(manifest, spec=replace(manifest.spec, preprocessing=preprocessing))
    for said in (
        'let package = "model.mlpackage"',
        "let takesImage = false",
        "let (resizedHeight, resizedWidth) = (16.0, 16.0)",
        "let reversed = true",
        "let divisor: Float = 255",
        "let mean: [Float] = [0.25, 0.5, 0.75]",
    ):
        assert f"{said}\n" in swift(manifest, "float32") or f"{said}  //" in swift(manifest, "float32")
    for text in (swift(manifest, "uint8"), swift(manifest, "float32", pixels=True)):
        assert "let divisor: Float = 1\n" in text
        assert "let mean: [Float] = [0, 0, 0]\n" in text
    assert "let takesImage = true" in swift(manifest, "uint8")


def test_pages_for_another_number_of_channels_say_what_to_do(folder: Path) -> None:
    manifest = read_manifest(folder)
    spec = with_channels(manifest.spec, 5)
    five = replace(manifest, spec=spec, preprocessing=preprocessing_steps(spec, "float32"))
    assert "1. Take an array (height, width, 5), uint8; resize and crop each channel by itself.\n" in readme(five, {})


def test_every_step_is_done_said_and_explained() -> None:
    page = (Path(__file__).parents[3] / "docs" / "bundle.md").read_text(encoding="utf-8")
    assert [name for name in infer.DOES if f"| `{name}` |" not in page] == []
    assert infer.DOES.keys() == _WORDS.keys()


def test_what_is_installed_computes_every_file(folder: Path) -> None:
    artifact = read_manifest(folder).artifacts[0]
    releases = [replace(artifact, oldest_runtimes={"onnxruntime": name}) for name in ("1.9", "1.17", "unknown")]
    assert install(releases) == "python -m pip install numpy 'pillow>=9.1' 'onnxruntime>=1.17'"
    assert json.dumps(["model.onnx"] * 3) in python_program(releases, ())
