# SPDX-License-Identifier: Apache-2.0
"""From names to a network: `encoders`, `files.stored`, `identify`; timm's own logits say what is right."""

from __future__ import annotations

import argparse
import functools
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import vitedge
from tests.seeding import seeded
from vitedge.checkpoints.families.family import State
from vitedge.checkpoints.files.stored import WRAPPERS
from vitedge.checkpoints.identify import LOOKALIKES, RELATIVES, relative_of
from vitedge.checkpoints.read import read
from vitedge.errors import BadRecipe, UnknownArchitecture, UnreadableCheckpoint, UserError, WeightsMismatch

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))


@functools.cache
def model(classes: int = 4, depth: int = 2) -> nn.Module:
    return seeded(timm.create_model("vit_tiny_patch16_224", depth=depth, img_size=32, num_classes=classes))


def named(prefix: str, state: State | None = None) -> State:
    return {prefix + name: weight for name, weight in (state or model().state_dict()).items()}


def body(prefix: str = "") -> State:
    return {prefix + name: weight for name, weight in model().state_dict().items() if not name.startswith("head.")}


def head(name: str, width: int = 192) -> State:
    own = model().state_dict()
    weight = own["head.weight"] if width == 192 else torch.randn(4, width)
    return {f"{name}.weight": weight, f"{name}.bias": own["head.bias"]}


def within(part: str) -> State:
    return {name.replace("blocks.0.", f"blocks.0.{part}."): weight for name, weight in model().state_dict().items()}


def written(tmp_path: Path, state: Any) -> str:
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    return str(tmp_path / "a.pth")


PREFIXES = (
    "timm_model.", "_forward_module.", "_fsdp_wrapped_module.", "vit.", "visual.trunk.", "base_model.model.",
    "image_encoder.", "base_encoder.", "target_encoder.", "module.a.b_c.net2.",
)  # fmt: skip
MASK = torch.zeros(768, 192)
CASES: dict[str, State] = {
    **{prefix: named(prefix) for prefix in PREFIXES},
    **{part: within(part) for part in WRAPPERS},
    "loss": named("model.") | {"criterion.weight": torch.ones(4)},
    "loss at the root": named("") | {"arc_loss.weight": torch.ones(4, 192)},
    "metric": named("model.") | {"acc.tp": torch.zeros(4).long()},
    "counter of no known name": named("model.") | {"seen.total": torch.tensor(3)},
    "projector": named("encoder.") | {"projector.0.weight": torch.ones(8, 192)},
    "text": named("visual.trunk.") | {"text.ln.weight": torch.ones(8), "logit_scale": torch.tensor(1.0)},
    **{name: body("backbone.") | head(name) for name in ("fc", "classifier", "linear", "head.1", "head.0")},
    "head inside": body() | head("classification_head"),
    "head at the root": body() | head("head.1"),
    "deeper wrapper": body("model.backbone.") | head("model.fc"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_source(case: str, tmp_path: Path) -> None:
    loaded = vitedge.load(written(tmp_path, CASES[case])).module
    with torch.no_grad():
        assert torch.allclose(loaded(IMAGES), model()(IMAGES), atol=1e-5)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"criterion.weight": torch.ones(4)}, "loss"),
        ({"acc.tp": torch.zeros(4).long()}, "metric"),
        ({"projector.0.weight": torch.ones(8, 192)}, "projector"),
        ({"predictor.0.weight": torch.ones(8, 192)}, "predictor"),
        ({"text.ln.weight": torch.ones(8)}, "text"),
    ],
)
def test_what_is_left_out_has_its_reason(extra: State, reason: str, tmp_path: Path) -> None:
    found = read(written(tmp_path, named("model.") | extra))
    assert reason in found.dropped[next(iter(extra))]
    assert any("left out" in note for note in found.spec.notes)


def test_weight_within_the_encoder_is_never_dropped(tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatch, match=r"blocks\.0\.adapter\.weight is left over"):
        vitedge.load(written(tmp_path, named("model.") | {"model.blocks.0.adapter.weight": torch.ones(4, 4)}))


def test_weight_between_encoder_and_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatch, match=r"neck\.weight is left over"):
        vitedge.load(written(tmp_path, body("backbone.") | head("fc") | {"neck.weight": torch.ones(192, 192)}))


def test_two_heads_are_refused_and_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, body("backbone.") | head("fc") | {"classifier.weight": torch.ones(9, 192)})
    with pytest.raises(BadRecipe, match="fc and classifier"):
        read(path)
    assert read(path, weights="fc").spec.classes == 4
    assert read(path, weights="backbone").spec.classes == 0


def test_head_of_double_width_is_read_only_where_the_naming_says_so(tmp_path: Path) -> None:
    found = read(written(tmp_path, body("backbone.") | head("linear_head", 384)))
    assert found.spec.options["pool"] == "class+mean"
    with pytest.raises(WeightsMismatch, match="fc takes 384 numbers"):
        read(written(tmp_path, body("backbone.") | head("fc", 384)))
    with pytest.raises(WeightsMismatch, match=r"last four blocks .* --weights backbone"):
        read(written(tmp_path, body("backbone.") | head("linear_head", 960)))


def test_two_encoders_are_refused_and_chosen(tmp_path: Path) -> None:
    second = {name: 2 * weight for name, weight in model().state_dict().items()}
    path = written(tmp_path, named("module.base_enc.") | named("module.momentum_enc.", second))
    with pytest.raises(BadRecipe, match=r"under base_enc, momentum_enc; choose one with --weights"):
        read(path)
    found = read(path, weights="momentum_enc")
    assert torch.equal(found.state["norm.weight"], second["norm.weight"])
    assert "other encoder base_enc" in found.dropped["module.base_enc.norm.weight"]


def test_teacher_that_is_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"student": model().state_dict(), "teacher": model(4, 3).state_dict()}, tmp_path / "a.pth")
    with pytest.raises(BadRecipe, match=r"depth 3\).* depth 2\).*two networks"):
        read(str(tmp_path / "a.pth"))
    assert read(str(tmp_path / "a.pth"), weights="student").spec.depths == (2,)


def test_masks_are_multiplied_and_said(tmp_path: Path) -> None:
    state = dict(model().state_dict())
    weight = state.pop("blocks.0.mlp.fc1.weight")
    mask = (weight > 0).float()
    state |= {"blocks.0.mlp.fc1.weight_orig": weight, "blocks.0.mlp.fc1.weight_mask": mask}
    found = read(written(tmp_path, state))
    assert torch.equal(found.state["blocks.0.mlp.fc1.weight"], weight * mask)
    assert any("pruned" in note for note in found.spec.notes)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (named("") | {"blocks.0.mlp.fc1.weight_orig": MASK}, "prune.remove"),
        (named("") | {"blocks.0.attn.qkv.lora_A.default.weight": MASK}, "merge_and_unload"),
        (named("") | {"blocks.0.mlp.fc1.weight.absmax": MASK}, "bitsandbytes"),
        (named("") | {"blocks.0.mlp.fc1.SCB": MASK}, "bitsandbytes"),
        ({"_fsdp_wrapped_module.flat_param": torch.ones(99)}, "FULL_STATE_DICT"),
    ],
)
def test_other_forms_name_the_way_out(state: State, words: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatch, match=words):
        read(written(tmp_path, state))


def test_whole_module_and_quantized_file_name_the_way_out(tmp_path: Path) -> None:
    torch.save(model(), tmp_path / "whole.pth")
    with pytest.raises(UserError, match=r"weights_only=False\)\.state_dict"):
        read(str(tmp_path / "whole.pth"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer releases of PyTorch call these tensors deprecated
        torch.save({"a.weight": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)}, tmp_path / "q.pth")
    with pytest.raises(UserError, match="quantized"):
        read(str(tmp_path / "q.pth"))


@pytest.mark.parametrize(
    ("name", "words"),
    [(".metadata", "dcp_to_torch"), ("__0_0.distcp", "dcp_to_torch"), ("adapter_config.json", "merge_and_unload")],
)
def test_folders_name_the_way_out(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(UnreadableCheckpoint, match=words):
        read(str(tmp_path))


@pytest.mark.parametrize(
    ("architecture", "words"), [("convit_tiny", "ConViT"), ("resnet18", "ResNet"), ("convnext_atto", "ConvNeXt")]
)
def test_relatives_are_named_for_what_they_are(architecture: str, words: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        names = timm.create_model(architecture).state_dict()
    state = {name: torch.ones(1) for name in names}
    assert words in str(relative_of(state, (*LOOKALIKES, *RELATIVES)))
    with pytest.raises(UnknownArchitecture, match=words):
        read(written(tmp_path, state))


SMALL = {"depth": 12, "img_size": 32, "num_classes": 0}


def moco(**told: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Returns MoCo v3's encoder and its file: projector, predictor and momentum encoder as its builder names them."""
    encoder = seeded(timm.create_model("vit_small_patch16_224", num_heads=12, **SMALL))
    ones = torch.ones
    projector = {"head.0.weight": ones(8, 384), "head.1.running_mean": ones(8), "head.3.weight": ones(8, 8)}
    state = named("module.base_encoder.", {**encoder.state_dict(), **projector})
    state |= named("module.momentum_encoder.", {**encoder.state_dict(), **projector})
    return encoder, {"epoch": 9, "state_dict": state | {"module.predictor.0.weight": ones(8, 8)}, **told}


@pytest.mark.parametrize(
    ("told", "origin"),
    [({"arch": "vit_small"}, "config"), ({"args": {"arch": "vit_small"}}, "config"), ({}, "assumed")],
)
def test_moco_v3_has_12_heads(told: dict[str, Any], origin: str, tmp_path: Path) -> None:
    encoder, content = moco(**told)
    torch.save(content, tmp_path / "moco.pth.tar")
    loaded = vitedge.load(str(tmp_path / "moco.pth.tar"))
    assert (loaded.spec.heads, loaded.spec.origins["heads"].value) == ((12,), origin)
    assert any("--weights momentum_encoder" in note for note in loaded.spec.notes)
    with torch.no_grad():
        assert torch.allclose(loaded.module(IMAGES), encoder(IMAGES), atol=1e-5)
    found = read(str(tmp_path / "moco.pth.tar"), weights="momentum_encoder")
    assert found.spec.heads == (12,)
    assert "projector" in found.dropped["module.momentum_encoder.head.0.weight"]


def test_dino_file_tells_its_heads(tmp_path: Path) -> None:
    encoder = seeded(timm.create_model("vit_small_patch16_224", **SMALL)).state_dict()
    head = {"head.mlp.0.weight": torch.ones(8, 384), "head.last_layer.weight_v": torch.ones(8, 8)}
    state = named("backbone.", encoder) | head
    content = {"student": named("module.", state), "teacher": state, "args": argparse.Namespace(arch="vit_small")}
    torch.save(content, tmp_path / "dino.pth")
    spec = read(str(tmp_path / "dino.pth")).spec
    assert (spec.heads, spec.origins["heads"].value) == ((6,), "config")
    assert not any("MoCo" in note for note in spec.notes)


def families() -> dict[str, nn.Module]:
    """Returns a tiny model of each family, in timm's or transformers' names."""
    import transformers  # noqa: PLC0415

    hugging = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    return {
        "swin": timm.create_model("swin_tiny_patch4_window7_224", embed_dim=24, depths=(1, 1, 1, 1), num_classes=3),
        "pit": timm.create_model("pit_ti_224", depth=(1, 1, 1), num_classes=3),
        "mobilevit": timm.create_model("mobilevit_xxs", num_classes=3),
        "mobilevitv2": timm.create_model("mobilevitv2_050", num_classes=3),
        "beit": timm.create_model("beit_base_patch16_224", embed_dim=64, depth=1, num_heads=2, num_classes=3),
        "vit": transformers.ViTForImageClassification(hugging),
    }


@pytest.mark.parametrize("family", ["swin", "pit", "mobilevit", "mobilevitv2", "beit", "vit"])
def test_every_family_is_found_under_a_foreign_prefix(family: str, tmp_path: Path) -> None:
    state = families()[family].state_dict()
    plain = read(written(tmp_path, state))
    found = read(written(tmp_path, named("lit.net2.", state) | {"lit.criterion.weight": torch.ones(3)}))
    assert (found.spec.family, found.spec.widths, found.spec.classes) == (family, plain.spec.widths, plain.spec.classes)
    assert found.state.keys() == plain.state.keys()


def test_encoder_at_the_root_is_chosen_by_a_point(tmp_path: Path) -> None:
    second = {name: 2 * weight for name, weight in model().state_dict().items()}
    path = written(tmp_path, named("") | named("copy.", second))
    with pytest.raises(BadRecipe, match=r"under \., copy; choose one"):
        read(path)
    assert torch.equal(read(path, weights=".").state["norm.weight"], model().state_dict()["norm.weight"])
    assert torch.equal(read(path, weights="copy").state["norm.weight"], second["norm.weight"])


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
def test_dynamic_quantization_names_the_way_out(dtype: torch.dtype, tmp_path: Path) -> None:
    with pytest.warns(Warning, match="deprecated"):
        quantized = torch.ao.quantization.quantize_dynamic(model(), {nn.Linear}, dtype=dtype)
    torch.save(quantized.state_dict(), tmp_path / "q.pth")
    with pytest.raises(UserError, match=r"quantized.*in float") as caught:
        read(str(tmp_path / "q.pth"))
    assert str(caught.value).count(". ") == 0


def test_distributed_tensors_name_the_way_out(tmp_path: Path) -> None:
    from torch.distributed.tensor import DTensor, init_device_mesh  # noqa: PLC0415

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        state = {name: DTensor.from_local(weight, mesh) for name, weight in model().state_dict().items()}
        torch.save(state, tmp_path / "d.pth")
    finally:
        torch.distributed.destroy_process_group()
    with pytest.raises(UserError, match="full_state_dict=True"):
        read(str(tmp_path / "d.pth"))
