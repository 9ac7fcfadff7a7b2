# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.export.coreml.models import captured
from tests.vitedge.mlprogram.mil import program
from vitedge.errors import BadRecipe, UnreadableArtifact
from vitedge.export.to_coreml import lower
from vitedge.mlprogram.package import MODEL, read_package
from vitedge.recipe import ResolvedRecipe
from vitedge.records import TensorSpec
from vitedge.runtimes import mlprogram, mlprogram_fp32
from vitedge.runtimes.mlprogram import Runtime

BGR = 30
IMAGE = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), np.uint8)


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of an RGB image, in half precision."""
    path = tmp_path_factory.mktemp("mlprogram") / "model.mlpackage"
    lower(captured(dtype="uint8", labels=tuple("abcde")), ResolvedRecipe(precision="fp16", input="uint8"), path, ())
    return path


def test_declares_what_the_package_declares(halved: Path) -> None:
    with Runtime(halved) as runtime:
        assert runtime.inputs == (TensorSpec("image", (1, 3, 32, 32), "uint8"),)
        assert runtime.outputs == (TensorSpec("logits", (1, 5), "float32"),)


def test_returns_tensors_and_leaves_a_classifiers_label_and_table(halved: Path) -> None:
    with Runtime(halved) as runtime:
        found = runtime.run({"image": IMAGE})
    assert list(found) == ["logits"]
    assert (found["logits"].shape, found["logits"].dtype) == ((1, 5), np.float32)


def test_intermediates_are_returned_beside_the_outputs(halved: Path) -> None:
    value = next(name for name in names(halved) if name.startswith("blocks_0_mlp_fc1"))
    with Runtime(halved, intermediates=(value,)) as runtime:
        assert runtime.run({"image": IMAGE})[value].shape == (1, 17, 128)
    with pytest.raises(BadRecipe, match=r"has no value named blocks\.0"), Runtime(halved, intermediates=("blocks.0",)):
        pass


def names(path: Path) -> list[str]:
    block = read_package(path).model.mlProgram.functions["main"].block_specializations["CoreML7"]
    return [output.name for operation in block.operations for output in operation.outputs if operation.type != "const"]


def test_an_image_of_blue_first_gets_blue_first(halved: Path, tmp_path: Path) -> None:
    """As Core ML does: the caller hands over RGB, whatever the program takes."""
    path = tmp_path / "model.mlpackage"
    path.mkdir()
    for file in halved.rglob("*"):
        target = path / file.relative_to(halved)
        target.mkdir() if file.is_dir() else target.write_bytes(file.read_bytes())
    model = read_package(path).model
    model.description.input[0].type.imageType.colorSpace = BGR
    (path / MODEL).write_bytes(model.SerializeToString())
    with Runtime(path) as reversed_, Runtime(halved) as plain:
        found = reversed_.run({"image": IMAGE})["logits"]
        assert not np.array_equal(found, plain.run({"image": IMAGE})["logits"])
        np.testing.assert_array_equal(found, plain.run({"image": IMAGE[:, ::-1]})["logits"])


def test_float32_throughout_is_another_runtime(halved: Path) -> None:
    with Runtime(halved) as rounded, mlprogram_fp32.Runtime(halved) as plain:
        half, single = (runtime.run({"image": IMAGE})["logits"] for runtime in (rounded, plain))
        told = [runtime.describe() for runtime in (rounded, plain)]
    assert 0 < np.abs(half - single).max() < 1e-2 * np.abs(single).max()
    assert [entry["compute"] for entry in told] == ["declared", "fp32"]
    assert "not a bit model" in told[0]["caveat"]
    assert "without the rounding" in told[1]["caveat"]


def test_a_run_uses_the_threads_that_were_asked_for_and_gives_them_back(halved: Path) -> None:
    before = torch.get_num_threads()
    with Runtime(halved, threads=1) as runtime:
        assert runtime.describe()["threads"] == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("feeds", [{}, {"picture": IMAGE}, {"image": IMAGE, "mask": IMAGE}])
def test_feeds_of_other_names_are_refused(feeds: dict[str, np.ndarray], halved: Path) -> None:
    with Runtime(halved) as runtime, pytest.raises(BadRecipe, match="takes image, not"):
        runtime.run(feeds)


def test_a_feed_of_another_shape_is_refused(halved: Path) -> None:
    with Runtime(halved) as runtime, pytest.raises(BadRecipe, match="image"):
        runtime.run({"image": IMAGE[:, :, :16]})


def test_what_is_no_package_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.mlpackage").write_bytes(b"no package")
    for path in (tmp_path / "m.mlpackage", tmp_path / "none.mlpackage"):
        with pytest.raises(UnreadableArtifact, match=r"\.mlpackage"), Runtime(path):
            pass


def test_an_integer_program_takes_and_gives_integers_as_floats() -> None:
    read = program(lambda mb, x: mb.add(x=x, y=np.int32(1)), {"x": np.zeros(2, np.int32)})
    with mlprogram.Runtime(read.package.path) as runtime:
        (found,) = runtime.run({"x": np.array([1, 2], np.int32)}).values()
    np.testing.assert_array_equal(found, [2, 3])
