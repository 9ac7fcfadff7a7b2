# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.pit import PoolingVisionTransformer
from timm.models.vision_transformer import VisionTransformer

from benchmarks.train_demo import split_digits
from tests.vitedge.images.specs import make_spec
from vitedge.checkpoints.read import read
from vitedge.demo.assets import IMAGES, MODELS, DemoModel, images
from vitedge.images.image_set import load
from vitedge.images.preprocess import as_image, normalize, prepare_image
from vitedge.models.reference import load_reference
from vitedge.records import Preprocessing

ROOT = Path(__file__).parents[2]
SIZES = {"ViT": 32, "PiT": 32, "MobileViT": 64}


def make_vit() -> torch.nn.Module:
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=4, num_heads=2, mlp_ratio=2, num_classes=10)


def make_pit() -> torch.nn.Module:
    sizes = {"img_size": 32, "patch_size": 8, "stride": 4, "base_dims": (12, 12, 12), "mlp_ratio": 2}
    return PoolingVisionTransformer(**sizes, depth=(2, 2, 1), heads=(2, 4, 8), num_classes=10)


def make_mobilevit() -> torch.nn.Module:
    def inverted(depth: int, width: int, stride: int) -> ByoBlockCfg:
        kwargs = {"bottle_in": True, "linear_out": True}
        return ByoBlockCfg(type="bottle", d=depth, c=width, s=stride, gs=1, br=2.0, block_kwargs=kwargs)

    def stage(width: int, transformer: int, depth: int) -> tuple[ByoBlockCfg, ByoBlockCfg]:
        kwargs = {"transformer_dim": transformer, "transformer_depth": depth, "patch_size": 2}
        return inverted(1, width, 2), ByoBlockCfg(type="mobilevit", d=1, c=width, s=1, block_kwargs=kwargs)

    stages = (inverted(1, 8, 1), inverted(2, 16, 2), stage(16, 24, 1), stage(24, 32, 2), stage(32, 40, 1))
    stem = {"stem_chs": 8, "stem_type": "3x3", "stem_pool": ""}
    return ByobNet(ByoModelCfg(stages, **stem, downsample="", act_layer="silu", num_features=128), num_classes=10)


MAKERS = {"ViT": make_vit, "PiT": make_pit, "MobileViT": make_mobilevit}


def read_state(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    state = torch.load(path, weights_only=True)
    return state.get("model", state)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_checkpoints_recognise_at_least_95_percent(model: DemoModel) -> None:
    module = MAKERS[model.name]().eval()
    module.load_state_dict(read_state(model.path), strict=True)
    preprocessing = Preprocessing(model.overrides["mean"], model.overrides["std"])
    spec = make_spec((SIZES[model.name],) * 2)
    assert spec.preprocessing.crop == preprocessing.crop
    pictures, labels = images()
    pixels = np.stack([prepare_image(as_image(picture), spec) for picture in pictures])
    with torch.inference_mode():
        logits = module(torch.from_numpy(normalize(pixels, preprocessing)))
    accuracy = float((logits.argmax(1).numpy() == labels).mean())
    recorded = json.loads((ROOT / "benchmarks" / "results" / "train_demo.json").read_text())["models"]
    (claimed,) = (entry["test_accuracy"] for entry in recorded if entry["file"] == model.path.name)
    assert accuracy >= 0.95
    assert accuracy == pytest.approx(claimed, abs=2 / 540)
    assert logits.std(0).mean() > 1


def test_assets_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (IMAGES, *(model.path for model in MODELS))}
    assert max(sizes.values()) < 700_000
    assert sum(sizes.values()) < 2_000_000


def test_containers_differ() -> None:
    wrapped, bare = torch.load(MODELS[0].path, weights_only=True), torch.load(MODELS[2].path, weights_only=True)
    assert set(wrapped) == {"args", "model"}
    assert "head.fc.weight" in bare["model"]
    assert MODELS[1].path.suffix == ".safetensors"


def test_test_images_are_the_held_out_split() -> None:
    """They are digits of the data set, stratified, and none equals one of the images that are left to train on."""
    digits = load_digits()
    everything = ((digits.images.astype(int) * 255 + 8) // 16).astype(np.uint8)
    pictures, labels = images()
    assert pictures.shape == (540, 8, 8, 3)
    assert np.bincount(labels).min() >= 50
    places: dict[bytes, list[int]] = {}
    for index, picture in enumerate(everything):
        places.setdefault(picture.tobytes(), []).append(index)
    held = [places[picture[..., 0].tobytes()] for picture in pictures]
    assert all(len(found) == 1 for found in held)
    assert len({found[0] for found in held}) == 540
    assert np.array_equal(digits.target[[found[0] for found in held]], labels)


def test_the_training_split_leaves_them_out() -> None:
    train_images, test_images, train_labels, test_labels = split_digits()
    assert len(train_images) + len(test_images) == 1797
    assert not {image.tobytes() for image in train_images} & {image.tobytes() for image in test_images}
    assert np.array_equal(np.repeat(test_images[..., None], 3, -1), images()[0])
    assert np.array_equal(test_labels, images()[1])
    assert len(train_labels) == 1257


def test_they_load_like_any_other_images() -> None:
    found = load(IMAGES, make_spec((32, 32)), 16)
    assert found.pixels.shape == (16, 3, 32, 32)
    assert len(found.labels) == 16
    assert len(set(found.labels)) > 4


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_general_reader_rebuilds_them(model: DemoModel) -> None:
    """Given the overrides alone, which name nothing that decides the architecture."""
    assert model.overrides.keys() <= {"labels", "image_size", "mean", "std"}
    reference = load_reference(read(str(model.path), overrides=model.overrides))
    module = MAKERS[model.name]().eval()
    module.load_state_dict(read_state(model.path), strict=True)
    spec = reference.spec
    assert spec.image_size == (SIZES[model.name],) * 2
    assert spec.preprocessing == Preprocessing(model.overrides["mean"], model.overrides["std"], "bicubic", 0.9)
    assert spec.labels == tuple("0123456789")
    pixels = load(IMAGES, spec, 32).pixels
    with torch.inference_mode():
        wanted = module(torch.from_numpy(normalize(pixels, spec.preprocessing))).numpy()
    assert np.abs(reference.outputs(pixels, features=False)["logits"] - wanted).max() < 1e-4
