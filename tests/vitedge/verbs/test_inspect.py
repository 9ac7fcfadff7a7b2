# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.bad_files import VIT, vit_state
from vitedge.errors import UserError
from vitedge.records import Origin
from vitedge.verbs.inspect import inspect


def test_a_checkpoint_is_described() -> None:
    found = inspect(str(VIT))
    assert (found.source, found.container, found.size) == (str(VIT), "pytorch zip", VIT.stat().st_size)
    assert (found.spec.family, found.spec.naming, found.spec.classes) == ("vit", "timm", 10)
    assert (found.spec.widths, found.spec.depths, found.spec.heads) == ((64,), (4,), (2,))
    state = vit_state()
    assert found.cost.parameters == sum(tensor.numel() for tensor in state.values())
    assert found.dropped == {}


def test_the_cost_is_that_of_the_facts_that_were_given(tmp_path: Path) -> None:
    path = tmp_path / "backbone.pth"
    state = {name: tensor for name, tensor in vit_state().items() if not name.startswith("head.")}
    torch.save(state, path)
    whole, headless = inspect(str(VIT)), inspect(str(path), overrides={"heads": 4})
    assert headless.spec.heads == (4,)
    assert headless.spec.origins["heads"] is Origin.GIVEN
    assert headless.spec.classes == 0
    assert headless.cost.parameters == whole.cost.parameters - 65 * 10
    assert headless.cost.gmacs == pytest.approx(whole.cost.gmacs - 640e-9, rel=1e-9)


def test_the_set_of_weights_is_said_and_can_be_chosen(tmp_path: Path) -> None:
    state = vit_state()
    average = {name: tensor / 2 for name, tensor in state.items()}
    torch.save({"model": state, "model_ema": average}, tmp_path / "both.pth")
    assert inspect(str(tmp_path / "both.pth")).weight_set == "model_ema"
    chosen = inspect(str(tmp_path / "both.pth"), weights="model")
    assert (chosen.weight_set, chosen.weight_sets) == ("model", ("model_ema", "model"))


def test_weights_that_do_not_fit_are_refused_with_the_name_of_the_file(tmp_path: Path) -> None:
    state = vit_state()
    state["blocks.1.adapter.weight"] = torch.ones(3)
    torch.save(state, tmp_path / "adapted.pth")
    with pytest.raises(UserError, match=r"adapted\.pth.*blocks\.1\.adapter\.weight"):
        inspect(str(tmp_path / "adapted.pth"))
