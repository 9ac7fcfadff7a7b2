# SPDX-License-Identifier: Apache-2.0
"""Wrappers, several sets of weights, and prefixes of the names."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vitedge.checkpoints.families.family import State
from vitedge.checkpoints.files.unwrap import BARE, choose, spellings, weight_sets
from vitedge.errors import BadRecipe, UnreadableCheckpoint


def state(*names: str, value: float = 1.0) -> State:
    return {name: torch.full((2, 2), value) for name in names}


PLAIN = state("blocks.0.weight", "norm.bias")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (PLAIN, [BARE]),
        ({"model": PLAIN, "optimizer": {"state": {0: state("exp_avg")}}, "epoch": 3}, ["model"]),
        ({"state_dict": PLAIN, "state_dict_ema": state("a.b")}, ["state_dict_ema", "state_dict"]),
        ({"state_dict": PLAIN, "ema_state_dict": state("a.b")}, ["ema_state_dict", "state_dict"]),
        ({"model": PLAIN, "model_ema": state("a.b")}, ["model_ema", "model"]),
        ({"student": PLAIN, "teacher": state("a.b"), "dino_loss": state("center")}, ["teacher", "student"]),
        ({"encoder": PLAIN, "predictor": state("a.b"), "target_encoder": state("a.b")}, ["target_encoder", "encoder"]),
        ({"net": PLAIN}, ["net"]),
        ({"module": PLAIN}, ["module"]),
        ({"model": {"state_dict": PLAIN}}, ["model.state_dict"]),
        ({"model": PLAIN, "rng": torch.zeros(9, dtype=torch.uint8), "loss": torch.tensor(0.5)}, ["model"]),
        ({"online_network": PLAIN, "optimizer": {"state": {0: state("exp_avg")}}}, ["online_network"]),
        ({"teacher": {"module": PLAIN}, "iteration": 7}, ["teacher.module"]),
    ],
)
def test_sets_are_found_with_the_averaged_one_first(content: Any, names: list[str]) -> None:
    assert list(weight_sets(content, "file")) == names


def test_flat_sets_side_by_side_are_taken_apart() -> None:
    flat = state("student.backbone.a.weight", "student.head.b", value=1.0)
    flat |= state("module.teacher.backbone.a.weight", "module.teacher.head.b", value=2.0)
    sets = weight_sets({"state_dict": flat}, "file")
    assert list(sets) == ["teacher", "student"]
    assert set(sets["teacher"].state) == {"backbone.a.weight", "head.b"}
    assert choose(sets, None, "file").state["head.b"][0, 0] == 2.0
    assert choose(sets, "student", "file").state["head.b"][0, 0] == 1.0


def test_unknown_set_lists_the_names() -> None:
    sets = weight_sets({"model": PLAIN, "model_ema": state("a.b")}, "file.pth")
    with pytest.raises(BadRecipe, match=r"file\.pth has no weights 'best'; --weights can be model_ema, model"):
        choose(sets, "best", "file.pth")


def test_averaging_counter_is_dropped_with_its_reason() -> None:
    found = weight_sets({"module.a.weight": torch.ones(2), "n_averaged": torch.tensor(9)}, "file")[BARE]
    assert list(found.state) == ["module.a.weight"]
    assert found.dropped == {"n_averaged": "counts the averaging steps"}


def test_parameters_come_without_gradients() -> None:
    found = weight_sets({"a.weight": torch.nn.Parameter(torch.ones(2))}, "file")[BARE]
    assert not found.state["a.weight"].requires_grad


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [PLAIN], None, 7, {"model": {}}, {"optimizer": {"state": {}}}])
def test_no_weights(content: Any) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"file\.pth holds no weights"):
        weight_sets(content, "file.pth")


def test_content_that_holds_itself_ends() -> None:
    circle: dict[str, Any] = {}
    circle.update({f"key{index}": circle for index in range(100)}, model=circle)
    with pytest.raises(UnreadableCheckpoint, match="holds no weights"):
        weight_sets(circle, "file")


def test_tensors_that_repeat_a_few_bytes_are_refused() -> None:
    with pytest.raises(UnreadableCheckpoint, match="claim"):
        weight_sets({"a.weight": torch.ones(1).expand(2**40)}, "file")
    tied = torch.ones(2**20)
    assert weight_sets({"a.weight": tied, "b.weight": tied}, "file")


@pytest.mark.parametrize(
    "prefix", ["module.", "backbone.", "encoder.", "_orig_mod.", "model.", "_orig_mod.module.model."]
)
def test_prefixes_are_taken_off_one_after_the_other(prefix: str) -> None:
    wrapped = {prefix + name: tensor for name, tensor in PLAIN.items()}
    found = list(spellings(wrapped))
    assert found[0] is wrapped
    assert set(found[-1]) == set(PLAIN)
    assert len(found) == prefix.count(".") + 1


def test_names_without_the_prefix_keep_their_own() -> None:
    found = list(spellings(state("module.backbone.a.weight", "module.head.mlp.0.weight")))
    assert set(found[1]) == {"backbone.a.weight", "head.mlp.0.weight"}
    assert set(found[2]) == {"a.weight", "head.mlp.0.weight"}


def test_prefix_that_would_make_two_weights_one_stays() -> None:
    assert len(list(spellings(state("backbone.norm.weight", "norm.weight")))) == 1


def test_names_without_a_wrapper_have_one_spelling() -> None:
    assert list(spellings(PLAIN)) == [PLAIN]
