# SPDX-License-Identifier: Apache-2.0
"""Work that PyTorch and coremltools repeat at every export, done once for the hundreds of exports of the tests.

Nothing of it depends on the model. A process of its own, as the tests of whole commands start them, does it as ever.
"""

from __future__ import annotations

import copy
import functools
import sys
from typing import Any

import pytest
import torch
from torch._export import utils
from torch.onnx._internal.exporter._registration import ONNXRegistry


def do_once(patch: pytest.MonkeyPatch) -> None:
    """Replaces the functions of the libraries that repeat their work."""
    _read_torchlib_once(patch)
    _list_operators_once(patch)
    if "coremltools" in sys.modules:
        _check_programs_once(patch)


def _read_torchlib_once(patch: pytest.MonkeyPatch) -> None:
    """Keeps the translations of operators, whose sources `torch.onnx.export` parses: 0.4 s of 1.6 for a tiny ViT.

    Each export has its own copy, to which it adds translations of its own.
    """
    read = functools.cache(ONNXRegistry.from_torchlib)

    def copied(**opset: int) -> ONNXRegistry:
        registry = copy.copy(read(**opset))
        registry.functions = {operator: list(entries) for operator, entries in registry.functions.items()}
        return registry

    patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(copied))


def _list_operators_once(patch: pytest.MonkeyPatch) -> None:
    """Visits the operators of C++ when there are others than before, where PyTorch does so thirty times an export."""
    visit = utils._materialize_cpp_cia_ops
    seen: set[int] = set()

    def visited() -> None:
        count = len(torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd"))
        if count not in seen:
            visit()
            seen.clear()
            seen.add(count)

    patch.setattr(utils, "_materialize_cpp_cia_ops", visited)


def _check_programs_once(patch: pytest.MonkeyPatch) -> None:
    """Lets coremltools check programs where it is thorough: when made, without dead code, and when written.

    It also does so, less thoroughly, after each of its eighty passes, which is a fifth of a conversion.
    """
    from coremltools.converters.mil import Program  # noqa: PLC0415 - most test modules need no coremltools

    check = Program.validate

    def checked(program: Any, check_essential_scope: bool | None = False) -> None:
        if check_essential_scope:
            check(program, check_essential_scope=True)

    patch.setattr(Program, "validate", checked)
