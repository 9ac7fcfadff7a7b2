# SPDX-License-Identifier: Apache-2.0
"""The embedded checkpoints and labelled images, written by ``benchmarks/train_demo.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HERE = Path(__file__).parent

IMAGES = _HERE / "digits.npz"
"""540 of scikit-learn's handwritten digits that no model was trained on: ``images`` and ``labels``."""

_DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class DemoModel:
    """An embedded checkpoint, and the facts that a user would have to state about it."""

    name: str
    path: Path
    overrides: Mapping[str, Any]
    """Fields of `ModelSpec` and `Preprocessing` that its weights do not tell."""


MODELS: tuple[DemoModel, ...] = (
    DemoModel(
        "ViT",
        _HERE / "vit-digits.pth",
        {"labels": _DIGITS, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    ),
    DemoModel(
        "PiT",
        _HERE / "pit-digits.safetensors",
        {"labels": _DIGITS, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    ),
    DemoModel(
        "MobileViT",
        _HERE / "mobilevit-digits.pth",
        {"labels": _DIGITS, "image_size": (64, 64), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
    ),
)


def images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns the test images ``(540, 8, 8, 3)``, 0 to 255, and their classes ``(540,)``."""
    with np.load(IMAGES, allow_pickle=False) as file:
        grey, labels = file["images"], file["labels"]
    return np.repeat(grey[..., None], 3, axis=-1), labels.astype(np.int64)
