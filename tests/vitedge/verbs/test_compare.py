# SPDX-License-Identifier: Apache-2.0
"""`compare`, and `keeping`: one real comparison, of which one candidate is within tolerance, and one fails."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tests.bad_files import VIT
from vitedge.checkpoints import read as reading
from vitedge.demo.assets import IMAGES
from vitedge.devices.local import Session
from vitedge.errors import BadImages, BadRecipe, DeviceFailed, MissingBackend, OutputRefused
from vitedge.files.bundle import read_manifest
from vitedge.files.digest import hash_file
from vitedge.latency.sampling import Rule
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.records import Tolerance
from vitedge.verbs import compare as verb
from vitedge.verbs.candidates import CompareOptions
from vitedge.verbs.compare import compare
from vitedge.verbs.export import export
from vitedge.verbs.keeping import Keeping, keep
from vitedge.verbs.records import FAILED, NOT_MADE, WITHIN, Candidate, Comparison
from vitedge.verbs.validate import validate

SHORT = Rule(warmup_s=0.02, warmup_limit_s=0.1, samples=10, seconds=0.2, rounds=5)
ROUGH = QuantizationRecipe(
    images=str(IMAGES), image_count=4, smoothing=False, equalization=False, bias_correction=False
)
"""Quick, and 34 dB for int8; 38 dB for w4."""
RECIPE = ExportRecipe(images=str(IMAGES), image_count=6, quantization=ROUGH, tolerance=Tolerance(centred_sqnr_db=36.0))
FLOAT = CompareOptions(ExportRecipe(image_count=2), ("fp32",), threads=1, rule=SHORT)


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare") / "kept"


@pytest.fixture(scope="module")
def result(kept: Path, told: list[str]) -> Comparison:
    with np.load(IMAGES) as digits:
        few = {name: digits[name][:20] for name in ("images", "labels")}
    np.savez(kept.parent / "few.npz", **few)
    options = CompareOptions(RECIPE, ("fp32", "int8", "w4"), str(kept.parent / "few.npz"), threads=1, rule=SHORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITEDGE_CACHE", str(kept.parent / "cache"))
        read, reads = reading.read, []
        patch.setattr("vitedge.verbs.export.read", lambda *words, **named: reads.append(1) or read(*words, **named))
        found = compare(str(VIT), options, Keeping(kept, everything=True), told.append)
    assert len(reads) == 1
    return found


def of(result: Comparison, name: str) -> Candidate:
    return next(one for one in result.candidates if one.name == name)


def test_every_candidate_has_a_row_and_one_that_fails_says_why(result: Comparison) -> None:
    assert [one.name for one in result.candidates] == ["onnx fp32", "onnx int8", "onnx w4"]
    assert [one.outcome for one in result.candidates] == [WITHIN, FAILED, WITHIN]
    failed = of(result, "onnx int8")
    assert "36.0 dB" in failed.reason or "36 dB" in failed.reason
    assert failed.artifact is failed.latency is failed.accuracy is None
    assert failed.parity[0].outputs[0].centred_sqnr_db < 36.0
    assert result.passed


def test_what_is_within_tolerance_is_measured_in_one_run_and_compared(result: Comparison) -> None:
    within = [one for one in result.candidates if one.within]
    for one in within:
        assert one.latency is not None
        assert one.latency.typical_ms is not None
        low, middle, high = one.latency.typical_ms
        assert 0 < low <= middle <= high
        assert one.artifact is not None
        assert one.latency.file_size == one.artifact.size
    pairs = [(ratio.baseline, ratio.subject) for ratio in result.ratios]
    assert pairs == list(combinations([one.name for one in within], 2))


def test_top1_is_counted_beside_that_of_the_reference(result: Comparison) -> None:
    assert result.reference is not None
    assert (result.reference.runtime, result.reference.top1.total) == ("torch", 20)
    for name in ("onnx fp32", "onnx w4"):
        one = of(result, name)
        assert one.accuracy is not None
        assert one.loss is not None
        assert one.accuracy.top1.count == result.reference.top1.count - one.loss.lost + one.loss.gained
        assert one.loss.baseline == "reference"


def test_shared_work_is_done_once(result: Comparison, told: list[str]) -> None:
    stages = [line.removesuffix(" …") for line in told]
    for title in ("reading the checkpoint", "building the reference", "running the reference"):
        assert [line for line in stages if title in line] == [f"reference · {title}"]
    assert [line for line in stages if line.endswith("lowering")] == [
        f"onnx {one} · lowering" for one in ("fp32", "int8", "w4")
    ]


def test_one_is_recommended_and_its_command_gives_the_same_bytes(
    result: Comparison, kept: Path, tmp_path: Path
) -> None:
    assert result.recommended in ("onnx fp32", "onnx w4")
    assert result.command == of(result, result.recommended).command
    command = of(result, "onnx w4").command
    assert command.startswith(f"vitedge export {VIT} -o BUNDLE --format onnx --precision w4 --images {IMAGES}")
    again = replace(RECIPE, formats=("onnx",), precision="w4", quantization=replace(ROUGH, scheme="w4"))
    made = export(str(VIT), tmp_path / "again", again)
    assert [(one.path, one.sha256) for one in made.manifest.artifacts] == [
        (one.path, one.sha256) for one in read_manifest(kept / "onnx-w4").artifacts
    ]


def test_every_bundle_that_is_kept_is_valid_and_listed(result: Comparison, kept: Path) -> None:
    assert sorted(path.name for path in kept.iterdir()) == ["comparison.json", "onnx-fp32", "onnx-w4"]
    assert result.kept == {name: str(kept / name.replace(" ", "-")) for name in ("onnx fp32", "onnx w4")}
    assert validate(kept / "onnx-w4").passed
    listing = json.loads((kept / "comparison.json").read_text())
    assert listing["comparison"]["recommended"] == result.recommended
    assert listing["files"]["onnx-w4/model.onnx"] == hash_file(kept / "onnx-w4" / "model.onnx")


def test_the_recommended_bundle_alone_takes_the_place_of_what_force_replaces(
    result: Comparison, kept: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bundles = {name: kept / name.replace(" ", "-") for name in result.kept}
    alone = keep(replace(result, recommended="onnx w4"), bundles, Keeping(out))
    assert alone.kept == {"onnx w4": str(out)}
    assert validate(out).passed
    with pytest.raises(OutputRefused, match="already there"):
        keep(result, bundles, Keeping(out))
    keep(result, bundles, Keeping(out, force=True, everything=True))
    keep(replace(result, recommended="onnx w4"), bundles, Keeping(out, force=True))
    assert (out / "manifest.json").is_file()


def test_a_file_that_is_no_part_of_the_comparison_keeps_its_folder(
    result: Comparison, kept: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bundles = {name: kept / name.replace(" ", "-") for name in result.kept}
    keep(result, bundles, Keeping(out, everything=True))
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(OutputRefused, match="thesis"):
        compare("nowhere.pth", keeping=Keeping(out, force=True))


def test_nothing_recommended_keeps_nothing(result: Comparison, tmp_path: Path) -> None:
    assert keep(replace(result, recommended=""), {}, Keeping(tmp_path / "out")).kept == result.kept
    assert not (tmp_path / "out").exists()


def test_a_loss_of_top1_beyond_what_is_allowed_is_a_failure(result: Comparison) -> None:
    one = of(result, "onnx w4")
    assert one.accuracy is not None
    assert one.loss is not None
    lossy = replace(one.loss, lost=3, gained=1, drop_points=10.0)
    failed = verb._with_accuracy(one, one.accuracy, lossy, 9.9)
    assert (failed.outcome, failed.reason) == (
        FAILED,
        "It loses 10.00 points of top-1 against the reference; 9.9 were allowed.",
    )
    assert verb._with_accuracy(one, one.accuracy, lossy, 10.0).within


def test_a_device_that_fails_in_the_middle_leaves_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_words: object, **_options: object) -> None:
        raise DeviceFailed("The process died.")

    monkeypatch.setattr(verb, "measure_in_turn", fail)
    found = compare(str(VIT), FLOAT)
    assert found.failed == found.candidates[0].not_timed == "The process died."
    assert found.recommended == "onnx fp32"
    assert "no time was measured" in found.why


def test_what_does_not_run_here_is_a_row_without_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "refusal", lambda _self, runtime: f"{runtime} is not here.")
    (one,) = compare(str(VIT), FLOAT).candidates
    assert (one.outcome, one.not_timed, one.latency) == (WITHIN, "onnxruntime is not here.", None)


def test_without_images_int8_says_that_it_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compare(str(VIT), replace(FLOAT, precisions=("fp32", "int8")))
    one = of(found, "onnx int8")
    assert one.outcome == NOT_MADE
    assert "finds the ranges of activations on images" in one.reason
    with pytest.raises(BadRecipe, match="add --images DIR"):
        compare(str(VIT), replace(FLOAT, precisions=("int8",)))


def test_mistakes_are_found_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(BadImages, match="There is no nowhere"):
        compare(str(VIT), replace(FLOAT, eval_images="nowhere"))
    with pytest.raises(BadRecipe, match="quantized already"):
        compare("model.pt2", FLOAT)
    with pytest.raises(BadRecipe, match="--max-drop"):
        replace(FLOAT, max_drop=1.0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputRefused):
        compare(str(VIT), FLOAT, Keeping(tmp_path / "file"))


def test_a_format_whose_package_is_missing_is_refused_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_words: object) -> None:
        raise MissingBackend("ONNX needs onnxscript, which is not installed; type: pip install vitedge")

    monkeypatch.setattr("vitedge.verbs.candidates.refuse_missing", missing)
    with pytest.raises(MissingBackend, match="onnxscript"):
        compare(str(VIT), FLOAT)
