# SPDX-License-Identifier: Apache-2.0
"""Tests of `check`, `configuration`, `facts`, `meaning`, `timm` and `huggingface`: each key in turn, by its library.

The keys come from the libraries' own classes, so a new one fails here at once.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from timm import create_model
from timm.models._pretrained import PretrainedCfg
from torch import Tensor

import vitedge
from tests.family_files import copied
from tests.seeding import seeded
from tests.vitedge.checkpoints.keys import models
from vitedge.checkpoints.families.configuration import ACTIVATIONS
from vitedge.checkpoints.keys import huggingface, timm
from vitedge.errors import UserError
from vitedge.models import activations

SAME = 2e-5
HUGGING_FACE = [(kind, key) for kind in models.CLASSES for key in models.fields_of(kind)]
TIMM = [(kind, name) for kind in models.ARCHITECTURES for name in models.arguments_of(kind)]


pytestmark = pytest.mark.usefixtures("one_thread")


def written(folder: Path, state: dict[str, Tensor], config: dict[str, Any]) -> str:
    folder.mkdir(exist_ok=True)
    save_file(copied(state), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, default=str))
    return str(folder)


def outputs(path: str, images: Tensor) -> Tensor:
    """What the loaded module computes: logits, or the tokens of an encoder."""
    reference = vitedge.load(path)
    result: Tensor | tuple[Tensor, ...] = reference.deployed(uint8=False, features=reference.spec.classes == 0)(images)
    return result[0] if isinstance(result, tuple) else result


def same(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= SAME * expected.abs().max())


Shapes = dict[str, tuple[int, ...]]


def shapes_of(model: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def refused_by_name(error: UserError, name: str, shapes: Shapes, usual: Shapes) -> bool:
    """Whether a refusal names the key; one that alters the weights themselves may be refused by what they lack."""
    return name.lstrip("_") in str(error) or shapes != usual


@functools.cache
def usual_of_transformers(model_type: str) -> Shapes:
    return shapes_of(library(model_type, models.CLASSES[model_type][2]))


@functools.cache
def usual_of_timm(kind: str) -> Shapes:
    architecture, _, tiny = models.ARCHITECTURES[kind]
    return shapes_of(create_model(architecture, **tiny))


def library(model_type: str, settings: dict[str, Any]) -> Any:
    config, model, _ = models.CLASSES[model_type]
    return seeded(getattr(transformers, model)(getattr(transformers, config)(**settings)))


@torch.no_grad()
def hugging_face_outputs(model: Any, images: Tensor) -> Tensor:
    if model.config.model_type == "vit_mae":  # it would shuffle the patches; in order they are an encoder's
        cells = model.embeddings.patch_embeddings.num_patches
        model.config.mask_ratio = 0.0
        noise = torch.arange(float(cells)).expand(len(images), -1)
        return model(images, noise=noise, return_dict=True).last_hidden_state  # type: ignore[no-any-return]
    found = model(pixel_values=images, return_dict=True)
    result: Tensor = next(found[key] for key in ("logits", "image_embeds", "last_hidden_state") if key in found)
    return result


@pytest.mark.parametrize(("model_type", "key"), HUGGING_FACE)
@torch.no_grad()
def test_each_key_of_transformers_in_turn(model_type: str, key: str, tmp_path: Path) -> None:
    value = models.other(model_type, key, models.fields_of(model_type)[key])
    if key == "return_dict":
        pytest.skip("the models of transformers cannot do without")
    try:
        model = library(model_type, models.settings_with(model_type, key, value))
    except Exception as error:
        pytest.skip(f"transformers itself refuses {key} = {value}: {error}")
    edge = getattr(model.config, "image_size", 32)
    images = torch.randn(3, model.config.num_channels, edge, edge, generator=torch.Generator().manual_seed(1))
    expected = hugging_face_outputs(model, images)
    path = written(tmp_path / "model", model.state_dict(), {**model.config.to_dict(), "model_type": model_type})
    try:
        found = outputs(path, images)
    except UserError as error:
        if refused_by_name(error, key, shapes_of(model), usual_of_transformers(model_type)):
            return
        raise
    assert same(found, expected), f"{key} = {value} changes the logits of transformers and not ours"


@pytest.mark.parametrize(("kind", "name"), TIMM)
@torch.no_grad()
def test_each_argument_of_timm_in_turn(kind: str, name: str, tmp_path: Path) -> None:
    architecture, _, tiny = models.ARCHITECTURES[kind]
    tried = 0
    for index, value in enumerate(models.values_of(name, models.arguments_of(kind)[name])):
        edges = {**tiny, name: value}.get("img_size", 64)
        height, width = edges if isinstance(edges, list) else (edges, edges)
        images = torch.randn(3, {**tiny, name: value}.get("in_chans", 3), height, width)
        made = models.made_by_timm(kind, {name: value}, images)
        if made is None or name in models.CALLABLES:
            continue
        module, expected = made
        tried += 1
        config = {
            "architecture": architecture,
            "model_args": {**tiny, name: value},
            "pretrained_cfg": {"input_size": [images.shape[1], height, width]},
        }
        path = written(tmp_path / str(index), module.state_dict(), config)
        try:
            found = outputs(path, images)
        except UserError as error:
            if refused_by_name(error, name, shapes_of(module), usual_of_timm(kind)):
                continue
            raise
        assert same(found, expected), f"{name} = {value} changes the logits of timm and not ours"
    if not tried:
        pytest.skip(f"timm builds {architecture} with none of the values of {name}, or no file can hold them")


@pytest.mark.parametrize("model_type", models.CLASSES)
def test_the_tables_hold_every_key_and_default_of_transformers(model_type: str) -> None:
    entry = huggingface.CLASSES[model_type]
    known = {*entry.table, *huggingface.GENERIC}
    made = getattr(transformers, models.CLASSES[model_type][0])()
    keys = {*models.fields_of(model_type), *made.to_dict()}
    assert not {key for key in keys if key not in known and not key.startswith("_")}
    assert {key: getattr(made, key) for key in entry.defaults} == entry.defaults


def test_every_configuration_that_is_read_is_tried() -> None:
    assert set(models.CLASSES) == set(huggingface.CLASSES)


@pytest.mark.parametrize("kind", models.ARCHITECTURES)
def test_the_tables_hold_every_argument_of_timm(kind: str) -> None:
    family = timm.family_of(models.ARCHITECTURES[kind][0])
    assert not set(models.arguments_of(kind)) - set(timm.MODEL_ARGS[family])


def test_the_table_holds_every_key_of_a_pretrained_cfg() -> None:
    assert not {entry.name for entry in dataclasses.fields(PretrainedCfg)} - set(timm.CONFIG)


def test_every_activation_that_a_configuration_can_name_can_be_built() -> None:
    assert set(ACTIVATIONS.values()) == set(activations.ACTIVATIONS)
    assert {name for name in transformers.activations.ACT2CLS if name not in ACTIVATIONS} == {
        *("gelu_10", "laplace", "prelu", "relu2", "sqrtsoftplus", "xielu"),
    }
