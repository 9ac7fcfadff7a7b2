# SPDX-License-Identifier: Apache-2.0
"""Tests of `vitedge.verbs.prune`: every family through the verb, and what goes wrong on the way."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.family_matrix import CASES
from tests.vitedge.pruning import models
from vitedge.calibration.cache import find_folder
from vitedge.checkpoints import saved
from vitedge.checkpoints.read import read
from vitedge.errors import BadRecipe, OutputRefused, UserError
from vitedge.models.merging import MERGING
from vitedge.models.reference import load_reference
from vitedge.pruning.recipe import PruningRecipe
from vitedge.recipe import ExportRecipe
from vitedge.render.prune import step_lines
from vitedge.verbs.export import export
from vitedge.verbs.prune import prune

GRAPHS = ("beit", "pit", "swin", "mobilevit", "dinov2 facebook registers", "mobilevitv2 timm")
"""One model of each kind of graph: of `models`, or of the matrix of families."""
NAMED = ("deit-iii facebook", "vit hugging face in memory", "pit naver distilled", "mobilevit cvnets")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, where unfinished prunings lie."""
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path / "cache"))
    return find_folder().parent / "pruning"


def recipe(**asked: Any) -> PruningRecipe:
    return PruningRecipe(**{"images": "synthetic", "image_count": 8, **asked})


def made(kind: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Returns the path of a checkpoint, and the facts that it does not tell."""
    if kind in models.FAMILIES:
        return str(models.written(kind, folder)), models.facts(kind)
    case = CASES[kind]
    return case.write(case.source(), folder / "made"), dict(case.given)


@pytest.mark.parametrize("kind", GRAPHS)
def test_every_family_is_pruned_and_exported_with_a_dynamic_batch(kind: str, tmp_path: Path) -> None:
    source, given = made(kind, tmp_path)
    spec = read(source, overrides=given).spec
    asked = {"merge": 1} if spec.family in MERGING else {}
    asked |= {"heads": 0.7} if spec.family != "mobilevitv2" else {}
    path = tmp_path / "small.safetensors"
    done = prune(source, path, recipe(mlp=0.6, sparsity=0.5, overrides=given, accept_assumptions=True, **asked))
    assert done.record.gmacs[1] < done.record.gmacs[0]
    assert {"fewer heads and units", "sparse weights"} < {point.name for point in done.record.frontier}
    manifest = export(str(path), tmp_path / "out", ExportRecipe(("onnx",), batch="dynamic", image_count=2)).manifest
    assert [report.passed for report in manifest.parity] == [True]


def test_a_sparse_and_narrow_model_becomes_a_package_and_an_engine(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'vitedge[tensorrt-rtx]'")
    source, given = made("vit", tmp_path)
    path = tmp_path / "small.safetensors"
    prune(source, path, recipe(heads=0.7, mlp=0.6, sparsity="2:4", overrides=given))
    manifest = export(str(path), tmp_path / "out", ExportRecipe(("coreml", "tensorrt"), image_count=2)).manifest
    assert {"coreml", "tensorrt"} <= {artifact.format for artifact in manifest.artifacts}
    assert all(report.passed for report in manifest.parity)


@pytest.mark.parametrize("name", NAMED)
def test_the_same_weights_under_other_names_are_pruned_to_the_same_bits(name: str, tmp_path: Path) -> None:
    source, given = made(name, tmp_path)
    found = read(source, overrides=given)
    spec = found.spec
    save_file({key: tensor.clone().contiguous() for key, tensor in found.state.items()}, tmp_path / "timm.safetensors")
    facts = {key: getattr(spec, key) for key in ("image_size", "norm_eps", "activation", "heads")}
    facts |= {key: getattr(spec.preprocessing, key) for key in ("mean", "std", "channel_order")}
    states: list[dict[str, Tensor]] = []
    for path, known in ((source, given), (str(tmp_path / "timm.safetensors"), facts)):
        out = tmp_path / "small.safetensors"
        asked = recipe(heads=0.7, mlp=0.6, criterion="taylor", repair=False, overrides=known, accept_assumptions=True)
        prune(path, out, asked, force=True)
        states.append(load_file(out))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


def test_keeping_all_changes_no_bit_and_every_verb_reads_that_there_is_no_distance(tmp_path: Path) -> None:
    source, given = made("vit", tmp_path)
    done = prune(source, tmp_path / "p.safetensors", recipe(heads=1, mlp=1, sparsity=0, merge=0, overrides=given))
    found = read(done.path)
    assert all(torch.equal(tensor, found.state[name]) for name, tensor in load_file(source).items())
    (line,) = step_lines(found.steps)
    assert line.startswith("step: prune --heads 1 --mlp 1 --sparsity 0 --merge 0 of vit.safetensors (")
    assert line.endswith("): inf dB centred SQNR against it")


def test_guesses_that_were_accepted_are_not_asked_for_again(tmp_path: Path) -> None:
    source, _ = made("vit", tmp_path)
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    with pytest.raises(BadRecipe, match="--set heads="):
        prune(source, first, recipe(sparsity=0.5))
    prune(source, first, recipe(sparsity=0.5, accept_assumptions=True))
    prune(str(first), second, recipe(sparsity=0.6))
    assert [step.verb for step in read(str(second)).steps] == ["prune", "prune"]


def test_what_a_later_stage_refuses_is_refused_first_and_nothing_is_left(tmp_path: Path, cache: Path) -> None:
    source, given = made("vit", tmp_path)
    told: list[str] = []
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"merge": 9}, "it can merge 8, half of them"),
        ({"recover": str(tmp_path / "no"), "epochs": 1}, r"There is no .*; --recover takes a folder"),
    )
    for asked, sentence in refused:
        with pytest.raises(UserError, match=sentence):
            prune(source, tmp_path / "p.safetensors", recipe(mlp=0.5, **asked, overrides=given), progress=told.append)
    assert set(told) <= {"reading the checkpoint …"}
    with pytest.raises(BadRecipe, match=r"--heads 0.1 cannot be met: with one head in every block, 0.334 is left"):
        prune(source, tmp_path / "p.safetensors", recipe(heads=0.1, overrides=given))
    assert not cache.exists() or not list(cache.iterdir())
    with pytest.raises(UserError, match=r"There is no .*; --eval takes a folder"):
        prune(source, tmp_path / "p.safetensors", recipe(mlp=0.5, eval_images=str(tmp_path / "no"), overrides=given))
    assert not (tmp_path / "p.safetensors").exists()


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_rest: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    source, given = made("vit", tmp_path)
    (tmp_path / "p.safetensors").write_bytes(b"old")
    monkeypatch.setattr(saved, "save", full)
    with pytest.raises(OutputRefused, match=r"disk of .*p\.safetensors is full"):
        prune(source, tmp_path / "p.safetensors", recipe(sparsity=0.5, overrides=given), force=True)
    assert (tmp_path / "p.safetensors").read_bytes() == b"old"
    assert not list(tmp_path.glob(".*"))


def test_without_a_cache_it_prunes_and_says_that_it_cannot_go_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, given = made("vit", tmp_path)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path / "file"))
    done = prune(source, tmp_path / "p.safetensors", recipe(mlp=0.5, overrides=given))
    assert [note for note in done.record.notes if note.startswith("Nothing was kept for the case")]


def test_the_file_is_read_without_the_original_and_the_cache(tmp_path: Path, cache: Path) -> None:
    source, given = made("vit", tmp_path)
    dense = read(source, overrides=given)
    done = prune(source, tmp_path / "p.safetensors", recipe(mlp=0.5, overrides=given))
    Path(source).unlink()
    shutil.rmtree(cache, ignore_errors=True)
    found = read(done.path)
    module = load_reference(found).module.requires_grad_()
    module(torch.rand(1, 3, *found.spec.image_size)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    again = load_reference(found).module
    again.load_state_dict(module.state_dict())
    assert set(again.state_dict()) == set(found.state)
    assert found.size == done.size
    assert found.steps[0].recipe["mlp"] == 0.5
    assert dataclasses.replace(found.spec, blocks=()) == dense.spec
