# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.vitedge.onnx_models import WEIGHT, expected, write_model
from vitedge.errors import BadRecipe, CheckFailed, DeviceFailed, MissingBackend, UnreadableArtifact
from vitedge.records import TensorSpec
from vitedge.runtimes.onnxruntime import Runtime
from vitedge.runtimes.onnxruntime_cuda import Runtime as CudaRuntime

X = np.random.default_rng(1).standard_normal((1, 3, 4)).astype(np.float32)


def test_runs_and_declares_what_the_file_declares(tmp_path: Path) -> None:
    with Runtime(write_model(tmp_path / "m.onnx", batch="batch")) as runtime:
        assert runtime.inputs == (TensorSpec("x", ("batch", 3, 4), "float32"),)
        assert runtime.outputs == (TensorSpec("y", ("batch", 3, 4), "float32"),)
        for batch in (1, 2, 5):
            found = runtime.run({"x": np.repeat(X, batch, axis=0)})
            assert found["y"].shape == (batch, 3, 4)
            np.testing.assert_allclose(found["y"], np.repeat(expected(X), batch, axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("external", [False, True])
def test_intermediates_come_beside_the_outputs(tmp_path: Path, external: bool) -> None:
    path = write_model(tmp_path / "m.onnx", external=external)
    before = path.read_bytes()
    with Runtime(path, intermediates=("step_0", "y", "step_1", "step_0")) as runtime:
        assert [spec.name for spec in runtime.outputs] == ["y"]
        found = runtime.run({"x": X})
    assert list(found) == ["y", "step_0", "step_1"]
    np.testing.assert_allclose(found["step_0"], X @ WEIGHT, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["step_1"], X @ WEIGHT @ WEIGHT, rtol=1e-5, atol=1e-6)
    assert path.read_bytes() == before


def test_unknown_intermediate_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(BadRecipe, match=r"no value named blocks.7"),
        Runtime(write_model(tmp_path / "m.onnx"), intermediates=("step_0", "blocks.7")),
    ):
        pass


def test_describes_what_really_runs(tmp_path: Path) -> None:
    with Runtime(write_model(tmp_path / "m.onnx"), threads=2) as runtime:
        found = runtime.describe()
    assert found["provider"] == "CPUExecutionProvider"
    assert found["threads"] == 2
    assert found["version"] == onnxruntime.__version__


def test_provider_that_is_not_there_is_not_replaced_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "m.onnx")
    with pytest.raises(MissingBackend, match="has no CUDAExecutionProvider; type: pip install"), CudaRuntime(path):
        pass
    # A provider that is there, and that has none of the operators.
    monkeypatch.setattr(Runtime, "_provider", "AzureExecutionProvider")
    with pytest.raises(CheckFailed, match=r"was asked for and does not compute all of m\.onnx"), Runtime(path):
        pass
    # One that is listed, and whose library is missing: ONNX Runtime warns and takes the processor.
    monkeypatch.setattr(Runtime, "_provider", "CUDAExecutionProvider")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(CheckFailed, match="CUDAExecutionProvider was asked for and does not compute all"),
        Runtime(path),
    ):
        pass


def test_missing_file_and_folder_are_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(UnreadableArtifact, match="is not there, or is not a file"), Runtime(path):
            pass


@pytest.mark.parametrize("intermediates", [(), ("step_0",)])
@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_damaged_file_is_one_sentence(tmp_path: Path, content: bytes | None, intermediates: tuple[str, ...]) -> None:
    path = write_model(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises((UnreadableArtifact, BadRecipe)) as caught, Runtime(path, intermediates=intermediates):
        pass
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lost_external_weights_are_one_sentence(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", external=True)
    (tmp_path / "m.onnx.data").unlink()
    for intermediates in ((), ("step_0",)):
        with pytest.raises(UnreadableArtifact, match="cannot be opened"), Runtime(path, intermediates=intermediates):
            pass


def test_wrong_feeds_are_named(tmp_path: Path) -> None:
    with Runtime(write_model(tmp_path / "m.onnx")) as runtime:
        with pytest.raises(BadRecipe, match="takes x, not image"):
            runtime.run({"image": X})
        with pytest.raises(DeviceFailed, match="failed to run"):
            runtime.run({"x": X[:, :2]})


def test_idle_workers_do_not_burn_the_processor(tmp_path: Path) -> None:
    with Runtime(write_model(tmp_path / "m.onnx", batch=512, depth=30), threads=2) as runtime:
        feeds = {"x": np.repeat(X, 512, axis=0)}
        for _ in range(20):
            runtime.run(feeds)
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.1


def test_leaving_frees_the_session(tmp_path: Path) -> None:
    runtime = Runtime(write_model(tmp_path / "m.onnx"))
    with runtime:
        pass
    with pytest.raises(AttributeError):
        runtime.describe()


def test_the_library_is_not_shadowed_by_the_file_of_its_name() -> None:
    script = "import vitedge.runtimes.onnxruntime as ours, onnxruntime; print(ours.ort is onnxruntime)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
