# SPDX-License-Identifier: Apache-2.0
"""Images of one grey each, and an ONNX file that tells them apart: what is right is known without any training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.vitedge.images.specs import make_spec
from vitedge.files.plain import to_dict
from vitedge.records import ModelSpec, Preprocessing

GREYS = (10, 40, 70, 100, 130, 160, 190)
"""Grey level of the images of class 0, 1, …"""
NAMES = ("ant", "bee, honey bee", "cat", "dog", "eel", "fox", "gnu")


def spec(size: int = 8, labels: tuple[str, ...] = NAMES) -> ModelSpec:
    """A model whose input is the image itself, 0 to 1."""
    plain = Preprocessing((0.0,) * 3, (1.0,) * 3, "nearest", 1.0)
    return replace(make_spec((size, size)), classes=len(GREYS), labels=labels, preprocessing=plain)


def write_model(
    path: Path,
    *,
    size: int = 8,
    batch: int | str = 1,
    greys: Sequence[int] = GREYS,
    told: ModelSpec | None = None,
    output: str = "logits",
) -> Path:
    """Scores ``2 g m - g²`` for the mean ``m`` of the image, largest for the nearest grey ``g`` of a class.

    Args:
        path: where to write.
        size: edge of the images.
        batch: of the input.
        greys: what the classes look like to the model.
        told: the spec that it carries; None as someone else's file.
        output: name of the scores.
    """
    levels = np.asarray(greys, np.float32) / 255
    constants = {"axes": np.array([1, 2, 3]), "slope": 2 * levels[None], "offset": -(levels**2)}
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image", "axes"], ["kept"], keepdims=1),
            helper.make_node("Flatten", ["kept"], ["mean"]),
            helper.make_node("MatMul", ["mean", "slope"], ["product"]),
            helper.make_node("Add", ["product", "offset"], [output]),
        ],
        "greys",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, len(greys)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if told is not None:
        helper.set_model_props(model, {"vitedge.spec": json.dumps(to_dict(told))})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def write_folders(folder: Path, names: Sequence[str], each: int = 3) -> Path:
    """One sub-folder a class, called by ``names``, with that many images of the class's grey."""
    for grey, name in zip(GREYS, names, strict=False):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            Image.new("RGB", (8, 8), (grey + index % 3,) * 3).save(folder / name / f"{index:03}.png")
    return folder


def write_arrays(path: Path, labels: Sequence[int]) -> Path:
    """An ``.npz`` with an image of each label's grey."""
    images = np.stack([np.full((8, 8, 3), GREYS[label % len(GREYS)], np.uint8) for label in labels])
    np.savez_compressed(path, images=images, labels=np.asarray(labels, np.int64))
    return path
