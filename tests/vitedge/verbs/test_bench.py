# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from tests.bad_files import VIT
from tests.vitedge.onnx_models import write_model
from tests.vitedge.render.samples import BENCH
from vitedge.errors import BadRecipe, BundleDamaged, DeviceFailed, MissingBackend, OutputRefused, UnreadableArtifact
from vitedge.files.bundle import read_manifest, write_manifest
from vitedge.files.plain import to_dict
from vitedge.latency.model import MeasuredModel
from vitedge.latency.sampling import Rule
from vitedge.records import BenchReport
from vitedge.verbs import bench as verb
from vitedge.verbs.bench import BenchOptions, bench
from vitedge.verbs.validate import validate

SHORT = Rule(warmup_s=0.02, warmup_limit_s=0.1, samples=10, seconds=0.2, rounds=5)


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(demo_bundle, tmp_path / "vit"))


def test_a_bundle_alone_gets_its_measurement_and_stays_valid(bundle: Path) -> None:
    told: list[str] = []
    report = bench([str(bundle)], BenchOptions(threads=1, rule=SHORT), told.append)
    assert [entry.subject for entry in report.reports] == ["vit/model.onnx"]
    (found,) = report.reports
    assert (found.runtime, found.batch, found.device["threads"]) == ("onnxruntime", 1, 1)
    assert found.samples == len(found.raw_ms) >= 5
    assert 0 < found.quantiles.minimum <= found.quantiles.median
    assert found.file_size == (bundle / "model.onnx").stat().st_size
    assert any("vit/model.onnx" in text for text in told)
    assert read_manifest(bundle).latency == report
    assert validate(bundle).passed


def test_a_bundle_beside_its_checkpoint_gives_a_ratio_and_is_not_written(bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    report = bench([str(VIT), str(bundle)], BenchOptions(threads=1, image_size=(48, 48), rule=SHORT))
    assert [entry.runtime for entry in report.reports] == ["torch", "onnxruntime"]
    (ratio,) = report.ratios
    assert (ratio.subject, ratio.baseline) == ("vit/model.onnx", VIT.name)
    assert 0 < ratio.low <= ratio.ratio <= ratio.high
    assert ratio.ratio < 1, "a tiny model at a smaller image in ONNX Runtime is far from PyTorch eager"
    assert (bundle / "manifest.json").read_bytes() == before


def chosen(monkeypatch: pytest.MonkeyPatch, *subjects: str, **settings: object) -> list[MeasuredModel]:
    """Returns the models that would be measured."""
    found: list[MeasuredModel] = []

    def keep(asked: list[MeasuredModel], *_others: object) -> BenchReport:
        found.extend(asked)
        return BENCH

    monkeypatch.setattr("vitedge.verbs.bench.measure_in_turn", keep)
    bench(subjects, BenchOptions(**settings))  # type: ignore[arg-type]
    return found


def test_what_is_measured_follows_from_what_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    onnx = str(write_model(tmp_path / "other.onnx"))
    file, checkpoint = chosen(monkeypatch, onnx, "timm:pit_s_224", threads=2, image_size=(64, 32))
    assert (file.label, file.runtime, file.source, file.threads) == ("other.onnx", "onnxruntime", onnx, 2)
    assert (checkpoint.runtime, checkpoint.source) == ("torch", "timm:pit_s_224")
    assert checkpoint.factory
    assert checkpoint.options == {"image_size": [64, 32]}


def test_two_files_of_one_name_are_told_apart_by_their_folders(
    monkeypatch: pytest.MonkeyPatch, bundle: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(bundle, tmp_path / "second" / "vit"))
    labels = [subject.label for subject in chosen(monkeypatch, str(bundle), str(other), str(VIT))]
    assert labels == [f"{bundle}/model.onnx", f"{other}/model.onnx", VIT.name]
    labels = [subject.label for subject in chosen(monkeypatch, f"{bundle}/model.onnx", f"{other}/model.onnx")]
    assert labels == [f"{bundle}/model.onnx", f"{other}/model.onnx"]


def test_one_subject_twice_is_refused(bundle: Path) -> None:
    with pytest.raises(BadRecipe, match=r"Each subject is named once; got .*vit 2 times"):
        bench([str(bundle), str(bundle)], BenchOptions(rule=SHORT))


def test_a_bundle_that_nothing_here_can_run_says_where_it_runs(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    manifest = read_manifest(bundle)
    only = tuple(artifact for artifact in manifest.artifacts if artifact.format == "coreml")
    write_manifest(bundle, replace(manifest, artifacts=only))
    with pytest.raises(MissingBackend, match="Core ML does not run on Linux"):
        bench([str(bundle)], BenchOptions(rule=SHORT))


def test_what_does_not_run_here_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, bundle: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    onnx, package = str(write_model(tmp_path / "other.onnx")), str(bundle / "model.mlpackage")
    report = bench([package, onnx, str(bundle)], BenchOptions(threads=1, rule=SHORT))
    assert [entry.subject for entry in report.reports] == ["other.onnx", "vit/model.onnx"]
    assert list(report.left_out) == ["model.mlpackage", "vit/model.mlpackage"]
    assert all("runs on a Mac" in reason for reason in report.left_out.values())
    assert f"{package} was left out, so the others are compared with other.onnx" in report.notes
    with pytest.raises(MissingBackend, match=r"^Core ML does not run on Linux: [^.]*\.$"):
        bench([package, str(shutil.copytree(package, tmp_path / "other.mlpackage"))], BenchOptions(rule=SHORT))


def test_an_option_without_effect_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match=r"--image-size is for checkpoints, .* --image-size 48x48"):
        bench([str(bundle)], BenchOptions(image_size=(48, 48), rule=SHORT))
    run = tmp_path / "run.json"
    run.write_text(json.dumps(to_dict(BENCH)), encoding="utf-8")
    assert bench([str(run)]).reports
    for options, name in ((BenchOptions(threads=2), "--threads"), (BenchOptions(("ssh:board",)), "--device")):
        with pytest.raises(BadRecipe, match=f"{name} is for what is measured, and .* was measured before"):
            bench([str(run)], options)
    with pytest.raises(UnreadableArtifact, match="is the manifest of a bundle; pass its folder"):
        bench([str(bundle / "manifest.json")])


def test_a_reason_is_told_once_where_all_devices_fail(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(device: str) -> NoReturn:
        raise DeviceFailed(f"{device} is out of reach.")

    monkeypatch.setattr("vitedge.verbs.bench.connect", unreachable)
    told: list[str] = []
    with pytest.raises(DeviceFailed, match=r"^ssh:a is out of reach\. ssh:b is out of reach\.$"):
        bench([str(bundle)], BenchOptions(("ssh:a", "ssh:b"), rule=SHORT), told.append)
    assert told == ["ssh:a failed", "ssh:b failed"]


def test_a_device_that_is_not_known_is_refused(bundle: Path) -> None:
    del bundle
    for name in ("toaster:4", "ssh", "ssh:", "local:x", ""):
        with pytest.raises(BadRecipe, match=rf"There is no device '{name}'; choose from local, ssh:HOST"):
            BenchOptions((name,))
    with pytest.raises(BadRecipe, match="There is no runtime 'toast'; choose from torch"):
        BenchOptions(runtime="toast")


def test_nothing_of_the_verb_assumes_this_machine() -> None:
    """The device says what it is and what runs there; nothing of this machine is asked in its place."""
    tree = ast.parse(Path(verb.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "vitedge.devices.session" in imported
    assert not imported & {"vitedge.devices", "vitedge.devices.local", "vitedge.devices.machine", "vitedge", "platform"}


def test_what_cannot_end_well_is_refused_before_a_device_is_reached(
    monkeypatch: pytest.MonkeyPatch, bundle: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("vitedge.verbs.bench.connect", lambda _device: pytest.fail("a device was reached"))
    options = BenchOptions(("ssh:board",), rule=SHORT)
    for name in ("none.onnx", "none.pth", "none"):
        with pytest.raises(UnreadableArtifact, match=rf"{name} is not there: give a bundle"):
            bench([str(bundle), str(tmp_path / name)], options)
    with pytest.raises(UnreadableArtifact, match=r"none.json is not there: a saved run is"):
        bench([str(bundle), str(tmp_path / "none.json")], options)
    (tmp_path / "folder.json").mkdir()
    for save, words in (("none/run.json", "There is no folder"), ("folder.json", "is a folder")):
        with pytest.raises(OutputRefused, match=words):
            bench([str(bundle)], replace(options, save=tmp_path / save))


def test_a_damaged_bundle_is_not_measured(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("it ran well")  # which is for validate to tell of
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleDamaged, match=r"model\.onnx is not the file that manifest\.json describes"):
        bench([str(bundle)], BenchOptions(rule=SHORT))
    (bundle / "model.onnx").unlink()
    with pytest.raises(BundleDamaged, match=r"model\.onnx is missing"):
        bench([str(bundle)], BenchOptions(rule=SHORT))
