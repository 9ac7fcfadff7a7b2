# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest

from tests.vitedge.onnx_models import WEIGHT, expected, write_model
from vitedge.devices.session import connect
from vitedge.errors import BadRecipe, DeviceFailed, UnreadableArtifact
from vitedge.latency.interleave import measure_in_turn
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule
from vitedge.records import TensorSpec
from vitedge.runtimes.openvino import Runtime

X = np.random.default_rng(1).standard_normal((1, 3, 4)).astype(np.float32)


@pytest.mark.parametrize("external", [False, True])
def test_runs_an_onnx_file_and_declares_what_it_declares(tmp_path: Path, external: bool) -> None:
    with Runtime(write_model(tmp_path / "m.onnx", external=external)) as runtime:
        assert runtime.inputs == (TensorSpec("x", (1, 3, 4), "float32"),)
        assert runtime.outputs == (TensorSpec("y", (1, 3, 4), "float32"),)
        np.testing.assert_allclose(runtime.run({"x": X})["y"], expected(X), rtol=1e-5, atol=1e-6)


def test_takes_any_batch_where_the_file_does(tmp_path: Path) -> None:
    with Runtime(write_model(tmp_path / "m.onnx", batch="batch")) as runtime:
        assert runtime.inputs[0].shape == ("?", 3, 4)
        for batch in (1, 2, 5):
            found = runtime.run({"x": np.repeat(X, batch, axis=0)})["y"]
            np.testing.assert_allclose(found, np.repeat(expected(X), batch, axis=0), rtol=1e-5, atol=1e-6)


def test_runs_openvinos_own_format(tmp_path: Path) -> None:
    model = openvino.Core().read_model(write_model(tmp_path / "m.onnx"))
    openvino.save_model(model, tmp_path / "m.xml", compress_to_fp16=False)
    with Runtime(tmp_path / "m.xml", intermediates=("step_0",)) as runtime:
        found = runtime.run({"x": X})
    np.testing.assert_allclose(found["y"], expected(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["step_0"], X @ WEIGHT, rtol=1e-5, atol=1e-6)


def test_intermediates_come_beside_the_outputs(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    with Runtime(path, intermediates=("step_0", "y", "step_1", "step_0")) as runtime:
        assert [spec.name for spec in runtime.outputs] == ["y"]
        found = runtime.run({"x": X})
    assert list(found) == ["y", "step_0", "step_1"]
    np.testing.assert_allclose(found["step_0"], X @ WEIGHT, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["step_1"], X @ WEIGHT @ WEIGHT, rtol=1e-5, atol=1e-6)


def test_unknown_intermediate_is_named(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    with pytest.raises(BadRecipe, match=r"no value named blocks.7"), Runtime(path, intermediates=("blocks.7",)):
        pass


def test_a_result_is_not_overwritten_by_the_next_run(tmp_path: Path) -> None:
    with Runtime(write_model(tmp_path / "m.onnx")) as runtime:
        first = runtime.run({"x": X})["y"]
        runtime.run({"x": 2 * X})
    np.testing.assert_allclose(first, expected(X), rtol=1e-5, atol=1e-6)


def test_describes_what_really_runs_and_rounds_nothing_by_itself(tmp_path: Path) -> None:
    with Runtime(write_model(tmp_path / "m.onnx"), threads=1) as runtime:
        found = runtime.describe()
    assert (found["provider"], found["threads"], found["streams"]) == ("CPU", 1, 1)
    assert (found["precision"], found["performance_hint"]) == ("f32", "LATENCY")
    assert found["version"] == openvino.get_version()


def test_missing_file_and_folder_are_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(UnreadableArtifact, match="is not there, or is not a file"), Runtime(path):
            pass


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_damaged_file_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = write_model(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(UnreadableArtifact, match=r"cannot be opened by OpenVINO") as caught, Runtime(path):
        pass
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lost_external_weights_are_one_sentence(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", external=True)
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(UnreadableArtifact, match=r"m\.onnx cannot be opened"), Runtime(path):
        pass


def test_wrong_feeds_are_named(tmp_path: Path) -> None:
    with Runtime(write_model(tmp_path / "m.onnx")) as runtime:
        with pytest.raises(BadRecipe, match="takes x, not image"):
            runtime.run({"image": X})
        with pytest.raises(DeviceFailed, match="failed to run"):
            runtime.run({"x": X[:, :2]})


def test_leaving_frees_the_model(tmp_path: Path) -> None:
    runtime = Runtime(write_model(tmp_path / "m.onnx"))
    with runtime:
        pass
    with pytest.raises(AttributeError):
        runtime.describe()


def test_is_measured_like_every_other_runtime(tmp_path: Path) -> None:
    path = str(write_model(tmp_path / "m.onnx"))
    rule = Rule(warmup_s=0.0, warmup_limit_s=0.0, samples=5, seconds=1.0, rounds=1)
    with connect("local") as session:
        (report,) = measure_in_turn([MeasuredModel("m", "openvino", path, threads=1)], session, rule).reports
    assert report.samples == 5
    assert report.device["library"] == "openvino"


def test_the_library_is_not_shadowed_by_the_file_of_its_name() -> None:
    script = "import vitedge.runtimes.openvino as ours, openvino; print(ours.ov is openvino)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
