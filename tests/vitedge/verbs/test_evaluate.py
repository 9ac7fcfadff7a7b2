# SPDX-License-Identifier: Apache-2.0
"""`evaluate`, and `vitedge.cli.evaluate`: images of one grey each, and models that tell the greys apart."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.bad_files import VIT
from tests.vitedge.grey_models import GREYS, NAMES, spec, write_arrays, write_folders, write_model
from vitedge.demo.assets import IMAGES, MODELS
from vitedge.errors import BadImages, BadRecipe
from vitedge.pruning.recipe import PruningRecipe
from vitedge.recipe import ExportRecipe
from vitedge.verbs.evaluate import EvaluationRequest, evaluate
from vitedge.verbs.export import export
from vitedge.verbs.prune import prune
from vitedge.verbs.subjects import Weights

CONFUSED = (10, 40, 70, 101, 100, 160, 190)
"""Class 4 is looked for where class 3 is: of the greys 100 to 102 it takes one, and nothing is near 130 to 132."""
LOST = ("dog/000.png", "eel/000.png", "eel/001.png", "eel/002.png")


@pytest.fixture
def good(tmp_path: Path) -> str:
    return str(write_model(tmp_path / "good.onnx", told=spec()))


@pytest.fixture
def bad(tmp_path: Path) -> str:
    """Loses 4 of 21 images."""
    return str(write_model(tmp_path / "bad.onnx", batch="batch", told=spec(), greys=CONFUSED))


@pytest.fixture
def folders(tmp_path: Path) -> str:
    return str(write_folders(tmp_path / "set", NAMES, each=3))


def test_shares_intervals_and_what_was_lost(good: str, bad: str, folders: str) -> None:
    found = evaluate([good, bad], EvaluationRequest(folders))
    first, second = found.subjects
    assert (found.images, found.classes, found.classes_seen) == (21, 7, 7)
    assert (first.top1.count, first.top1.share, first.top1.high) == (21, 1.0, 1.0)
    assert first.top1.low == pytest.approx(0.8454, abs=1e-4)
    assert second.top1.count == 17
    (pair,) = found.comparisons
    assert (pair.subject, pair.baseline) == ("bad.onnx", "good.onnx")
    assert (pair.lost, pair.gained, pair.lost_images) == (4, 0, LOST)
    assert pair.drop_points == pytest.approx(400 / 21)
    assert pair.p_value == 2 / 2**4
    assert second.top5 is not None
    assert second.top5.count == 21
    assert (first.agreement, second.agreement, found.reference) == (None, None, None)
    assert found.passed


def test_every_kind_of_source_gives_the_same(good: str, bad: str, folders: str, tmp_path: Path) -> None:
    rows = [f"set/{name}/{index:03}.png,{label}" for label, name in enumerate(NAMES[2:], 2) for index in range(3)]
    (tmp_path / "set.csv").write_text("\n".join(rows), encoding="utf-8")
    table = evaluate([good, bad], EvaluationRequest(str(tmp_path / "set.csv")))
    whole = evaluate([good, bad], EvaluationRequest(folders))
    assert [row.top1.count + 6 for row in table.subjects] == [row.top1.count for row in whole.subjects]
    assert (table.classes_seen, table.images) == (5, 15)
    arrays = evaluate([good], EvaluationRequest(str(write_arrays(tmp_path / "set.npz", [0, 6, 3]))))
    assert (arrays.images, arrays.subjects[0].top1.count) == (3, 3)


def test_the_allowed_drop(good: str, bad: str, folders: str) -> None:
    exact = 100 * len(LOST) / 21
    assert evaluate([good, bad], EvaluationRequest(folders, max_drop=exact)).passed
    missed = evaluate([good, bad], EvaluationRequest(folders, max_drop=exact - 0.01))
    assert not missed.passed
    assert missed.reason.startswith(f"bad.onnx loses {exact:.2f} points of top-1 against good.onnx")
    assert evaluate([bad, good], EvaluationRequest(folders, max_drop=0.0)).passed


@pytest.mark.parametrize("offset", [1e6, np.nan])
def test_a_reference_that_decides_nothing_limits_no_drop(
    offset: float, good: str, folders: str, tmp_path: Path
) -> None:
    """One class for every image, or no number at all: nothing can be lost against it, and that is no pass."""
    model = onnx.load(good)
    (entry,) = (entry for entry in model.graph.initializer if entry.name == "offset")
    values = numpy_helper.to_array(entry).copy()
    values[: 1 if np.isfinite(offset) else None] = offset
    entry.CopyFrom(numpy_helper.from_array(values, "offset"))
    onnx.save(model, tmp_path / "constant.onnx")
    found = evaluate([str(tmp_path / "constant.onnx"), good], EvaluationRequest(folders, max_drop=100.0))
    assert not found.passed
    assert found.reason.startswith("constant.onnx is degenerate")


def test_classes_are_called_as_a_file_says(tmp_path: Path) -> None:
    """A model that tells no names: folders are counted in order, unless a file has them."""
    unnamed = str(write_model(tmp_path / "unnamed.onnx", told=spec(labels=())))
    turned = tuple(reversed(NAMES))
    folders = str(write_folders(tmp_path / "turned", turned, each=1))
    names = tmp_path / "names.txt"
    names.write_text("\n".join(turned), encoding="utf-8")
    wrong = evaluate([unnamed], EvaluationRequest(folders))
    assert wrong.subjects[0].top1.count == 1
    assert "counted in the order of their names" in wrong.notes[0]
    for labels in (str(names), turned):
        found = evaluate([unnamed], EvaluationRequest(folders, labels=labels))
        assert found.subjects[0].top1.count == 7
        assert found.notes == ()
    names.write_text("\n".join(f"{name}s" for name in turned), encoding="utf-8")
    with pytest.raises(BadImages, match=r"None of the 7 class folders .* \(nearest: .*cat ~ cats"):
        evaluate([unnamed], EvaluationRequest(folders, labels=str(names)))


def test_labels_of_one_class_are_told(good: str, tmp_path: Path) -> None:
    found = evaluate([good], EvaluationRequest(str(write_arrays(tmp_path / "set.npz", [3, 3, 3]))))
    assert "all images are of one class, so top-1 says nothing about the others" in found.notes
    assert "good.onnx chooses the same class for every image" in found.notes


def test_scores_that_are_not_numbers_are_wrong(good: str, folders: str, tmp_path: Path) -> None:
    model = onnx.load(good)
    (offset,) = (entry for entry in model.graph.initializer if entry.name == "offset")
    values = numpy_helper.to_array(offset).copy()
    values[0] = np.nan
    offset.CopyFrom(numpy_helper.from_array(values, "offset"))
    onnx.save(model, tmp_path / "nan.onnx")
    found = evaluate([good, str(tmp_path / "nan.onnx")], EvaluationRequest(folders))
    assert (found.subjects[1].top1.count, found.subjects[1].not_finite) == (0, 21)
    assert found.comparisons[0].lost == 21
    assert len(found.comparisons[0].lost_images) == 20


def test_the_demos_model_and_its_artifacts(demo_bundle: Path) -> None:
    """The same images through PyTorch, ONNX Runtime and the package's program."""
    found = evaluate([str(demo_bundle)], EvaluationRequest(str(IMAGES), image_count=60, against=str(VIT)))
    reference, *artifacts = found.subjects
    assert reference.subject == "vit-digits.pth (reference)"
    assert (reference.runtime, reference.agreement) == ("torch", None)
    assert reference.top1.share > 0.9
    assert [row.runtime for row in artifacts] == ["onnxruntime", "mlprogram"]
    for row in artifacts:
        assert row.top1 == reference.top1
        assert row.agreement is not None
        assert row.agreement.share == 1.0
    assert [(pair.lost, pair.gained, pair.p_value) for pair in found.comparisons] == [(0, 0, 1.0)] * 2
    assert "not a bit model" in artifacts[1].note
    assert found.notes == ()


def test_a_reference_is_what_the_bundle_was_made_of(demo_bundle: Path) -> None:
    """Its size is that of the artifacts; a fact that was given otherwise is said."""
    weights = Weights(overrides={"mean": (0.2, 0.2, 0.2)})
    request = EvaluationRequest(str(IMAGES), image_count=10, against=str(VIT), weights=weights)
    found = evaluate([str(demo_bundle / "model.onnx")], request)
    assert found.notes == ("model.onnx and vit-digits.pth (reference) prepare images differently",)


def test_a_pruned_model_is_counted_as_the_file_that_is_exported_from_it(tmp_path: Path) -> None:
    """Beside the dense one; its facts, class names included, come from its own file."""
    dense = MODELS[0]
    path = tmp_path / "small.safetensors"
    facts: dict[str, Any] = {"overrides": dense.overrides, "accept_assumptions": True}
    asked = PruningRecipe(mlp=0.5, criterion="magnitude", images=str(IMAGES), image_count=64, **facts)
    prune(str(dense.path), path, asked)
    bundle = export(str(path), tmp_path / "bundle", ExportRecipe(images=str(IMAGES), image_count=4)).bundle
    told = Weights(overrides=dense.overrides)
    found = evaluate([str(path), bundle], EvaluationRequest(str(IMAGES), 100, against=str(dense.path), weights=told))
    reference, pruned, lowered = found.subjects
    assert (reference.top1.share, pruned.top1.share) == (pytest.approx(0.95, abs=0.06), pytest.approx(0.95, abs=0.06))
    assert pruned.subject == "small.safetensors"
    assert lowered.top1 == pruned.top1
    assert lowered.agreement == pruned.agreement
    assert pruned.agreement is not None
    assert 0.9 < pruned.agreement.share <= 1.0
    (alone,) = evaluate([str(path)], EvaluationRequest(str(IMAGES), 100)).subjects
    assert alone.top1 == pruned.top1


def test_subjects_that_prepare_images_differently_see_the_same_images(good: str, folders: str, tmp_path: Path) -> None:
    large = str(write_model(tmp_path / "large.onnx", size=16, told=spec(16)))
    (Path(folders) / "ant" / "000.png").write_bytes(b"no image")
    found = evaluate([good, large], EvaluationRequest(folders))
    assert [row.top1.count for row in found.subjects] == [20, 20]
    assert list(found.skipped) == ["ant/000.png"]
    assert "prepare images differently" in found.notes[0]


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    model = str(write_model(tmp_path / "m.onnx", size=64, batch=8, told=spec(64)))
    evaluate([model], EvaluationRequest(str(write_arrays(tmp_path / "warm.npz", [0] * 4))))
    peaks = []
    for count in (64, 512):  # 512 prepared images are 6.3 MB
        path = write_arrays(tmp_path / f"{count}.npz", [index % len(GREYS) for index in range(count)])
        tracemalloc.start()
        evaluate([model], EvaluationRequest(str(path)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 1e6


def test_what_does_not_fit_together_is_refused(good: str, folders: str, tmp_path: Path) -> None:
    fewer = str(write_model(tmp_path / "fewer.onnx", greys=GREYS[:6], told=replace(spec(labels=()), classes=6)))
    other = str(write_model(tmp_path / "other.onnx", told=spec(labels=NAMES[::-1])))
    large = str(write_model(tmp_path / "large.onnx", size=16, told=spec(16)))
    for subjects, request, sentence in (
        ([], EvaluationRequest(folders), "Nothing was named"),
        ([good, fewer], EvaluationRequest(folders), "fewer.onnx has 6 classes and good.onnx 7"),
        ([good, other], EvaluationRequest(folders), "call their classes by other names"),
        ([good], EvaluationRequest(folders, max_drop=1.0), "--max-drop compares"),
        ([good], EvaluationRequest(folders, weights=Weights(overrides={"labels": ("a", "b")})), "names of 2 classes"),
        ([good, large], EvaluationRequest(folders, against=str(VIT)), "8x8 and 16x16"),
    ):
        with pytest.raises(BadRecipe, match=sentence):
            evaluate(subjects, request)


def test_the_command(good: str, bad: str, folders: str) -> None:
    def vitedge(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vitedge", "evaluate", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    missed = vitedge(good, bad, "--images", folders, "--max-drop", "0.5", "--json")
    assert missed.returncode == 4, missed.stderr
    assert "classifying 21 images" in missed.stderr
    assert json.loads(missed.stdout)["subjects"][0]["top1"]["count"] == 21
    refused = vitedge(good, "--images", str(Path(folders) / "ant"))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[-1].startswith("vitedge: ")
    assert "Traceback" not in refused.stderr
