# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.vitedge.images.specs import make_spec
from vitedge import registry
from vitedge.export.onnx.artifact import describe
from vitedge.files.bundle import ReferenceData
from vitedge.images.preprocess import normalize
from vitedge.parity.artifact import ReferenceOutputs, check_parity, check_structure
from vitedge.records import Artifact, ParityReport, TensorSpec, Tolerance

SPEC = make_spec((4, 4))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4), np.uint8)
WEIGHT = np.random.default_rng(1).standard_normal((48, 5)).astype(np.float32)
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}
SCORES = normalize(PIXELS, SPEC.preprocessing).reshape(6, -1) @ WEIGHT


def write(path: Path, batch: int | str, dtype: str = "float32", names: tuple[str, ...] = ("logits",)) -> Artifact:
    """A file that flattens its image and multiplies it with `WEIGHT`; each further output is twice the one before."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], [names[0]]),
        *(helper.make_node("Add", [before, before], [after]) for before, after in itertools.pairwise(names)),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TYPES[dtype], [batch, 3, 4, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 5]) for name in names],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return describe(path)


def checked(
    path: Path, artifact: Artifact, outputs: dict[str, np.ndarray], tolerance: Tolerance | None = None
) -> ParityReport:
    (report,) = check_parity(
        path, artifact, ReferenceOutputs(ReferenceData(PIXELS, outputs), SPEC, tolerance or Tolerance(2e-5), "some")
    )
    return report


@pytest.mark.parametrize("batch", [1, 4, 6, 8, "batch"])
def test_every_image_counts_once_whatever_the_batch(batch: int | str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    artifact = write(path, batch)
    report = checked(path, artifact, {"logits": SCORES})
    assert report.passed, report.reason
    assert (report.artifact, report.runtime, report.images) == ("model.onnx", "onnxruntime", 6)
    assert report.outputs[0].agreement == 1.0
    # The very last image is wrong by a thousandth: padding must neither hide it nor push it out.
    changed = SCORES.copy()
    changed[-1, 0] += 1e-3 * np.abs(SCORES).max()
    failed = checked(path, artifact, {"logits": changed})
    assert not failed.passed
    assert "logits is off by 0.001" in failed.reason


def test_outputs_of_other_names_are_taken_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    artifact = write(path, 1, names=("scores", "doubled"))
    assert checked(path, artifact, {"tokens": SCORES, "pooled": 2 * SCORES}).passed
    swapped = checked(path, artifact, {"tokens": 2 * SCORES, "pooled": SCORES})
    assert not swapped.passed
    assert "tokens" in swapped.reason


def test_outputs_of_our_names_are_taken_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    artifact = write(path, 1, names=("pooled", "tokens"))
    assert checked(path, artifact, {"tokens": 2 * SCORES, "pooled": SCORES}).passed


def test_an_output_that_the_file_lacks_does_not_pass(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    artifact = write(path, 1, names=("tokens",))
    report = checked(path, artifact, {"tokens": SCORES, "pooled": SCORES}, Tolerance())
    assert not report.passed
    assert report.reason.startswith("pooled is missing")


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float16", 1e-2)])
def test_a_file_gets_what_its_input_takes(dtype: str, tolerance: float, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    report = checked(path, write(path, 4, dtype), {"logits": SCORES}, Tolerance(tolerance))
    assert report.passed, report.reason


def test_a_file_that_takes_pixels_gets_pixels(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    raw = PIXELS.reshape(6, -1).astype(np.float32) @ WEIGHT
    assert checked(path, write(path, 4, "uint8"), {"logits": raw}).passed


def test_what_cannot_run_here_has_no_parity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    artifact = replace(write(tmp_path / "model.onnx", 1), format="coreml")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(registry, "missing", lambda _table, name: ("torch",) if name == "mlprogram" else ())
    assert check_parity(tmp_path, artifact, ReferenceOutputs(ReferenceData(PIXELS, {}), SPEC, Tolerance(), "")) == ()


def test_structure_is_checked_by_format(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    artifact = write(path, 1)
    assert check_structure(path, artifact).passed
    other = replace(artifact, outputs=(TensorSpec("logits", (1, 7), "float32"),))
    assert "outputs" in check_structure(path, other).reason
