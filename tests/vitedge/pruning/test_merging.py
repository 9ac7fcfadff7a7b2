# SPDX-License-Identifier: Apache-2.0
"""Merged models as files, through every lowering with its real library."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.seeding import seeded
from tests.vitedge.models.test_merging import PIT, SPEC, images
from vitedge.checkpoints import saved
from vitedge.checkpoints.read import read
from vitedge.errors import BadRecipe
from vitedge.models.reference import Reference, load_reference, skeleton
from vitedge.program.canonical import canonicalize
from vitedge.program.capture import capture
from vitedge.program.structure import find_structure
from vitedge.program.tracing import Tracer
from vitedge.pruning.draft import Batches, Draft
from vitedge.pruning.merging import merge_tokens
from vitedge.pruning.recipe import PruningRecipe
from vitedge.quantization.steps.operands import has_free_scores
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.records import ModelSpec
from vitedge.verbs.export import export
from vitedge.verbs.validate import ReferenceOptions, validate

VIT = dataclasses.replace(SPEC, widths=(64,), depths=(2,))
SMALL_PIT = dataclasses.replace(PIT, depths=(1, 1))


def draft(spec: ModelSpec) -> Draft:
    module = skeleton(spec).to_empty(device="cpu")
    pixels = np.zeros((1, 3, *spec.image_size), dtype=np.uint8)
    return Draft.of(
        Reference(seeded(module).requires_grad_(requires_grad=False), spec), Batches(pixels, spec.preprocessing)
    )


def merged(spec: ModelSpec, merge: int | tuple[int, ...], path: Path) -> Draft:
    """Writes a merged model."""
    made = draft(spec)
    merge_tokens(made, PruningRecipe(merge=merge))
    saved.save(path, made.module.state_dict(), made.spec, ())
    return made


@torch.inference_mode()
def test_a_schedule_or_one_number_is_written_into_the_spec_and_can_be_changed() -> None:
    one = draft(SPEC)
    record = merge_tokens(one, PruningRecipe(merge=10))
    assert (record.schedule, record.tokens) == ((10, 10, 10), (54, 44, 34))
    assert [block.merge for block in one.spec.blocks] == [10, 10, 10]
    assert [block.mlp for block in one.spec.blocks] == [64, 64, 64]
    batch = images(SPEC).float()
    first = one.module(batch)
    assert merge_tokens(one, PruningRecipe(merge=(0, 0, 0))).tokens == (64, 64, 64)
    assert torch.equal(one.module(batch), one.dense.module(batch))
    merge_tokens(one, PruningRecipe(merge=10))
    assert torch.equal(one.module(batch), first)
    assert merge_tokens(draft(PIT), PruningRecipe(merge=(5, 5, 0, 2))).tokens == (45, 40, 14, 12)


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        (22, r"blocks\.1 is to merge 22 tokens, and of the 41 that are left there it can merge 20, half of them"),
        ((3, 4), r"--merge has 2 numbers, and custom has 3 blocks"),
    ],
)
def test_what_cannot_be_merged_leaves_the_draft_as_it_was(merge: int | tuple[int, ...], message: str) -> None:
    one = draft(SPEC)
    before = repr(one.module)
    with pytest.raises(BadRecipe, match=message):
        merge_tokens(one, PruningRecipe(merge=merge))
    assert repr(one.module) == before
    assert {block.merge for block in one.spec.blocks} == {0}


@torch.inference_mode()
def test_every_format_computes_the_merged_model(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'vitedge[tensorrt-rtx]'")
    path = tmp_path / "merged.safetensors"
    made = merged(SMALL_PIT, (15, 5), path)
    found = load_reference(read(str(path)))
    assert torch.equal(found.module(images(PIT).float()), made.module(images(PIT).float()))
    recipe = ExportRecipe(formats=("onnx", "coreml", "tensorrt"), image_count=3)
    manifest = export(str(path), tmp_path / "out", recipe).manifest
    assert {artifact.format for artifact in manifest.artifacts} == {"onnx", "coreml", "tensorrt"}
    assert [report.runtime for report in manifest.parity][:2] == ["onnxruntime", "mlprogram"]
    report = validate(tmp_path / "out" / "model.onnx", ReferenceOptions(str(path), image_count=3, layers=True))
    assert [layer.output for layer in report.parity[0].layers] == list(found.blocks)
    assert not report.parity[0].first_departure


def test_a_quantized_model_merges_in_float(tmp_path: Path) -> None:
    path = tmp_path / "merged.safetensors"
    merged(VIT, (10, 6), path)
    quantization = QuantizationRecipe("int8", images="synthetic", image_count=16, attention="all")
    recipe = ExportRecipe(precision="int8", image_count=4, quantization=quantization)
    assert all(report.passed for report in export(str(path), tmp_path / "out", recipe).manifest.parity)
    nodes = onnx.load(tmp_path / "out" / "model.onnx").graph.node
    merging = [node.op_type for node in nodes if ".merging/" in node.name]
    assert merging.count("ArgMax") == 2
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(merging)
    assert not any(kind.startswith(("Scatter", "Gather", "OneHot")) for kind in merging)


def test_keys_that_decide_what_merges_are_not_rescaled() -> None:
    one = draft(VIT)
    merge_tokens(one, PruningRecipe(merge=(10, 0)))
    structure = find_structure(canonicalize(capture(one.module, one.spec, ("blocks.0", "blocks.1"))))
    tracer = Tracer(structure.editor)
    assert {found.name: has_free_scores(tracer, found) for found in structure.attentions} == {
        "blocks.0.attn": False,
        "blocks.1.attn": True,
    }
