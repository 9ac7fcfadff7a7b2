# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import platform
import warnings
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813 - its name in every coremltools program

from vitedge.errors import BadRecipe, DeviceFailed, UnreadableArtifact
from vitedge.records import TensorSpec
from vitedge.runtimes import coreml
from vitedge.runtimes.coreml import Runtime

MACOS = platform.system() == "Darwin"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3, 2, 4))], opset_version=ct.target.iOS17)
    def double(image):
        return mb.mul(x=image, y=np.float32(2), name="doubled")

    path = tmp_path_factory.mktemp("coreml") / "m.mlpackage"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # coremltools leaves its temporary folder to the collector
        ct.convert(
            double,
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        ).save(str(path))
        gc.collect()
    return path


def test_declares_what_the_package_declares(package: Path) -> None:
    with Runtime(package) as runtime:
        assert runtime.inputs == (TensorSpec("image", (1, 3, 2, 4), "float32"),)
        assert [spec.name for spec in runtime.outputs] == ["doubled"]
        assert runtime.describe()["provider"] == "ALL"
        assert runtime.describe()["threads"] == "chosen by Core ML"


@pytest.mark.skipif(MACOS, reason="macOS can run it")
def test_running_elsewhere_is_one_sentence(package: Path) -> None:
    with Runtime(package, threads=2) as runtime:
        assert runtime.describe()["threads"] == "chosen by Core ML, 2 ignored"
        with pytest.raises(DeviceFailed, match="failed to run"):
            runtime.run({"image": np.zeros((1, 3, 2, 4), np.float32)})


@pytest.mark.skipif(not MACOS, reason="Core ML runs on macOS only")
def test_runs_on_macos(package: Path) -> None:
    image = np.arange(24, dtype=np.float32).reshape(1, 3, 2, 4)
    with Runtime(package) as runtime:
        np.testing.assert_array_equal(runtime.run({"image": image})["doubled"], 2 * image)


def test_what_is_no_package_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.mlpackage").write_bytes(b"no package")
    for path in (tmp_path / "m.mlpackage", tmp_path / "none.mlpackage"):
        with pytest.raises(UnreadableArtifact, match="cannot be opened by Core ML"), Runtime(path):
            pass


def test_intermediates_are_refused(package: Path) -> None:
    with pytest.raises(BadRecipe, match="no intermediate values"):
        Runtime(package, intermediates=("blocks.0",))


def test_an_image_input_takes_the_same_array_as_any_other_runtime() -> None:
    array = np.random.default_rng(0).integers(0, 256, (1, 3, 2, 4)).astype(np.uint8)
    image = coreml._image(array)
    assert (image.mode, image.size) == ("RGB", (4, 2))
    np.testing.assert_array_equal(np.asarray(image), array[0].transpose(1, 2, 0))
