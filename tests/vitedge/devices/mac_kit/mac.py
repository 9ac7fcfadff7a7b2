# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a Mac: what is tested with it is the kit's own logic, not Core ML.

The script of a kit makes two calls that exist on macOS only, `load` and `predict`. Here `load` returns this stand-in,
whose `predict` computes the same package on PyTorch and is as particular about its inputs as coremltools' own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitedge.devices.mac_kit import verify as kit_script
from vitedge.runtimes.mlprogram import Runtime


class StandIn:
    """Plays ``coremltools.models.MLModel``; ``alter`` changes what it returns."""

    def __init__(self, path: Path, units: str, alter: Any = None) -> None:
        self._runtime = Runtime(path).__enter__()
        self.units = units
        self._alter = alter

    def predict(self, feeds: dict[str, Any]) -> dict[str, Any]:
        arrays = {}
        for spec in self._runtime.inputs:
            value = feeds[spec.name]
            if spec.dtype == "uint8":
                if not isinstance(value, Image.Image) or value.mode != "RGB":
                    raise TypeError(f"Image input, '{spec.name}' must be of type PIL.Image.Image in the input dict")
                value = np.asarray(value).transpose(2, 0, 1)[None]
            assert value.shape == spec.shape
            arrays[spec.name] = value
        outputs: dict[str, Any] = dict(self._runtime.run(arrays))
        return self._alter(outputs) if self._alter else outputs


def play(monkeypatch: pytest.MonkeyPatch, alter: Any = None) -> list[StandIn]:
    """Lets the script believe that it is on a Mac; returns the packages that it loads, as it loads them."""
    loaded: list[StandIn] = []

    def load(path: Path, units: str) -> StandIn:
        loaded.append(StandIn(path, units, alter))
        return loaded[-1]

    monkeypatch.setattr(kit_script, "load", load)
    monkeypatch.setattr(kit_script.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(kit_script.platform, "node", lambda: "stand-in")
    monkeypatch.setattr(kit_script, "sysctl", lambda name: {"hw.model": "Mac0,0"}.get(name, "Chip 0"))
    return loaded


def run_kit(kit: Path, *options: str) -> int:
    """The kit's script in this process."""
    return kit_script.main(["--kit", str(kit), "--repeat", "1", *options])
