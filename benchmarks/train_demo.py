# SPDX-License-Identifier: Apache-2.0
"""Trains the demo's three small models on scikit-learn's handwritten digits and writes what the package embeds.

``python benchmarks/train_demo.py`` takes a few minutes on two cores and rewrites the checkpoints and the test images in
``vitedge/demo`` and ``benchmarks/results/train_demo.json``; with the names of files it trains those alone. The models
are timm's own classes and the checkpoints are files as anyone would save them: two with the weights as ``model`` and
the training's settings as ``args``, one as safetensors with the settings as metadata.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timm.models.byobnet import ByobNet, ByoModelCfg
from timm.models.mobilevit import _inverted_residual_block, _mobilevit_block
from timm.models.pit import PoolingVisionTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitedge.images.preprocess import as_image, normalize, prepare_image
from vitedge.records import ModelSpec, Preprocessing

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "vitedge" / "demo"
RESULT = ROOT / "benchmarks" / "results" / "train_demo.json"
SEED = 0
TEST_IMAGES = 540
BATCH = 64
LEARNING_RATE = 2e-3


def make_vit() -> nn.Module:
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=4, num_heads=2, mlp_ratio=2.0, num_classes=10
    )


def make_pit() -> nn.Module:
    return PoolingVisionTransformer(
        img_size=32,
        patch_size=8,
        stride=4,
        base_dims=(12, 12, 12),
        depth=(2, 2, 1),
        heads=(2, 4, 8),
        mlp_ratio=2.0,
        num_classes=10,
    )


def make_mobilevit() -> nn.Module:
    configuration = ByoModelCfg(
        blocks=(
            _inverted_residual_block(d=1, c=8, s=1, br=2.0),
            _inverted_residual_block(d=2, c=16, s=2, br=2.0),
            _mobilevit_block(d=1, c=16, s=2, transformer_dim=24, transformer_depth=1, patch_size=2, br=2.0),
            _mobilevit_block(d=1, c=24, s=2, transformer_dim=32, transformer_depth=2, patch_size=2, br=2.0),
            _mobilevit_block(d=1, c=32, s=2, transformer_dim=40, transformer_depth=1, patch_size=2, br=2.0),
        ),
        stem_chs=8,
        stem_type="3x3",
        stem_pool="",
        downsample="",
        act_layer="silu",
        num_features=128,
    )
    return ByobNet(configuration, num_classes=10)


@dataclass(frozen=True)
class Training:
    """One model to be trained, and how its images are prepared: as the published models of its family have them."""

    file: str
    make: Callable[[], nn.Module]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    epochs: int
    facts: Mapping[str, Any]
    """What the weights do not tell about the model; it is saved beside them."""


TRAININGS = (
    Training("vit-digits.pth", make_vit, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 60, {"num_heads": 2, "img_size": 32}),
    Training(
        "pit-digits.safetensors",
        make_pit,
        32,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        60,
        {"num_heads": [2, 4, 8], "img_size": 32},
    ),
    Training(
        "mobilevit-digits.pth",
        make_mobilevit,
        64,
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        30,
        {"num_heads": 4, "img_size": 64, "output_stride": 32},
    ),
)


def split_digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Train images, test images ``(images, 8, 8)`` uint8, train labels, test labels."""
    digits = load_digits()
    grey = (digits.images.astype(np.uint16) * 255 + 8) // 16  # 0..16 to 0..255
    found = train_test_split(
        grey.astype(np.uint8),
        digits.target.astype(np.int64),
        test_size=TEST_IMAGES,
        stratify=digits.target,
        random_state=SEED,
    )
    return found[0], found[1], found[2], found[3]


def spec_of(training: Training) -> ModelSpec:
    """As much of a spec as the preparation of images reads."""
    return ModelSpec(
        family="",
        variant="",
        naming="timm",
        image_size=(training.image_size, training.image_size),
        in_channels=3,
        classes=10,
        widths=(),
        depths=(),
        heads=(),
        mlp_ratios=(),
        patch=8,
        tokens=(),
        norm_eps=1e-6,
        activation="gelu",
        preprocessing=Preprocessing(training.mean, training.std, interpolation="bicubic", crop=0.9),
    )


def prepare_all(images: NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.uint8]:
    return np.stack([prepare_image(as_image(image), spec) for image in images])


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Turns, scales and shifts each image a little and adds noise. Pixels are float, 0 to 255."""
    count = len(pixels)
    angle, scale, across, down = (torch.rand(4, count, generator=generator) * 2 - 1).unbind()
    angle, scale = angle * math.radians(12), 1 + 0.1 * scale
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack([cosine, -sine, 0.15 * across, sine, cosine, 0.15 * down], 1).view(count, 2, 3)
    grid = nn.functional.affine_grid(rows, list(pixels.shape), align_corners=False)
    moved = nn.functional.grid_sample(pixels, grid, align_corners=False)
    return (moved + 8 * torch.randn(moved.shape, generator=generator)).clamp(0, 255)


@torch.inference_mode()
def accuracy(model: nn.Module, pixels: NDArray[np.uint8], labels: NDArray[np.int64], spec: ModelSpec) -> float:
    model.eval()
    logits = model(torch.from_numpy(normalize(pixels, spec.preprocessing)))
    return float((logits.argmax(1).numpy() == labels).mean())


def train(training: Training, pixels: Tensor, labels: Tensor) -> nn.Module:
    """The weights' moving average over the last steps, which varies less than the last step's."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = training.make().to(memory_format=torch.channels_last)  # a third faster for the convolutions
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    steps = training.epochs * (len(pixels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (training.mean, training.std))
    for _ in range(training.epochs):
        model.train()
        for chosen in torch.randperm(len(pixels), generator=generator).split(BATCH)[: len(pixels) // BATCH]:
            images = (augment(pixels[chosen].float(), generator) / 255 - mean) / std
            images = images.contiguous(memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(model(images), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
    return copy.deepcopy(average.module).eval()


def save(weights: Mapping[str, Tensor], path: Path, facts: Mapping[str, Any]) -> None:
    """Writes weights with the training's facts beside them, as ``args`` or as the metadata of a safetensors file."""
    state = {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}
    if path.suffix == ".safetensors":
        save_file(state, path, metadata={name: json.dumps(value) for name, value in facts.items()})
    else:
        torch.save({"model": state, "args": dict(facts)}, path)


def run(training: Training) -> dict[str, object]:
    train_images, test_images, train_labels, test_labels = split_digits()
    spec = spec_of(training)
    wall, processor = time.perf_counter(), time.process_time()
    model = train(training, torch.from_numpy(prepare_all(train_images, spec)), torch.from_numpy(train_labels))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    save(model.state_dict(), DEMO / training.file, training.facts)
    result = {
        "file": training.file,
        "test_accuracy": accuracy(model, prepare_all(test_images, spec), test_labels, spec),
        "train_accuracy": accuracy(model, prepare_all(train_images, spec), train_labels, spec),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": (DEMO / training.file).stat().st_size,
        "image_size": training.image_size,
        "epochs": training.epochs,
        "seconds": round(wall, 1),
        "processor_seconds": round(processor, 1),
    }
    print(json.dumps(result), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the demo's models on scikit-learn's handwritten digits.")
    files = [training.file for training in TRAININGS]
    parser.add_argument("files", nargs="*", help=f"of {', '.join(files)}; all without")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    _, test_images, _, test_labels = split_digits()
    np.savez_compressed(DEMO / "digits.npz", images=test_images, labels=test_labels.astype(np.uint8))
    earlier = json.loads(RESULT.read_text(encoding="utf-8"))["models"] if RESULT.exists() else []
    results = {entry["file"]: entry for entry in earlier}
    for training in TRAININGS:
        if training.file in (given.files or files):
            results[training.file] = run(training)
    record = {
        "models": [results[file] for file in files if file in results],
        "test_images": len(test_images),
        "seed": SEED,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
