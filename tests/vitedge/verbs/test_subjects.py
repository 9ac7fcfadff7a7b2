# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.bad_files import VIT
from tests.vitedge.grey_models import GREYS, NAMES, spec, write_model
from vitedge.errors import BadRecipe, BundleDamaged, UnreadableArtifact, UserError
from vitedge.verbs.subjects import Weights, checkpoint, find, opened, sizes

PIXELS = np.stack([np.full((3, 8, 8), grey, np.uint8) for grey in GREYS])


@pytest.mark.parametrize("batch", [1, 3, "batch"])
def test_an_onnx_file_scores_images_whatever_its_batch(tmp_path: Path, batch: int | str) -> None:
    (subject,) = find([str(write_model(tmp_path / "m.onnx", batch=batch, told=spec()))])
    with opened(subject, Weights()) as found:
        assert (found.label, found.runtime, found.classes) == ("m.onnx", "onnxruntime", 7)
        assert found.spec.labels == NAMES
        assert found.scores(PIXELS).argmax(axis=1).tolist() == list(range(7))


def test_someone_elses_file_borrows_the_preprocessing_and_keeps_its_own_size(tmp_path: Path) -> None:
    (subject,) = find([str(write_model(tmp_path / "m.onnx", output="probabilities"))])
    with pytest.raises(BadRecipe, match="add --against CHECKPOINT"), opened(subject, Weights()):
        pass
    with opened(subject, Weights(), borrowed=replace(spec(), image_size=(99, 99))) as found:
        assert found.spec.image_size == (8, 8)
        assert found.scores(PIXELS).argmax(axis=1).tolist() == list(range(7))


def test_a_bundle_is_each_of_its_artifacts(demo_bundle: Path) -> None:
    found = find([str(demo_bundle), str(VIT)])
    assert [subject.label for subject in found] == ["vit/model.onnx", "vit/model.mlpackage", "vit-digits.pth"]
    assert sizes(found) == ((32, 32),)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    scores = []
    for subject in found:
        with opened(subject, Weights()) as predictor:
            scores.append(predictor.scores(pixels))
    for other in scores[:2]:
        np.testing.assert_allclose(other, scores[2], rtol=0, atol=1e-3)


def test_subjects_of_one_name_go_by_their_paths(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(str(write_model(tmp_path / name / "m.onnx")))
    assert [subject.label for subject in find(paths)] == paths


def test_a_damaged_bundle_is_not_evaluated(demo_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(demo_bundle, tmp_path / "bundle")
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleDamaged, match=r"model\.onnx"):
        find([str(bundle)])


def test_a_subject_that_cannot_be_evaluated_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", told=spec())
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, [1, 1]))
    model.graph.output[0].name = "product"
    onnx.save(model, tmp_path / "two.onnx")
    write_model(tmp_path / "odd.onnx", told=spec())
    odd = onnx.load(tmp_path / "odd.onnx")
    helper.set_model_props(odd, {"vitedge.spec": '{"family": "vit", "wings": 2}'})
    onnx.save(odd, tmp_path / "odd.onnx")
    for name, sentence in (("two.onnx", "no class scores"), ("odd.onnx", "wings"), ("gone.onnx", "is not there")):
        with pytest.raises(UnreadableArtifact, match=sentence):
            find([str(tmp_path / name)])
    with pytest.raises(UserError, match=r"nowhere\.pth"), opened(checkpoint("nowhere.pth"), Weights()):
        pass
