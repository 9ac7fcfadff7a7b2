# SPDX-License-Identifier: Apache-2.0
"""Captures that are copied where they would be repeated: they are most of the time of a run of a tiny model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import nn

from vitedge.program.program import Program
from vitedge.quantization import run


def _weights(module: nn.Module) -> str:
    return str([(name, float(tensor.double().sum())) for name, tensor in module.state_dict().items()])


@contextmanager
def captured_once() -> Iterator[None]:
    """Has runs of quantization take copies of what was captured of the same weights in the same way."""
    known: dict[str, Program] = {}
    original = run.capture

    def capture(module: nn.Module, *arguments: Any, **named: Any) -> Program:
        key = f"{named} {_weights(module)}"
        if key not in known:
            known[key] = original(module, *arguments, **named)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "capture", capture)
        yield
