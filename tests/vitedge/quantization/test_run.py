# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.export import tiny
from tests.vitedge.quantization import small_models as small
from tests.vitedge.quantization.captures import captured_once
from vitedge.export.formats import PROCESSOR, TENSORRT, QuantizedForm
from vitedge.files.plain import from_dict, to_dict
from vitedge.images.preprocess import normalize
from vitedge.images.stream import open_images
from vitedge.models.reference import Reference
from vitedge.parity.metrics import compare
from vitedge.program.qdq import CHOOSE, QUANTIZE
from vitedge.program.structure import find_structure
from vitedge.progress import reporting
from vitedge.quantization import run
from vitedge.quantization.effort import EXTENTS
from vitedge.quantization.observing import PART
from vitedge.quantization.recording import record
from vitedge.quantization.records import QuantizationRecord
from vitedge.quantization.run import STAGES, Quantization, quantize
from vitedge.recipe import Effort, QuantizationRecipe

IMAGES = 12
LAYERS = {"blocks.1.mlp.fc1": "float", "blocks.1.mlp.fc2": "w4", "head": "w8a16", "blocks.0.mlp.fc1": "int8-dynamic"}


def job(scheme: str = "int8", form: QuantizedForm = PROCESSOR, *, images: bool = True, **settings: Any) -> Quantization:
    reference = Reference(tiny.model("vit"), tiny.spec("vit"))
    stream = open_images("synthetic", reference.spec, IMAGES) if images else None
    recipe = QuantizationRecipe(scheme, images="synthetic" if images else None, **settings)
    return Quantization(reference, recipe, form, form.activations, stream)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with captured_once():
        yield


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> Iterator[Quantization]:
    """A run with something of everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITEDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        begun = job(layers=LAYERS, equalization=False, attention="all")
        with reporting(told.append):
            finished = quantize(begun)
        yield finished


def pixels() -> np.ndarray:
    (images,) = open_images("synthetic", tiny.spec("vit"), IMAGES).batches(IMAGES)
    return images


def test_every_stage_is_told_and_timed(done: Quantization, told: list[str]) -> None:
    titles = [title for title, _ in STAGES]
    assert [text for text in told if text.endswith(" …") and " · " not in text] == [f"{title} …" for title in titles]
    assert "preparing activations · smoothing …" in told
    assert list(done.seconds) == titles
    assert all(stage.__doc__ for _, stage in STAGES)


def test_every_layer_has_a_choice_and_is_computed_accordingly(done: Quantization) -> None:
    layers = {layer.layer: layer for layer in record(done).layers}
    assert list(layers) == [layer.name for layer in done.structure.layers]
    assert {name: layers[name].scheme for name in LAYERS} == LAYERS
    assert all(layer.scheme == "int8" for name, layer in layers.items() if name not in LAYERS)
    assert layers["head"].activation == "uint16"
    assert (layers["blocks.1.mlp.fc1"].activation, layers["blocks.1.mlp.fc1"].weight_dtype) == (None, None)
    assert (layers["blocks.1.mlp.fc2"].weight_dtype, layers["blocks.1.mlp.fc2"].granularity) == ("int4", "block of 32")
    assert layers["blocks.0.mlp.fc1"].activation == "dynamic"
    for name, layer in layers.items():
        assert (layer.range_method is not None) is (layer.activation in ("uint8", "uint16")), name
        assert (layer.rounding is not None) is (layer.scheme != "float"), name
    stored = done.program("dynamic").exported.state_dict
    assert stored["blocks.0.attn.qkv.weight"].dtype is torch.int8
    assert stored["blocks.1.mlp.fc1.weight"].dtype is torch.float32
    targets = [node.target for node in done.program("dynamic").exported.graph.nodes]
    assert targets.count(CHOOSE) == 1
    assert targets.count(QUANTIZE) == 7 + 4 * len(done.plan.attention)


def test_a_record_is_plain_data_and_can_be_read_back(done: Quantization) -> None:
    written = record(done)
    text = json.dumps(to_dict(written), allow_nan=False)
    assert from_dict(QuantizationRecord, json.loads(text)) == written
    assert (written.scheme, written.images, written.image_source) == ("int8", IMAGES, "synthetic, seed 0")
    assert len(written.image_sha256) == 64
    assert set(written.attention_choices) == {"blocks.0.attn", "blocks.1.attn"}
    assert all(choice.split(":")[0] in ("int8", "float") for choice in written.attention_choices.values())
    assert {step.step for step in written.steps} >= {"smoothing"}
    assert all(step.after_db >= step.before_db for step in written.steps if step.choice != "off")


def test_the_program_is_near_the_float_one_and_the_record_says_how_near(done: Quantization) -> None:
    images = torch.from_numpy(normalize(pixels(), tiny.spec("vit").preprocessing))
    with torch.no_grad():
        expected = tiny.model("vit")(images)
    program = done.program("dynamic")
    found = torch.cat([small.run(program, part) for part in images.split(PART)])  # a range at run time is a batch's
    (measured,) = compare({"logits": expected.numpy()}, {"logits": found.numpy()})
    assert record(done).sqnr_db == pytest.approx(measured.centred_sqnr_db, abs=0.05)
    assert record(done).agreement == measured.agreement
    assert measured.centred_sqnr_db > 20


def test_every_capture_gets_the_same_plan(done: Quantization) -> None:
    images = torch.from_numpy(normalize(pixels(), tiny.spec("vit").preprocessing))
    plan, done.plan.dynamic = done.plan.dynamic, set()
    try:
        dynamic = small.run(done.program("dynamic"), images)
        by_four = torch.cat([small.run(done.program(4), part) for part in images.split(4)])
        from_pixels = small.run(done.program("dynamic", "uint8"), torch.from_numpy(pixels()))
    finally:
        done.plan.dynamic = plan
    assert torch.allclose(by_four, dynamic, atol=1e-5)
    assert torch.allclose(from_pixels, dynamic, atol=1e-5)


def test_the_reference_is_captured_once_and_every_caller_gets_a_program_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    captures = []
    original = run.capture
    monkeypatch.setattr(run, "capture", lambda *given, **named: captures.append(named) or original(*given, **named))
    begun = job()
    first, second, single = begun.captured("dynamic"), begun.captured("dynamic"), begun.captured(1)
    assert [named["batch"] for named in captures] == ["dynamic", 1]
    assert single.inputs[0].shape[0] == 1
    name = find_structure(first).layers[0].weight
    before = second.exported.state_dict[name].clone()
    find_structure(first).editor.set(name, torch.zeros_like(before))
    for other in (second, begun.captured("dynamic")):
        assert torch.equal(other.exported.state_dict[name], before)


@pytest.mark.parametrize("scheme", ["w8", "w4", "int8-dynamic"])
def test_schemes_without_ranges_need_no_images(scheme: str) -> None:
    written = record(quantize(job(scheme, images=False)))
    assert (written.images, written.image_source, written.sqnr_db) == (0, "", None)
    assert all(layer.weight_dtype in ("int8", "int4") for layer in written.layers if layer.scheme != "float")
    assert all(layer.range_method is None for layer in written.layers)


def test_tensorrt_gets_symmetric_activations_and_float_biases_and_what_is_switched_off_is_not_done() -> None:
    off = {"smoothing": False, "equalization": False, "shift": False, "bias_correction": False, "attention": "none"}
    finished = quantize(job(form=TENSORRT, ranges="mse", **off))
    assert finished.steps == ()
    assert finished.plan.tensors == {}
    assert finished.plan.attention == {}
    assert {layer.range_method for layer in record(finished).layers if layer.scheme == "int8"} == {"mse"}
    assert all(int(qparams.zero_point) == 0 and qparams.dtype == "int8" for qparams in finished.plan.inputs.values())
    assert len(finished.plan.inputs) == 8  # the first and the last layer stay in float
    stored = finished.program(1).exported.state_dict
    assert not [name for name, tensor in stored.items() if tensor.dtype is torch.int32 and tensor.any()]


def test_an_effort_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path))
    found = {effort: record(quantize(job(effort=effort))) for effort in Effort}
    assert [one.effort for one in found.values()] == list(Effort)
    assert found[Effort.QUICK].left_out == (
        f"ranges of activations: {EXTENTS[Effort.QUICK].images(128)} of 128 images",
        "the comparison of layers and attentions one by one",
    )
    assert found[Effort.DEFAULT].left_out == found[Effort.BEST].left_out == ()
    assert [bool(one.diagnoses) for one in found.values()] == [False, True, True]
    assert {layer.rounding for layer in found[Effort.BEST].layers if layer.weight_dtype} == {"gptq"}
    assert (found[Effort.BEST].sqnr_db or 0) > (found[Effort.DEFAULT].sqnr_db or 0) + 0.5
