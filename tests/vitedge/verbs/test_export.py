# SPDX-License-Identifier: Apache-2.0
"""Tests of `export`, of its stages in `lowering` and `checks`, and of `failed`, where what fails is kept."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import numpy as np
import pytest
import torch

from tests.bad_files import VIT, vit_state
from vitedge import registry
from vitedge.errors import (
    BadRecipe,
    CheckFailed,
    DeviceFailed,
    MissingBackend,
    OutputRefused,
    ToleranceExceeded,
    UserError,
)
from vitedge.export.coreml import expected_weights
from vitedge.export.coreml.weights import Weight
from vitedge.export.formats import CHECKERS
from vitedge.files.bundle import MANIFEST, check_files, read_manifest, read_reference
from vitedge.files.digest import hash_file
from vitedge.files.plain import from_dict
from vitedge.recipe import ExportRecipe, QuantizationRecipe, ResolvedRecipe
from vitedge.records import Origin, SpeedComparison, Tolerance
from vitedge.verbs import export as pipeline
from vitedge.verbs import lowering
from vitedge.verbs.export import STAGES, ExportRequest, export, parameters
from vitedge.verbs.lowering import ExportOptions, Quantized
from vitedge.verbs.quantize import quantize
from vitedge.verbs.resolve import resolve
from vitedge.verbs.validate import validate

SMALL = ExportRecipe(image_count=2)
INT8 = ExportRecipe(
    image_count=6,
    precision="int8",
    quantization=QuantizationRecipe(
        "int8", images="synthetic", image_count=8, smoothing=False, equalization=False, ranges="minmax"
    ),
)
FILES = ["README.md", "infer.py", "manifest.json", "model.onnx", "reference.npz"]
"""The files of a bundle with one ONNX file, of a model whose classes have no names."""
TITLES = [title for title, _ in STAGES]
ON_DEVICE = "checking parity on the device"


def stopped_at(title: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets one stage fail after it has done its work."""

    def failing(stage: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(stage)
        def run(**records: Any) -> None:
            stage(**records)
            raise error

        return run

    stages = tuple((name, failing(stage) if name == title else stage) for name, stage in STAGES)
    monkeypatch.setattr(pipeline, "STAGES", stages)


def test_the_stages_can_be_read_as_the_job() -> None:
    assert TITLES == [
        "reading the checkpoint",
        "building the reference",
        "running the reference",
        "quantizing",
        "lowering",
        "building engines",
        "checking parity",
        "checking parity on the device",
        "deciding",
        "timing",
        "sealing the bundle",
    ]
    assert all(stage.__doc__ for _, stage in STAGES)


def test_a_stage_takes_what_earlier_ones_returned() -> None:
    made: set[type] = {ExportRequest}
    for title, stage in STAGES:
        assert set(parameters(stage).values()) <= made, title
        made.add(get_type_hints(stage)["return"])
    assert len(made) == len(STAGES) - 1, "the device's check and the decision return what the check here returned"


def test_an_engine_starts_from_the_onnx_file_of_its_profile(tmp_path: Path) -> None:
    told: list[str] = []
    recipe = replace(SMALL, formats=("tensorrt", "onnx"), profiles=("jetson-orin-nano",))
    result = export(str(VIT), tmp_path / "out", recipe, progress=told.append)
    stages = [line for line in told if not line.startswith("note: ") and " · " not in line]
    silent = ("quantizing", "deciding", "timing", ON_DEVICE)
    assert stages == [f"{title} …" for title in TITLES if title not in silent]
    assert {"lowering · writing model.onnx …", "checking parity · model.onnx in onnxruntime …"} <= set(told)
    assert list(result.seconds) == TITLES
    assert min(result.seconds.values()) > 0
    (pending,) = result.pending
    assert pending.endswith("type: trtexec --onnx=model.onnx --saveEngine=model.engine --fp16")
    assert [artifact.path for artifact in result.manifest.artifacts] == ["model.onnx"]
    assert from_dict(ResolvedRecipe, result.manifest.recipe).formats == ("tensorrt", "onnx")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert result.size == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())


def test_a_quantized_file_is_timed_beside_float_ones(tmp_path: Path) -> None:
    told: list[str] = []
    recipe = replace(SMALL, precision="w8", image_count=6, batch=2)
    result = export(str(VIT), tmp_path / "out", recipe, compare_speed=True, progress=told.append)
    busy = [f"{title} …" for title in TITLES if title not in ("building engines", "deciding", ON_DEVICE)]
    assert [text for text in told if text in busy] == busy
    assert "timing · measuring in turn: w8, fp32, fp16 …" in told
    speed = read_manifest(tmp_path / "out").speed
    assert speed is not None
    assert speed == result.manifest.speed
    assert speed.text.startswith("w8 takes ")
    assert speed.milliseconds.keys() == {"w8", "fp32", "fp16"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


def test_names_from_a_file_go_everywhere(tmp_path: Path) -> None:
    names = tuple(f"digit {number}" for number in range(10))
    file = tmp_path / "names.csv"
    file.write_text("".join(f"{number},{name}\n" for number, name in enumerate(names)), encoding="utf-8")
    result = export(str(VIT), tmp_path / "out", replace(SMALL, labels=str(file), formats=("onnx", "coreml")))
    manifest = read_manifest(tmp_path / "out")
    assert manifest == result.manifest
    assert (manifest.spec.labels, manifest.spec.origins["labels"]) == (names, Origin.GIVEN)
    assert (tmp_path / "out" / "labels.txt").read_text(encoding="utf-8").splitlines() == list(names)
    carried = registry.load(CHECKERS, "onnx").carried_spec(tmp_path / "out" / "model.onnx")
    assert carried.labels == names
    package = manifest.artifacts[1]
    assert "Besides logits the package returns classLabel and classLabel_probs." in package.notes
    file.write_text(file.read_text(encoding="utf-8") + "10,background\n", encoding="utf-8")
    with pytest.raises(BadRecipe, match=r"names\.csv has names of 11 classes"):
        export(str(VIT), tmp_path / "no", replace(SMALL, labels=str(file)))


def test_nothing_is_timed_unless_asked_to(tmp_path: Path) -> None:
    recipe = resolve(replace(SMALL, precision="w8"), str(VIT))
    request = ExportRequest(str(VIT), recipe, tmp_path, ExportOptions())
    unused: Any = object()
    assert pipeline.time_quantized(request, unused, Quantized(unused), unused).speed is None


def test_a_worker_process_that_dies_costs_no_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def dying(_process: object, *_arguments: object, **_named: object) -> NoReturn:
        raise DeviceFailed("w8: its process was killed by SIGKILL.")

    monkeypatch.setattr("vitedge.devices.process.WorkerProcess.__init__", dying)
    recipe = replace(SMALL, precision="w8", image_count=6)
    result = export(str(VIT), tmp_path / "timed", recipe, compare_speed=True)
    assert result.manifest.speed == SpeedComparison(
        "Whether it is faster could not be measured: w8: its process was killed by SIGKILL."
    )
    assert validate(tmp_path / "timed").passed


@pytest.mark.parametrize(
    ("source", "recipe", "sentence"),
    [
        ("vit.pth", SMALL, "beside float ones: add --precision int8 or "),
        ("tests/earlier/int8.pt2", ExportRecipe(), "int8.pt2 has no float program"),
        ("vit.pth", replace(SMALL, precision="w8", formats=("coreml",)), "for Core ML is not made for processors"),
        ("vit.pth", replace(INT8, profiles=("jetson-orin-nano",)), "for TensorRT is not made for processors"),
    ],
)
def test_a_speed_that_there_is_nothing_to_compare_with_is_refused_first(
    source: str, recipe: ExportRecipe, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRecipe) as caught:
        export(source, tmp_path / "out", recipe, compare_speed=True)
    assert sentence in str(caught.value)


def test_a_dynamic_batch_is_fixed_for_core_ml_alone(tmp_path: Path) -> None:
    recipe = replace(SMALL, formats=("onnx", "coreml"), batch="dynamic", image_count=6)
    manifest = export(str(VIT), tmp_path / "out", recipe).manifest
    assert {artifact.format: artifact.inputs[0].shape[0] for artifact in manifest.artifacts} == {
        "onnx": "batch",
        "coreml": 1,
    }
    assert validate(tmp_path / "out").passed


def test_the_manifest_says_what_is_there(demo_bundle: Path) -> None:
    manifest = read_manifest(demo_bundle)
    assert manifest.checkpoint.sha256 == hash_file(VIT)
    assert (manifest.checkpoint.source, manifest.checkpoint.size) == (str(VIT), VIT.stat().st_size)
    assert [artifact.format for artifact in manifest.artifacts] == ["onnx", "coreml"]
    passed = {report.artifact: report.passed for report in (*manifest.structure, *manifest.parity)}
    assert passed == {"model.onnx": True, "model.mlpackage": True}
    assert manifest.parity[0].artifact == "model.onnx"
    assert check_files(demo_bundle, manifest) == 8
    assert {"vitedge", "torch", "timm", "python", "platform"} - {"vitedge"} <= manifest.versions.keys()
    data = read_reference(demo_bundle)
    assert data.images.shape == (6, 3, 32, 32)
    assert data.outputs["logits"].shape == (6, 10)
    assert np.ptp(data.outputs["logits"], axis=0).max() > 0.1


def test_one_program_is_enough_for_formats_of_the_same_batch(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    artifacts = {artifact.format: artifact for artifact in read_manifest(demo_bundle).artifacts}
    captured: list[object] = []
    capture = lowering.capture

    def counting(*arguments: object, **named: object) -> object:
        captured.append(named["batch"])
        return capture(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(lowering, "capture", counting)
    monkeypatch.setattr(lowering, "_lowered", lambda _request, target, *_arguments: artifacts[target.format])
    stopped_at("lowering", KeyError("both are lowered"), monkeypatch)
    with pytest.raises(KeyError, match="both are lowered"):
        export(str(VIT), tmp_path / "out", replace(SMALL, formats=("onnx", "coreml")))
    assert captured == [1]


def test_a_bar_that_is_missed_names_the_block_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed) as caught:
        export(str(VIT), tmp_path / "out", replace(SMALL, tolerance=Tolerance(relative_error=0.0)))
    text = str(caught.value)
    assert text.startswith("model.onnx does not compute what the checkpoint computes: logits is off by")
    assert "the tolerance is 0; the first to depart is " in text
    text, _, remedy = text.partition(". To try: ")
    assert text.rpartition(" is ")[2] in {"patch_embed", *(f"blocks.{index}" for index in range(4))}
    assert remedy.startswith("if the task allows it, --max-error ")
    assert remedy.endswith(". Nothing was written; --keep-failed keeps it for a look.")
    assert list(tmp_path.iterdir()) == []


def test_what_the_simulation_exceeds_by_far_is_refused_before_anything_is_lowered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded = replace(SMALL, precision="int8", quantization=QuantizationRecipe(images="synthetic", image_count=8))
    found = export(str(VIT), tmp_path / "within", rounded).manifest.parity[0].outputs[0].centred_sqnr_db
    near = replace(rounded, tolerance=Tolerance(centred_sqnr_db=found + 0.5))
    with pytest.raises(ToleranceExceeded, match=r"model\.onnx does not compute"):  # too near to be known before
        export(str(VIT), tmp_path / "near", near)
    monkeypatch.setattr(lowering, "_program", None)  # which would be called first
    far = replace(rounded, tolerance=Tolerance(centred_sqnr_db=found + 3.0))
    with pytest.raises(ToleranceExceeded, match=r"in its simulation, and no file was made\. To try, in this order: "):
        export(str(VIT), tmp_path / "far", far)


def test_what_fails_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    for _ in range(2):  # what an earlier command kept is replaced
        with pytest.raises(ToleranceExceeded) as caught:
            export(
                str(VIT), tmp_path / "out", replace(SMALL, tolerance=Tolerance(relative_error=0.0)), keep_failed=True
            )
    kept = tmp_path / "out.failed"
    assert str(caught.value).endswith(f" What failed is kept in {kept}, see FAILED.txt there.")
    assert [path.name for path in tmp_path.iterdir()] == ["out.failed"]
    files = ["FAILED.txt", "README.md", "infer.py", MANIFEST, "model.onnx", "reference.npz"]
    assert sorted(path.name for path in kept.iterdir()) == files
    assert str(caught.value).partition(" What")[0] in (kept / "FAILED.txt").read_text(encoding="utf-8")
    found = validate(kept)
    assert (found.passed, found.files) == (False, 5)
    (kept / "mine.txt").write_text("")
    with pytest.raises(OutputRefused, match=r"out\.failed holds mine\.txt"):
        export("nowhere.pth", tmp_path / "out", SMALL, keep_failed=True)


def test_a_model_that_does_not_look_at_its_image_is_never_passed(tmp_path: Path) -> None:
    state = vit_state()
    state["head.weight"].zero_()
    torch.save({"model": state, "args": {"num_heads": 2}}, tmp_path / "constant.pth")
    with pytest.raises(CheckFailed, match="degenerate"):
        export(
            str(tmp_path / "constant.pth"),
            tmp_path / "out",
            replace(SMALL, tolerance=Tolerance(centred_sqnr_db=-200.0)),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["constant.pth"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"opset": 99}, "choose --opset from 13"),
        ({"formats": ("coreml",), "coreml_target": "iOS99"}, "no --coreml-target iOS99"),
    ],
)
def test_settings_that_do_not_exist_end_before_anything_is_read(
    asked: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRecipe, match=words):
        export("nowhere.pth", tmp_path / "out", replace(SMALL, **asked))


def test_half_precision_that_applies_to_no_weight_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="No weight can be float16"):
        export(str(VIT), tmp_path / "out", replace(SMALL, precision="fp16", tolerance=Tolerance(centred_sqnr_db=200)))


def test_the_advice_for_a_quantized_file_is_not_to_round_less_of_it(tmp_path: Path) -> None:
    quantize(str(VIT), tmp_path / "m.pt2", ExportRecipe(precision="w4"))
    with pytest.raises(CheckFailed, match=r"What m\.pt2 rounds is fixed: quantize the checkpoint again") as caught:
        export(str(tmp_path / "m.pt2"), tmp_path / "out", ExportRecipe(tolerance=Tolerance(centred_sqnr_db=90.0)))
    assert "--precision mixed" not in str(caught.value)


def test_a_structure_that_is_not_sound_fails_the_export(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def other_weights(_program: object) -> dict[str, Weight]:
        return {"blocks.9.weight": Weight(np.arange(64, dtype=np.float32))}

    monkeypatch.setattr(expected_weights, "expected_weights", other_weights)
    with pytest.raises(CheckFailed, match=r"model\.mlpackage .* cls_token .* is no weight of the reference"):
        export(str(VIT), tmp_path / "out", replace(SMALL, formats=("coreml",)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (KeyError("a bug of ours"), KeyError, "a bug of ours"),
        (KeyboardInterrupt("stopped"), KeyboardInterrupt, "stopped"),
        (MemoryError(), UserError, "not enough memory for running the reference"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), UserError, "--image-size"),
        (RuntimeError("shapes cannot be multiplied"), RuntimeError, "shapes"),
    ],
)
def test_a_stage_that_fails_leaves_what_was_there(
    error: BaseException,
    raised: type[BaseException],
    words: str,
    demo_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    bundle = Path(shutil.copytree(demo_bundle, tmp_path / "out"))
    stopped_at("running the reference", error, monkeypatch)
    with pytest.raises(raised, match=words):
        export(str(VIT), bundle, SMALL, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert check_files(bundle, read_manifest(bundle)) == 8


def test_refusals_come_before_any_work(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(OutputRefused, match="--force"):
        export("nowhere.pth", demo_bundle, SMALL, progress=told.append)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingBackend, match="pip install 'coremltools"):
        export("nowhere.pth", tmp_path / "out", replace(SMALL, formats=("coreml",)), progress=told.append)
    assert told == []


@pytest.mark.slow
def test_half_precision_says_what_it_saves_and_what_a_lower_tolerance_gives(tmp_path: Path) -> None:
    asked = replace(SMALL, precision="fp16", tolerance=Tolerance(centred_sqnr_db=66))
    notes = " ".join(export(str(VIT), tmp_path / "tight", asked).manifest.artifacts[0].notes)
    assert re.search(r"[\d.]+% of the weights are float16, which saves \d+% of their bytes in fp32", notes)
    promised = re.search(r"a lower tolerance would make it ([\d.]+)% with --min-sqnr (\d+)", notes)
    assert promised, notes
    looser = replace(asked, tolerance=Tolerance(centred_sqnr_db=float(promised[2])))
    given = " ".join(export(str(VIT), tmp_path / "loose", looser).manifest.artifacts[0].notes)
    found = re.search(r"([\d.]+)% of the weights are float16", given)
    assert (found[1] if found else "100.0") == promised[1]
