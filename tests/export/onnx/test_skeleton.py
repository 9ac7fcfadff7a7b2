# SPDX-License-Identifier: Apache-2.0
"""Files that others wrote, without their weights: `vitedge.export.onnx.skeleton` and `artifact`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vitedge.errors import UnreadableArtifact
from vitedge.export.onnx import artifact

WEIGHT = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
STORED = {
    "raw": numpy_helper.from_array(WEIGHT, "w"),
    "numbers of one type": helper.make_tensor("w", TensorProto.FLOAT, WEIGHT.shape, WEIGHT.flatten().tolist()),
    "half as integers": helper.make_tensor("w", TensorProto.FLOAT16, WEIGHT.shape, WEIGHT.flatten().tolist()),
}


def model(weight: TensorProto) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, weight.data_type, ["batch", 64]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("kind", sorted(STORED))
def test_weights_are_read_in_every_form_that_exporters_write(kind: str, tmp_path: Path) -> None:
    onnx.save(model(STORED[kind]), tmp_path / "m.onnx")
    found = artifact.describe(tmp_path / "m.onnx")
    assert found.precision == ("fp16" if "half" in kind else "fp32")
    assert [spec.name for spec in found.inputs] == ["x"]
    assert artifact.check(tmp_path / "m.onnx", found).passed


def test_weights_beside_the_file_belong_to_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(STORED["raw"]), path, save_as_external_data=True, location="m.data", size_threshold=0)
    found = artifact.describe(path)
    assert sorted(found.files) == ["m.data", "m.onnx"]
    assert artifact.check(path, found).passed
    (tmp_path / "m.data").unlink()
    with pytest.raises(UnreadableArtifact, match=r"keeps its weights in m\.data, which is not beside it"):
        artifact.describe(path)


@pytest.mark.parametrize("repeated", [b"", b"\x08\x07"])
def test_gigabytes_of_nothing_are_not_walked_through(repeated: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(repeated * 1_100_000)
    with path.open("r+b") as file:
        file.truncate(4 * 2**30)
    with pytest.raises(UnreadableArtifact, match="not an ONNX model"):
        artifact.describe(path)
