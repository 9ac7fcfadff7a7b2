# SPDX-License-Identifier: Apache-2.0
"""`infer` prepares pictures as vitedge does, and runs where nothing of vitedge is."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.releases import older
from tests.vitedge import grey_models
from tests.vitedge.guide.bundles import make_environment, run, with_channels, write_bundle
from tests.vitedge.images.specs import make_spec
from tests.vitedge.images.test_source_transforms import _odd_image as odd_image
from vitedge.errors import BadImages
from vitedge.files.bundle import check_files, read_manifest
from vitedge.guide import infer
from vitedge.images.preprocess import normalize
from vitedge.images.sources import decode
from vitedge.images.steps import preprocessing_steps

KINDS = ("RGB", "L", "LA", "P", "RGBA", "CMYK", "1", "clear", "I;16", "keyed RGB", "rotated RGBA", "noise")
SIZES = ((65, 97), (33, 21), (47, 48), (120, 50), (32, 32), (301, 199), (1, 40), (7, 5))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of all modes, rotated and transparent ones among them."""
    folder, paths = tmp_path_factory.mktemp("pictures"), []
    for number, kind in enumerate(KINDS):
        for size in (SIZES[number % len(SIZES)], SIZES[(number + 3) % len(SIZES)]):
            picture = odd_image(kind, size, number)
            paths.append(folder / f"{len(paths)}.{'tif' if picture.mode == 'CMYK' else 'png'}")
            picture.save(paths[-1], exif=picture.getexif())
    return paths


@pytest.mark.parametrize("kernel", ["pillow", "torch"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_a_picture_becomes_the_same_bits_as_in_vitedge(
    mode: str, interpolation: str, kernel: str, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file in another setting: crop, padding, offset, EXIF, transparency, order and number of channels."""
    if (kernel, interpolation) == ("torch", "lanczos") and older("torch", 2, 12):
        pytest.skip("PyTorch has this kernel from 2.12 on")
    for number, path in enumerate(pictures):
        size, channels = ((32, 32), (24, 40))[number % 2], (3, 3, 1)[number % 3]
        spec = make_spec(size, channels, (0.875, 1.0, 1.2)[number % 3], interpolation)
        preprocessing = replace(
            spec.preprocessing,
            crop_mode=mode,
            resizer=kernel,
            crop_offset=("round", "floor", "ceil")[number // 2 % 3],
            exif=number % 4 != 0,
            transparency=("white", "dropped")[number // 3 % 2],
            channel_order=("rgb", "bgr")[number % 5 % 2 if channels == 3 else 0],
        )
        spec = replace(spec, preprocessing=preprocessing)
        monkeypatch.setattr(infer, "STEPS", list(preprocessing_steps(spec, "float32")))
        try:
            expected = normalize(decode(path, spec)[None], preprocessing)
        except BadImages:  # a strip that would become gigabytes
            with pytest.raises(infer.Stop):
                infer.prepare(path)
            continue
        found = infer.prepare(path)
        assert found.dtype == np.float32
        assert np.array_equal(found, expected), (path.name, spec.preprocessing)


def test_a_model_that_normalizes_itself_gets_whole_pixels(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec((32, 32))
    spec = replace(spec, preprocessing=replace(spec.preprocessing, channel_order="bgr"))
    monkeypatch.setattr(infer, "STEPS", list(preprocessing_steps(spec, "uint8")))
    found = infer.prepare(pictures[0])
    assert found.dtype == np.uint8
    assert np.array_equal(found, decode(pictures[0], spec)[None])


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with numpy, pillow and onnxruntime, and without vitedge and PyTorch."""
    found = make_environment(tmp_path_factory.mktemp("environment"))
    for absent in ("vitedge", "torch"):
        assert "ModuleNotFoundError" in run(found, "-c", f"import {absent}").stderr
    return found


@pytest.fixture
def dog(tmp_path: Path) -> Path:
    path = tmp_path / "dog.png"
    Image.new("RGB", (9, 12), (grey_models.GREYS[3],) * 3).save(path)
    return path


def test_it_runs_where_vitedge_is_not(python: Path, demo_bundle: Path, tmp_path: Path) -> None:
    """The embedded ViT on a digit, and vitedge's own outputs for it."""
    from vitedge.demo import assets  # noqa: PLC0415 - as in the other tests of the demo's models

    bundle = Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))
    pixels, labels = assets.images()
    Image.fromarray(pixels[0]).save(tmp_path / "digit.png")
    done = run(python, bundle / "infer.py", tmp_path / "digit.png")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == str(tmp_path / "digit.png")
    assert len(lines) == 6
    assert lines[1].endswith(f"class ({labels[0]})")
    check_files(bundle, read_manifest(bundle))  # it left nothing there


@pytest.mark.parametrize("batch", [1, 3, "batch"])
def test_it_names_the_likeliest_classes_at_every_batch(
    batch: int | str, python: Path, dog: Path, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "bundle", batch=batch)
    done = run(python, tmp_path / "bundle" / "infer.py", dog, dog, "--top", 2)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()[:3], done.stdout.splitlines()[3:]
    assert first == second
    assert first[1].endswith("%  dog (3)")
    level = np.float32(grey_models.GREYS[3] / 255)
    greys = np.asarray(grey_models.GREYS) / 255
    shares = np.exp(2 * greys * level - greys**2)
    assert first[1].split() == [f"{shares[3] / shares.sum():.2%}", "dog", "(3)"]


def test_a_reader_that_has_enough_ends_it_quietly(python: Path, dog: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    read, written = os.pipe()
    os.close(read)
    command = [str(python), str(tmp_path / "bundle" / "infer.py"), str(dog)]
    done = subprocess.run(command, cwd=python.parent, stdout=written, stderr=subprocess.PIPE, check=False)
    os.close(written)
    assert (done.returncode, done.stderr) == (0, b"")


def test_it_prints_the_shapes_of_features(python: Path, dog: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", output="pooled")
    done = run(python, tmp_path / "bundle" / "infer.py", dog)
    assert done.stdout.splitlines()[1:] == ["  pooled: float32 7"]


def test_what_a_user_gets_wrong_is_said_in_a_sentence(python: Path, dog: Path, tmp_path: Path) -> None:
    bundle, notes, cut = tmp_path / "bundle", tmp_path / "notes.jpg", tmp_path / "cut.png"
    write_bundle(bundle)
    notes.write_text("no picture")
    Image.new("RGB", (400, 400), "red").save(cut)
    cut.write_bytes(cut.read_bytes()[:200])
    for given, sentence in (
        (tmp_path / "cat.jpg", f"There is no {tmp_path / 'cat.jpg'}."),
        (tmp_path, f"{tmp_path} is a folder: name pictures in it."),
        (notes, f"{notes} is no picture that Pillow knows."),
        (cut, f"{cut} is a damaged picture: "),
    ):
        done = run(python, bundle / "infer.py", dog, given)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"infer.py: {sentence}")
        assert done.stderr.count("\n") == 1
    (bundle / "labels.txt").write_text("ant\nbee\n")
    done = run(python, bundle / "infer.py", dog)
    assert done.stderr == "infer.py: labels.txt names 2 classes, and the model gives 7 scores.\n"
    (bundle / "model.onnx").write_bytes(b"no model")
    done = run(python, bundle / "infer.py", dog)
    assert done.returncode == 3
    assert "cannot load model.onnx" in done.stderr
    (bundle / "model.onnx").unlink()
    assert "keep infer.py in the folder of the bundle" in run(python, bundle / "infer.py", dog).stderr


def test_it_says_what_to_install(dog: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    bare = make_environment(tmp_path / "bare", without="onnxruntime")
    done = run(bare, tmp_path / "bundle" / "infer.py", dog)
    assert done.returncode == 3
    command = "python -m pip install numpy 'pillow>=9.1' onnxruntime"
    assert done.stderr == f"infer.py: onnxruntime is not installed; type: {command}\n"


def test_a_model_that_takes_no_pictures_refuses_them(python: Path, dog: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", spec=with_channels(grey_models.spec(), 5))
    done = run(python, tmp_path / "bundle" / "infer.py", dog)
    assert done.returncode == 2
    assert "takes 5 channels, and pictures have 3 (colour) or 1 (grey)" in done.stderr


def test_scores_that_are_not_finite_are_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(infer.Stop, match="NaN or infinity"):
        infer.show(np.array([0.0, np.nan]), 5)
    infer.show(np.array([2.5]), 5)
    assert capsys.readouterr().out == "  score 2.5000\n"
