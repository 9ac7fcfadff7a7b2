# SPDX-License-Identifier: Apache-2.0
"""Tests of `records.model`, `records.bundle`, `records.parity` and `records.latency`."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import types

from vitedge import records


def test_the_package_has_every_record_of_its_modules_and_all_are_frozen() -> None:
    modules = [importlib.import_module(f"vitedge.records.{one.name}") for one in pkgutil.iter_modules(records.__path__)]
    own = [kind for module in modules for kind in vars(module).values() if _is_defined_in(kind, module)]
    assert sorted(kind.__name__ for kind in own) == records.__all__
    assert all(getattr(records, kind.__name__) is kind and kind.__doc__ for kind in own)
    frozen = [kind for kind in own if dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen]
    assert len(frozen) == len(own) - 2  # all but Origin, an enumeration, and Shown, which results inherit


def _is_defined_in(kind: object, module: types.ModuleType) -> bool:
    return getattr(kind, "__module__", "") == module.__name__
