# SPDX-License-Identifier: Apache-2.0
"""From a file to a spec: `read`, `identify`, `overrides`; with a family of two weights, and once with a real one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import timm
import torch

from tests.seeding import seeded
from vitedge.checkpoints.families.family import Converted, Family, Hints, Naming, State
from vitedge.checkpoints.families.table import FAMILIES
from vitedge.checkpoints.files.container import open_container
from vitedge.checkpoints.identify import identify
from vitedge.checkpoints.overrides import apply_overrides, parse_overrides
from vitedge.checkpoints.read import Checkpoint, read
from vitedge.errors import BadRecipe, UnknownArchitecture, WeightsMismatch
from vitedge.records import ModelSpec, Origin, Preprocessing

SPEC = ModelSpec(
    family="toy",
    variant="Toy",
    naming="timm",
    image_size=(32, 32),
    in_channels=3,
    classes=2,
    widths=(4,),
    depths=(1,),
    heads=(1,),
    mlp_ratios=(4.0,),
    patch=8,
    tokens=("class",),
    norm_eps=1e-6,
    activation="gelu",
    preprocessing=Preprocessing((0.5,) * 3, (0.5,) * 3),
    origins={"depths": Origin.SHAPE, "norm_eps": Origin.TABLE},
    notes=("a toy",),
)


def infer(state: State, naming: str, hints: Hints) -> ModelSpec:
    return SPEC


def toy(*namings: Naming, title: str = "Toy") -> Family:
    return cast("Family", SimpleNamespace(NAME="toy", TITLE=title, NAMINGS=namings, infer=infer))


def keep(state: State, hints: Hints) -> Converted:
    return Converted({k: v for k, v in state.items() if not k.startswith("decoder")}, {"decoder.w": "reconstructs"})


def unwrapped(state: State, hints: Hints) -> Converted:
    return Converted({name.removeprefix("encoder."): tensor for name, tensor in state.items()})


PLAIN = Naming("timm", (r"stem\.weight", r"blocks\.\d+\.qkv\.weight"), keep)
MASKED = Naming("masked", (r"encoder\.stem\.weight", r"decoder\.w"), unwrapped)
TOYS = (toy(MASKED, PLAIN),)


def weights() -> State:
    return {"stem.weight": torch.ones(4, 4), "blocks.0.qkv.weight": torch.ones(4, 4), "decoder.w": torch.ones(1)}


def read_toy(tmp_path: Path, content: Any, **keywords: Any) -> Checkpoint:
    torch.save(content, tmp_path / "toy.pth")
    return read(str(tmp_path / "toy.pth"), families=TOYS, **keywords)


def test_checkpoint_carries_everything(tmp_path: Path) -> None:
    found = read_toy(tmp_path, {"state_dict": {f"module.{name}": tensor for name, tensor in weights().items()}})
    assert found.container == "pytorch zip"
    assert found.size == (tmp_path / "toy.pth").stat().st_size
    assert found.sha256() == hashlib.sha256((tmp_path / "toy.pth").read_bytes()).hexdigest()
    assert set(found.state) == {"stem.weight", "blocks.0.qkv.weight"}
    assert found.dropped == {"module.decoder.w": "reconstructs"}
    assert found.spec.variant == SPEC.variant
    assert found.spec.notes[0] == "a toy"
    assert found.weight_sets == (found.weight_set,) == ("state_dict",)


def test_several_sets_are_said_and_chosen(tmp_path: Path) -> None:
    content = {"model": weights(), "model_ema": {name: 2 * tensor for name, tensor in weights().items()}}
    found = read_toy(tmp_path, content)
    assert found.weight_set == "model_ema"
    assert found.state["stem.weight"][0, 0] == 2
    assert any("model_ema, model" in note for note in found.spec.notes)
    assert read_toy(tmp_path, content, weights="model").state["stem.weight"][0, 0] == 1
    with pytest.raises(BadRecipe, match="--weights can be model_ema, model"):
        read_toy(tmp_path, content, weights="teacher")


def test_prefix_is_kept_for_the_naming_that_needs_it() -> None:
    state = {"encoder.stem.weight": torch.ones(1), "decoder.w": torch.ones(1)}
    assert identify(state, Hints(), TOYS).naming is MASKED
    del state["decoder.w"]
    state["encoder.blocks.0.qkv.weight"] = torch.ones(1)
    assert identify(state, Hints(), TOYS).naming is PLAIN


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_widths_are_widened_and_said(tmp_path: Path, kind: torch.dtype) -> None:
    found = read_toy(tmp_path, {name: tensor.to(kind) for name, tensor in weights().items()})
    assert {tensor.dtype for tensor in found.state.values()} == {torch.float32}
    assert str(kind).removeprefix("torch.") in found.spec.notes[-1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    broken = weights()
    broken["blocks.0.qkv.weight"][3, 3] = value
    with pytest.raises(WeightsMismatch, match=r"toy\.pth: 1 weights hold NaN or infinity \(blocks\.0\.qkv\.weight\)"):
        read_toy(tmp_path, broken)


def test_large_weights_whose_sum_overflows_are_finite(tmp_path: Path) -> None:
    large = weights()
    large["stem.weight"].fill_(3e38)
    assert read_toy(tmp_path, large).state["stem.weight"][0, 0] == 3e38


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_that_are_no_floats_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    path = tmp_path / "toy.pth"
    torch.save({**weights(), "stem.weight": torch.ones(4, 4).to(kind)}, path)
    with pytest.raises(WeightsMismatch, match=r"stem\.weight is .*quantization"):
        read(str(path), families=TOYS)


def test_counters_of_norms_and_windows_may_be_integers(tmp_path: Path) -> None:
    counted = {
        **weights(),
        "norm.num_batches_tracked": torch.tensor(3),
        "a.relative_position_index": torch.zeros(4).long(),
    }
    assert "norm.num_batches_tracked" in read_toy(tmp_path, counted).state


def test_unknown_architecture_of_which_little_fits_names_no_nearest(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(1), "layer1.0.conv1.weight": torch.ones(1)}, tmp_path / "resnet.pth")
    with pytest.raises(UnknownArchitecture) as caught:
        read(str(tmp_path / "resnet.pth"))
    message = str(caught.value)
    assert "resnet.pth" in message
    assert "no family's weights have these names" in message
    assert "conv1.weight, layer1.0.conv1.weight" in message


def test_nearest_is_the_family_of_which_most_fits() -> None:
    state = {"blocks.0.qkv.weight": torch.ones(1)}
    other = toy(Naming("timm", ("stem",), keep), title="Other")
    with pytest.raises(
        UnknownArchitecture, match=r"nearest is Toy \(timm naming\), but no weight is called stem\.weight;"
    ):
        identify(state, Hints(), (other, *TOYS))


def test_overrides_reach_family_and_spec(tmp_path: Path) -> None:
    seen: list[Hints] = []

    def watching(state: State, naming: str, hints: Hints) -> ModelSpec:
        seen.append(hints)
        return SPEC

    family = cast("Family", SimpleNamespace(NAME="toy", TITLE="Toy", NAMINGS=(PLAIN,), infer=watching))
    torch.save(weights(), tmp_path / "toy.pth")
    given = {"norm_eps": "1e-12", "preprocessing.mean": "0.1, 0.2,0.3", "std": 0.25, "channel-order": "bgr", "heads": 2}
    spec = read(str(tmp_path / "toy.pth"), overrides=given, families=(family,)).spec
    assert seen[0].overrides["heads"] == (2,)
    assert spec.norm_eps == 1e-12
    assert spec.preprocessing == Preprocessing((0.1, 0.2, 0.3), (0.25,) * 3, channel_order="bgr")
    for name in ("norm_eps", "heads", "preprocessing.mean", "preprocessing.std", "preprocessing.channel_order"):
        assert spec.origins[name] is Origin.GIVEN
    assert spec.origins["depths"] is Origin.SHAPE


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"meen": 1}, "nothing called 'meen' to override; there is activation"),
        ({"family": "vit"}, "nothing called 'family'"),
        ({"mean": "red"}, "mean takes numbers with commas"),
        ({"mean": [0.5, 0.5]}, "mean takes 3 numbers"),
        ({"std": 0}, "above 0"),
        ({"crop": 90}, "at most 1"),
        ({"crop": True}, "crop takes a number"),
        ({"norm_eps": "nan"}, "norm_eps takes a number"),
        ({"channel_order": "rbg"}, "rgb or bgr"),
        ({"interpolation": "magic"}, "bicubic"),
        ({"activation": "swoosh"}, "gelu"),
        ({"image_size": "1x2x3"}, "image_size takes whole numbers"),
        ({"heads": 1.5}, "heads takes whole numbers"),
        ({"labels": "cat"}, "labels takes 2 names"),
        ({"depths": 12}, r"shapes of the weights say \(1,\)"),
    ],
)
def test_bad_overrides(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRecipe, match=words):
        apply_overrides(SPEC, given)


def test_image_size_is_one_edge_or_height_and_width() -> None:
    assert parse_overrides({"image_size": 224}) == {"image_size": (224, 224)}
    assert parse_overrides({"image_size": "192x256"}) == {"image_size": (192, 256)}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.NAME)
def test_families_have_one_shape(family: Family) -> None:
    assert family.TITLE
    assert all(naming.name and naming.signature for naming in family.NAMINGS)
    assert len({naming.name for naming in family.NAMINGS}) == len(family.NAMINGS)


def test_real_family_through_wrapper_and_real_file(tmp_path: Path) -> None:
    module = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)
    state = seeded(module).state_dict()
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 1}, tmp_path / "a.pth")
    found = read(str(tmp_path / "a.pth"))
    assert (found.spec.family, found.spec.naming, found.spec.classes) == ("vit", "timm", 5)
    module.load_state_dict(found.state, strict=True)
    assert all(torch.equal(found.state[name], tensor) for name, tensor in state.items())


def test_opened_file_does_not_keep_what_was_not_chosen(tmp_path: Path) -> None:
    found = read_toy(tmp_path, {"model": weights(), "optimizer": {"state": {0: {"exp_avg": torch.ones(9)}}}})
    assert found.file.content is None
    assert open_container(tmp_path / "toy.pth").content is not None


def test_a_local_file_does_not_import_the_client_of_the_hub() -> None:
    code = (
        "import sys, vitedge.checkpoints.files.container, vitedge.checkpoints.files.hub as hub\n"
        "print(hub.is_hub('a.pth'), 'huggingface_hub' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
