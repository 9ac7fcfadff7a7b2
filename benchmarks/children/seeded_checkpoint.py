# SPDX-License-Identifier: Apache-2.0
"""Writes a seeded checkpoint of a timm model: ``python -m benchmarks.children.seeded_checkpoint NAME OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch


def write(name: str, path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=1000)
    torch.nn.init.trunc_normal_(model.get_classifier().weight, std=0.02)
    torch.save({"model": model.state_dict()}, path)


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
