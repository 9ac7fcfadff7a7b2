# SPDX-License-Identifier: Apache-2.0
"""The runtime, against stand-ins of TensorRT and of the CUDA driver; no engine ran on a GPU.

The real TensorRT for RTX builds an engine here and refuses to load it, for want of a driver.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cuda_stand_in import install
from tests.tensorrt_stand_in import ENGINE, VERSIONS, Situation, stand_in
from tests.vitedge.onnx_models import write_model
from vitedge import registry
from vitedge.errors import BadRecipe, DeviceFailed, MissingBackend, UnreadableArtifact, VitedgeError
from vitedge.records import TensorSpec
from vitedge.runtimes import cuda
from vitedge.runtimes.tensorrt import Runtime

X = np.arange(4, dtype=np.float32).reshape(1, 4)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    return ctypes.CDLL(str(install(tmp_path, monkeypatch)))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    path.write_bytes(ENGINE)
    return path


def use(monkeypatch: pytest.MonkeyPatch, version: str, situation: Situation) -> Any:
    """Makes a stand-in the installed package ``tensorrt``."""
    trt = stand_in(version, situation)
    trt.__spec__ = sys.__spec__  # what importlib looks for to know that a package is there
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    return trt


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_runs_and_leaves_nothing_behind(
    driver: ctypes.CDLL, engine: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    situation = Situation()
    use(monkeypatch, version, situation)
    with registry.load(registry.RUNTIMES, "tensorrt").Runtime(engine, threads=3) as runtime:
        assert runtime.inputs == (TensorSpec("x", (1, 4), "float32"),)
        assert runtime.outputs == (TensorSpec("y", (1, 4), "float32"),)
        for factor in (1, 5):
            np.testing.assert_array_equal(runtime.run({"x": factor * X})["y"], 2 * factor * X)
        assert runtime.describe() == {
            "library": "tensorrt",
            "version": version,
            "provider": "Stand-in GPU",
            "compute_capability": "SM86",
            "cuda": "12.4",
            "threads": "chosen by the GPU, 3 ignored",
        }
        assert [value.name for (value,) in situation.named("nvtx_verbosity")] == ["NONE"]
        assert driver.left() == 4  # two blocks, stream and context
    assert driver.left() == 0


def test_any_batch_of_the_profile_runs(driver: ctypes.CDLL, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (-1, 4)
    situation = Situation({"x": shape}, {"y": shape}, ((1, 4), (2, 4), (8, 4)), dtype="HALF")
    use(monkeypatch, "10.3.0", situation)
    with Runtime(engine) as runtime:
        assert runtime.inputs == (TensorSpec("x", ("?", 4), "float16"),)
        for batch in (8, 1, 3):
            feed = np.asfortranarray(np.repeat(X, batch, axis=0).astype(np.float16))
            np.testing.assert_array_equal(runtime.run({"x": feed})["y"], 2 * feed)
        for wrong in (np.zeros((9, 4), np.float16), np.zeros((2, 4), np.float32), np.zeros(4, np.float16)):
            with pytest.raises(BadRecipe, match=r"takes x as float16 1x4 to 8x4, not as float\d\d \d"):
                runtime.run({"x": wrong})
        with pytest.raises(BadRecipe, match="takes x, not z"):
            runtime.run({"z": X})


def test_a_fixed_shape_is_named(driver: ctypes.CDLL, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "10.3.0", Situation())
    with Runtime(engine) as runtime, pytest.raises(BadRecipe, match=r"x as float32 1x4, not as float32 2x4\.$"):
        runtime.run({"x": np.zeros((2, 4), np.float32)})


def test_intermediates_are_refused_by_name(engine: Path) -> None:
    with pytest.raises(BadRecipe, match=r"no intermediate values, and so not blocks\.0, blocks\.1"):
        Runtime(engine, intermediates=("blocks.0", "blocks.1"))


@pytest.mark.parametrize(
    ("version", "situation", "refusal"),
    [
        (
            "10.13.3",
            Situation(load_error="Error Code 1: Serialization (Version tag does not match.)"),
            (
                MissingBackend,
                r"built by TensorRT 10\.3\.0\.26, and TensorRT 10\.13\.3 does not load it \(Seria.*install",
            ),
        ),
        (
            "10.3.0",
            Situation(load_error="Error Code 6: incompatible device, expecting compute 8.9 got compute 8.6."),
            (
                UnreadableArtifact,
                r"not loaded by TensorRT 10\.3\.0 on this Stand-in GPU \(SM86\): incompatible.*; build",
            ),
        ),
        ("10.3.0", Situation(no_gpu=True), (DeviceFailed, r"TensorRT 10\.3\.0 cannot be started here: Cuda Runtime")),
        ("10.3.0", Situation(no_memory=True), (DeviceFailed, "The GPU has no room for")),
        ("10.3.0", Situation(dtype="FP8"), (UnreadableArtifact, "cannot bind: x, of type FP8")),
        ("10.3.0", Situation(location="HOST"), (UnreadableArtifact, "cannot bind: x, of type FLOAT")),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_with_the_reason(
    driver: ctypes.CDLL,
    engine: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    situation: Situation,
    refusal: tuple[type[VitedgeError], str],
) -> None:
    use(monkeypatch, version, situation)
    with pytest.raises(refusal[0], match=refusal[1]), Runtime(engine):
        pass
    assert driver.left() == 0


def test_a_run_that_fails_is_the_device_s_fault(
    driver: ctypes.CDLL, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, "10.3.0", Situation(run_error="Error Code 1: Cask (kernel failed)"))
    with Runtime(engine) as runtime, pytest.raises(DeviceFailed, match=r"failed to run .*: Cask \(kernel failed\)\.$"):
        runtime.run({"x": X})
    use(monkeypatch, "10.3.0", Situation())
    with Runtime(engine) as runtime:
        driver.fail_next(700)
        with pytest.raises(DeviceFailed, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
            runtime.run({"x": X})
    assert driver.left() == 0


def test_an_output_whose_shape_depends_on_values_is_refused(
    driver: ctypes.CDLL, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, "10.3.0", Situation(outputs={"y": (1, -1)}))
    with Runtime(engine) as runtime, pytest.raises(UnreadableArtifact, match="the values of its input"):
        runtime.run({"x": X})


def test_the_package_that_the_engine_needs_is_named(
    driver: ctypes.CDLL, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda _name: None)
    for tag, install_line in ((b"ftrt", r"tensorrt\]"), (b"vtrt", r"tensorrt-rtx\]")):
        engine.write_bytes(tag + ENGINE[4:])
        with pytest.raises(MissingBackend, match=rf"pip install 'vitedge\[{install_line}'$"), Runtime(engine):
            pass


def test_a_version_before_names_of_inputs_is_refused(
    driver: ctypes.CDLL, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del use(monkeypatch, "8.5.3", Situation()).ICudaEngine.num_io_tensors
    with pytest.raises(MissingBackend, match=r"TensorRT 8\.5\.3 is too old"), Runtime(engine):
        pass


def test_a_machine_without_a_driver_is_refused_in_one_sentence(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIBRARIES", {"Linux": ("libcuda_not_there.so",)})
    with pytest.raises(MissingBackend, match=r"^This machine has no [^.]*(\.so\))?: an engine runs where") as caught:
        Runtime(engine).__enter__()
    assert caught.value.exit_code == 3


def test_a_file_that_is_no_engine_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UnreadableArtifact, match="is not an engine of TensorRT"), Runtime(write_model(tmp_path / "m")):
        pass


def test_the_real_library_says_why_it_does_not_load_an_engine(driver: ctypes.CDLL, tmp_path: Path) -> None:
    """The engine is real, and so is the refusal: the driver is a stand-in, which the library does not take for one."""
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'vitedge[tensorrt-rtx]'")
    log = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    relu = network.add_activation(network.add_input("x", trt.float16, (1, 4)), trt.ActivationType.RELU)
    network.mark_output(relu.get_output(0))
    path = tmp_path / "model.engine"
    path.write_bytes(bytes(builder.build_serialized_network(network, builder.create_builder_config())))
    with pytest.raises(UnreadableArtifact, match=r"not loaded by TensorRT for RTX [\d.]+ on .*cudaError 35"):
        Runtime(path).__enter__()
    path.write_bytes(b"vtrt" + bytes(400))
    with pytest.raises(UnreadableArtifact, match=r"not loaded by TensorRT for RTX [\d.]+ on .*Serialization"):
        Runtime(path).__enter__()
    assert driver.left() == 0
