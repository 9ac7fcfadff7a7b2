# SPDX-License-Identifier: Apache-2.0
"""Verbs on a stand-in for a device: `vitedge.devices.checking`, `vitedge.devices.runtime`, `measured`, `saved_runs`."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.bad_files import VIT
from tests.vitedge.devices.shell_transport import Transport
from tests.vitedge.devices.trtexec.boards import WRAPPER, posix
from tests.vitedge.onnx_models import write_model
from vitedge.devices.profiles import named
from vitedge.devices.remote import RemoteSession
from vitedge.errors import BadRecipe, DeviceFailed, MissingBackend, OutputRefused, UnreadableArtifact
from vitedge.files.bundle import REFERENCE, read_manifest, read_reference, write_manifest, write_reference
from vitedge.files.digest import hash_file
from vitedge.latency.sampling import Rule
from vitedge.recipe import ExportRecipe
from vitedge.verbs import bench as bench_verb
from vitedge.verbs import candidates, checks, engines, evaluate, impossible, resolve, validate
from vitedge.verbs import compare as compare_verb
from vitedge.verbs.bench import BenchOptions, bench
from vitedge.verbs.candidates import CompareOptions
from vitedge.verbs.evaluate import EvaluationRequest
from vitedge.verbs.export import export
from vitedge.verbs.saved_runs import read_run

pytestmark = posix
SHORT = Rule(warmup_s=0.02, warmup_limit_s=0.1, samples=10, seconds=0.2, rounds=5)
DEVICE = "ssh:board"
USERS = (bench_verb, candidates, checks, compare_verb, engines, evaluate, impossible, resolve, validate)
"""Modules that connect to devices."""


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Transport:
    """A stand-in for a board, with a Python that has ONNX Runtime."""
    transport = Transport(tmp_path / "far")
    transport.name = DEVICE
    transport.python(".venv/bin/python", ["numpy", "onnxruntime"])

    @contextmanager
    def connect(device: str) -> Iterator[RemoteSession]:
        if device != DEVICE:
            raise DeviceFailed(f"{device} is out of reach.")
        session = RemoteSession(transport)
        try:
            yield session
        finally:
            session.close()

    for module in USERS:
        monkeypatch.setattr(module, "connect", connect)
    return transport


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(demo_bundle, tmp_path / "vit"))


def spoil(bundle: Path) -> None:
    """Writes other reference outputs, as if the device computed something else."""
    data = read_reference(bundle)
    other = {name: np.roll(values, 1, axis=0) for name, values in data.outputs.items()}
    write_reference(bundle, replace(data, outputs=other))
    manifest = read_manifest(bundle)
    write_manifest(bundle, replace(manifest, files={**manifest.files, REFERENCE: hash_file(bundle / REFERENCE)}))


def test_a_bundle_is_checked_and_measured_there(far: Transport, bundle: Path) -> None:
    sealed = (bundle / "manifest.json").read_bytes()
    report = bench([str(bundle)], BenchOptions((DEVICE,), rule=SHORT))
    assert report.passed
    assert [(one.artifact, one.machine["device"]) for one in report.parity] == [("vit/model.onnx", DEVICE)]
    (found,) = report.reports
    assert (found.where, found.device["device"]) == (DEVICE, DEVICE)
    assert found.device["library"] == "onnxruntime"
    assert set(report.left_out) == {"vit/model.mlpackage"}
    assert (bundle / "manifest.json").read_bytes() == sealed, "the latency of a bundle is that of this machine"
    assert far.runs() == []


def test_outputs_that_are_wrong_there_are_told_beside_the_times(far: Transport, bundle: Path) -> None:
    del far
    spoil(bundle)
    report = bench([str(bundle)], BenchOptions((DEVICE,), rule=SHORT))
    assert not report.passed
    assert (
        "vit/model.onnx does not compute what its reference computes, so its time says nothing: on ssh:board"
        in (report.notes[0])
    )


def test_validate_and_evaluate_run_artifacts_there(far: Transport, bundle: Path, tmp_path: Path) -> None:
    options = validate.ValidationOptions(device=DEVICE)
    found = validate.validate(bundle, options=options)
    assert found.passed
    assert [one.machine.get("device") for one in found.parity if one.runtime == "onnxruntime"] == [None, DEVICE]
    images = tmp_path / "images.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    np.savez(images, images=pixels, labels=np.arange(6) % 10)
    artifact = str(bundle / "model.onnx")
    here, there = (
        evaluate.evaluate([artifact], EvaluationRequest(str(images), against=str(VIT), device=device))
        for device in ("local", DEVICE)
    )
    assert there.subjects[-1].runtime == "onnxruntime on ssh:board"
    assert [one.top1 for one in there.subjects] == [one.top1 for one in here.subjects]
    assert far.runs() == []
    spoil(bundle)
    assert not validate.validate(bundle, options=options).passed


def test_an_engine_is_built_on_the_board_that_runs_it(
    far: Transport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for trtexec, which fuses no attention: so nothing of them is asked for."""
    root = Path(__file__).parents[3]
    wrapper = WRAPPER.format(
        log=tmp_path / "typed", version="10.3", root=root, python=sys.executable,
        module="tests.vitedge.devices.trtexec.stand_in",
    )  # fmt: skip
    trtexec = tmp_path / "far" / "bin" / "trtexec"
    trtexec.write_text(wrapper)
    trtexec.chmod(0o755)
    monkeypatch.setattr(engines, "named", lambda name: replace(named(name), minimum_share=0.0))
    recipe = ExportRecipe(formats=("tensorrt",), profiles=("jetson-orin",), device=DEVICE)
    result = export(str(VIT), tmp_path / "made", recipe)
    assert result.pending == ()
    engine = next(one for one in result.manifest.artifacts if one.format == "tensorrt")
    assert engine.engine is not None
    assert engine.engine["version"].startswith("10.3")
    assert {(one.artifact, one.runtime) for one in result.manifest.parity if one.machine} == {
        ("model.onnx", "onnxruntime"),
        ("model.engine", "tensorrt"),
    }
    report = bench([str(tmp_path / "made")], BenchOptions((DEVICE,), rule=SHORT))
    assert [one.device["library"] for one in report.reports] == ["onnxruntime", "trtexec"]
    assert report.ratios[0].verdict == "no conclusion"
    assert "measured by" in report.inconclusive
    assert far.runs() == []


def test_one_device_that_fails_does_not_lose_the_others_and_is_tried_again(
    far: Transport, bundle: Path, tmp_path: Path
) -> None:
    del far
    told: list[str] = []
    save = tmp_path / "run.json"
    artifact = str(bundle / "model.onnx")
    first = bench([artifact], BenchOptions((DEVICE, "ssh:away"), rule=SHORT, save=save))
    assert [one.where for one in first.reports] == [DEVICE]
    assert first.failed == {"ssh:away": "ssh:away is out of reach."}
    assert read_run(save) == first
    again = bench([artifact], BenchOptions((DEVICE, "ssh:away"), rule=SHORT, save=save), told.append)
    assert again.reports == first.reports, "nothing is measured twice"
    assert f"{DEVICE}: taken from {save}" in told
    with pytest.raises(OutputRefused, match="holds a run of other subjects or settings"):
        bench([artifact], BenchOptions((DEVICE,), threads=1, rule=SHORT, save=save))
    with pytest.raises(OutputRefused, match="holds a run of other subjects or settings"):
        bench([artifact], BenchOptions((DEVICE,), runtime="onnxruntime", rule=SHORT, save=save))
    with pytest.raises(DeviceFailed, match="ssh:away is out of reach"):
        bench([artifact], BenchOptions(("ssh:away",), rule=SHORT))


def test_a_file_that_cannot_be_read_there_goes_by_its_name_here(far: Transport, tmp_path: Path) -> None:
    del far
    (tmp_path / "cut.onnx").write_bytes(b"cut")
    options = BenchOptions((DEVICE,), rule=SHORT)
    with pytest.raises(UnreadableArtifact, match=r"^cut\.onnx cannot be opened by ONNX Runtime: (?!.*/runs/)"):
        bench([str(tmp_path / "cut.onnx")], options)
    with pytest.raises(DeviceFailed, match=r"^cut\.onnx cannot be opened .* ssh:away is out of reach"):
        bench([str(tmp_path / "cut.onnx")], replace(options, devices=(DEVICE, "ssh:away")))


def test_what_is_measured_is_what_is_compared(far: Transport, bundle: Path) -> None:
    far.python(".vitedge/bin/python", ["numpy", "onnxruntime", "openvino"])
    report = bench([str(bundle)], BenchOptions((DEVICE,), runtime="openvino", rule=SHORT))
    assert [(one.runtime, one.passed) for one in report.parity] == [("openvino", True)]
    assert [one.runtime for one in report.reports] == ["openvino"]


def test_an_export_that_a_device_cannot_run_does_no_work(far: Transport, tmp_path: Path) -> None:
    del far
    told: list[str] = []
    recipe = ExportRecipe(formats=("coreml",), device=DEVICE)
    with pytest.raises(MissingBackend, match="Core ML does not run on Linux"):
        export(str(VIT), tmp_path / "out", recipe, progress=told.append)
    assert told == [f"asking {DEVICE} what it runs …"]


def test_a_saved_run_is_a_subject_and_is_compared_with_nothing(far: Transport, bundle: Path, tmp_path: Path) -> None:
    del far
    options = BenchOptions((DEVICE,), rule=SHORT)
    bench([str(bundle / "model.onnx")], replace(options, save=tmp_path / "run.json"))
    report = bench([str(bundle / "model.onnx"), str(tmp_path / "run.json")], options)
    assert [one.subject for one in report.reports] == ["model.onnx", "run: model.onnx"]
    assert report.ratios == ()
    assert "was measured at another time" in report.notes[-1]
    bench([str(bundle / "model.onnx")], replace(options, save=tmp_path / "run.csv"))
    (row,) = csv.DictReader((tmp_path / "run.csv").read_text().splitlines())
    assert (row["device"], row["subject"], row["samples"]) == (DEVICE, "model.onnx", "10")
    assert float(row["median_ms"]) > 0
    with pytest.raises(OutputRefused, match="is there already"):
        bench([str(bundle / "model.onnx")], replace(options, save=tmp_path / "run.csv"))
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(UnreadableArtifact, match="is no run that vitedge bench --save wrote"):
        bench([str(tmp_path / "other.json")], options)


def test_a_file_that_is_too_new_for_the_runtime_there_is_refused_with_both_releases(
    far: Transport, bundle: Path
) -> None:
    del far
    manifest = read_manifest(bundle)
    newer = tuple(replace(one, oldest_runtimes={"onnxruntime": "99.1"}) for one in manifest.artifacts)
    write_manifest(bundle, replace(manifest, artifacts=newer))
    for verb in (
        lambda: bench([str(bundle)], BenchOptions((DEVICE,), rule=SHORT)),
        lambda: validate.validate(bundle, options=validate.ValidationOptions(device=DEVICE)),
    ):
        with pytest.raises(MissingBackend, match=r"model\.onnx needs ONNX Runtime 99\.1 or newer, and ssh:board has "):
            verb()


def test_what_does_not_run_there_is_refused_with_the_reason(far: Transport, bundle: Path, tmp_path: Path) -> None:
    del far
    onnx = str(write_model(tmp_path / "other.onnx"))
    with pytest.raises(MissingBackend, match=r"OpenVINO is not installed on ssh:board; there type: .*pip install"):
        bench([onnx], BenchOptions((DEVICE,), runtime="openvino", rule=SHORT))
    with pytest.raises(MissingBackend, match=r"does not run in coreml: its format has onnxruntime, openvino"):
        bench([onnx], BenchOptions((DEVICE,), runtime="coreml", rule=SHORT))
    manifest = read_manifest(bundle)
    only = tuple(artifact for artifact in manifest.artifacts if artifact.format == "coreml")
    write_manifest(bundle, replace(manifest, artifacts=only))
    (bundle / "model.onnx").unlink()
    with pytest.raises(MissingBackend, match=r"Nothing of .* runs on ssh:board: Core ML does not run on Linux"):
        validate.validate(bundle, options=validate.ValidationOptions(device=DEVICE))
    with pytest.raises(BadRecipe, match="Each device is named once"):
        BenchOptions((DEVICE, DEVICE))


MAC = """#!/bin/sh
PYTHONPATH={library} exec {python} -B -S -c '
import platform, runpy, sys
platform.system = lambda: "Darwin"
sys.argv = [word for word in sys.argv[1:] if word != "-u"]
runpy.run_path(sys.argv[0], run_name="__main__")' "$@"
"""
CORE_ML = """
import types
import numpy
class Feature:
    def __init__(self, name, shape):
        self.name = name
        array = types.SimpleNamespace(shape=shape, dataType=65568)
        self.type = types.SimpleNamespace(multiArrayType=array, WhichOneof=lambda _name: "multiArrayType")
class MLModel:
    def __init__(self, path, compute_units):
        self.compute_unit = compute_units
    def get_spec(self):
        described = types.SimpleNamespace(
            input=[Feature("image", [1, 3, 2, 4])], output=[Feature("doubled", [1, 3, 2, 4])],
            predictedFeatureName="", predictedProbabilitiesName="", metadata=types.SimpleNamespace(userDefined={}),
        )
        return types.SimpleNamespace(description=described)
    def predict(self, feeds):
        return {"doubled": 2 * feeds["image"]}
__version__ = "9.0"
ComputeUnit = types.SimpleNamespace(ALL=types.SimpleNamespace(name="ALL"))
models = types.SimpleNamespace(MLModel=MLModel)
"""


def test_a_core_ml_package_is_measured_on_a_mac(far: Transport, tmp_path: Path) -> None:
    """With a stand-in for coremltools, whose ``predict`` needs macOS, on a Python that takes itself for a Mac's."""
    python = far.home / ".venv" / "bin" / "python"
    library = python.with_name("python.packages")
    (library / "coremltools.py").write_text(CORE_ML)
    (library / "PIL").mkdir()
    (library / "PIL" / "__init__.py").write_text("")
    (library / "PIL" / "Image.py").write_text("class Image: pass\n")
    python.write_text(MAC.format(library=library, python=sys.executable))
    package = tmp_path / "model.mlpackage"
    package.mkdir()
    (package / "Manifest.json").write_text("{}")
    report = bench([str(package)], BenchOptions((DEVICE,), rule=SHORT))
    (found,) = report.reports
    assert (found.runtime, found.device["library"], found.device["provider"]) == ("coreml", "coremltools", "ALL")
    assert found.samples == 10


def test_candidates_are_checked_and_timed_there(far: Transport) -> None:
    recipe = ExportRecipe(device=DEVICE, image_count=2)
    (one,) = compare_verb.compare(str(VIT), CompareOptions(recipe, ("fp32",), threads=1, rule=SHORT)).candidates
    assert [report.machine.get("device") for report in one.parity] == [None, DEVICE]
    assert one.latency is not None
    assert one.latency.where == DEVICE
    assert one.command.endswith(f"--device {DEVICE}")


def test_a_comparison_of_what_does_not_run_there_is_refused_before_the_work(far: Transport) -> None:
    recipe = ExportRecipe(device=DEVICE, formats=("coreml",))
    with pytest.raises(MissingBackend, match="Core ML"):
        compare_verb.compare("nowhere.pth", CompareOptions(recipe, ("fp32", "fp16"), rule=SHORT))
