# SPDX-License-Identifier: Apache-2.0
"""Tests of `check`, `configuration`, `facts`, `meaning`, `timm` and `huggingface`: each key, by its library.

The keys come from the libraries' own classes, so a new one fails here at once. Those that the tables call irrelevant
are changed together, and each in turn only where together they are not.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
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
from vitedge.checkpoints.keys.meaning import Irrelevant
from vitedge.errors import UserError
from vitedge.models import activations

SAME = 2e-5
NEEDED = "return_dict"
"""A key that the models of transformers cannot do without."""


def irrelevant_to_transformers(model_type: str) -> tuple[str, ...]:
    table = {**huggingface.GENERIC, **huggingface.CLASSES[model_type].table}
    keys = [key for key in models.fields_of(model_type) if key != NEEDED]
    return tuple(key for key in keys if isinstance(table.get(key), Irrelevant))


def irrelevant_to_timm(kind: str) -> tuple[str, ...]:
    table = timm.MODEL_ARGS[timm.family_of(models.ARCHITECTURES[kind][0])]
    names = [name for name in models.arguments_of(kind) if name not in models.CALLABLES]
    return tuple(name for name in names if isinstance(table.get(name), Irrelevant))


HUGGING_FACE = [
    (kind, key)
    for kind in models.CLASSES
    for key in models.fields_of(kind)
    if key != NEEDED and key not in irrelevant_to_transformers(kind)
]
TIMM = [
    (kind, name)
    for kind in models.ARCHITECTURES
    for name in models.arguments_of(kind)
    if name not in models.CALLABLES and name not in irrelevant_to_timm(kind)
]


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


class RefusedError(Exception):
    """The library itself cannot build this model, so there is nothing to compare."""


Check = Callable[[Mapping[str, Any]], None]
"""Takes values of keys. Raises AssertionError where they change the library's logits alone, or `RefusedError`."""


def refused_by_name(error: UserError, values: Mapping[str, Any], shapes: Shapes, usual: Shapes) -> bool:
    """Whether a refusal names the one key; if that alters the weights, it may be refused by what they lack."""
    return len(values) == 1 and (next(iter(values)).lstrip("_") in str(error) or shapes != usual)


def tried(check: Check, values: Mapping[str, Any]) -> int:
    """Checks keys all at once, and halves of them where that fails; returns how many the library took.

    Raises:
        AssertionError: names the key that is at fault, or the keys that are so only together.
    """
    try:
        check(values)
    except (AssertionError, RefusedError, UserError) as fault:
        if len(values) == 1:
            if isinstance(fault, RefusedError):
                return 0
            raise
        names = list(values)
        middle = len(names) // 2
        taken = sum(tried(check, {name: values[name] for name in half}) for half in (names[:middle], names[middle:]))
        if isinstance(fault, AssertionError):
            raise
        return taken
    return len(values)


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


@torch.no_grad()
def check_transformers(model_type: str, folder: Path, values: Mapping[str, Any]) -> None:
    try:
        model = library(model_type, models.settings_with(model_type, values))
    except Exception as error:
        raise RefusedError(f"transformers itself refuses {values}: {error}") from error
    edge = getattr(model.config, "image_size", 32)
    images = torch.randn(3, model.config.num_channels, edge, edge, generator=torch.Generator().manual_seed(1))
    expected = hugging_face_outputs(model, images)
    path = written(folder, model.state_dict(), {**model.config.to_dict(), "model_type": model_type})
    try:
        found = outputs(path, images)
    except UserError as error:
        if refused_by_name(error, values, shapes_of(model), usual_of_transformers(model_type)):
            return
        raise
    assert same(found, expected), f"{values} changes the logits of transformers and not ours"


@pytest.mark.parametrize(("model_type", "key"), HUGGING_FACE)
def test_each_key_of_transformers_in_turn(model_type: str, key: str, tmp_path: Path) -> None:
    value = models.other(model_type, key, models.fields_of(model_type)[key])
    try:
        check_transformers(model_type, tmp_path / "model", {key: value})
    except RefusedError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("model_type", models.CLASSES)
def test_the_keys_of_transformers_that_change_nothing(model_type: str, tmp_path: Path) -> None:
    fields = models.fields_of(model_type)
    values = {key: models.other(model_type, key, fields[key]) for key in irrelevant_to_transformers(model_type)}
    assert tried(functools.partial(check_transformers, model_type, tmp_path / "model"), values)


@torch.no_grad()
def check_timm(kind: str, folder: Path, values: Mapping[str, Any]) -> None:
    architecture, _, tiny = models.ARCHITECTURES[kind]
    arguments = {**tiny, **values}
    edges = arguments.get("img_size", 64)
    height, width = edges if isinstance(edges, list) else (edges, edges)
    images = torch.randn(3, arguments.get("in_chans", 3), height, width)
    made = models.made_by_timm(kind, values, images)
    if made is None:
        raise RefusedError(f"timm builds no {architecture} with {values}")
    module, expected = made
    cfg = {"input_size": [images.shape[1], height, width]}
    config = {"architecture": architecture, "model_args": arguments, "pretrained_cfg": cfg}
    path = written(folder, module.state_dict(), config)
    try:
        found = outputs(path, images)
    except UserError as error:
        if refused_by_name(error, values, shapes_of(module), usual_of_timm(kind)):
            return
        raise
    assert same(found, expected), f"{values} changes the logits of timm and not ours"


@pytest.mark.parametrize(("kind", "name"), TIMM)
def test_each_argument_of_timm_in_turn(kind: str, name: str, tmp_path: Path) -> None:
    check = functools.partial(check_timm, kind, tmp_path / "model")
    if not sum(tried(check, {name: value}) for value in models.values_of(name, models.arguments_of(kind)[name])):
        pytest.skip(f"timm builds {models.ARCHITECTURES[kind][0]} with none of the values of {name}")


@pytest.mark.parametrize("kind", models.ARCHITECTURES)
def test_the_arguments_of_timm_that_change_nothing(kind: str, tmp_path: Path) -> None:
    defaults = models.arguments_of(kind)
    choices = {name: models.values_of(name, defaults[name]) for name in irrelevant_to_timm(kind)}
    check = functools.partial(check_timm, kind, tmp_path / "model")
    for turn in range(max(map(len, choices.values()))):
        assert tried(check, {name: values[turn] for name, values in choices.items() if turn < len(values)})


def test_a_key_at_fault_is_found_among_many() -> None:
    def check(values: Mapping[str, Any]) -> None:
        if "refused" in values:
            raise RefusedError
        assert "fault" not in values, f"{values} changes the logits"
        assert not {"a", "e"} <= set(values), f"{values} changes the logits"

    names = ("a", "b", "refused", "d", "e")
    assert tried(check, dict.fromkeys("abcd")) == 4
    assert tried(check, dict.fromkeys(names)) == 4
    with pytest.raises(AssertionError, match=r"\{'fault': None\} changes"):
        tried(check, dict.fromkeys(("a", "b", "fault", "refused", "d")))
    with pytest.raises(AssertionError, match="'a': None, 'e': None"):
        tried(check, dict.fromkeys(("a", "e")))


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
    assert {name for name in transformers.activations.ACT2CLS if name not in ACTIVATIONS} <= {
        *("gelu_10", "laplace", "prelu", "relu2", "sqrtsoftplus", "xielu"),
    }
