# SPDX-License-Identifier: Apache-2.0
"""Vision transformer checkpoints in, verified ONNX, Core ML and TensorRT out.

The verbs of the command line are functions here. They take paths, modules in memory and state dicts, and images as
paths, arrays or iterables; they return records, and raise the errors that the command line prints. Importing this
package imports nothing heavy: a name is looked up in the module that has it when it is used for the first time.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitedge.api.comparing import compare
    from vitedge.api.evaluating import evaluate
    from vitedge.api.exporting import export, quantize
    from vitedge.api.inspecting import inspect, load
    from vitedge.api.measuring import bench, doctor
    from vitedge.api.pruning import prune
    from vitedge.api.validating import validate
    from vitedge.errors import CheckFailed, DeviceFailed, MissingBackend, UserError, VitedgeError
    from vitedge.latency.sampling import Rule
    from vitedge.pruning.recipe import PruningRecipe
    from vitedge.recipe import ExportRecipe, QuantizationRecipe
    from vitedge.records import Tolerance

__all__ = [
    "CheckFailed",
    "DeviceFailed",
    "ExportRecipe",
    "MissingBackend",
    "PruningRecipe",
    "QuantizationRecipe",
    "Rule",
    "Tolerance",
    "UserError",
    "VitedgeError",
    "bench",
    "compare",
    "doctor",
    "evaluate",
    "export",
    "inspect",
    "load",
    "prune",
    "quantize",
    "validate",
]

_HOMES = {
    "bench": "vitedge.api.measuring",
    "compare": "vitedge.api.comparing",
    "doctor": "vitedge.api.measuring",
    "evaluate": "vitedge.api.evaluating",
    "export": "vitedge.api.exporting",
    "inspect": "vitedge.api.inspecting",
    "load": "vitedge.api.inspecting",
    "prune": "vitedge.api.pruning",
    "quantize": "vitedge.api.exporting",
    "validate": "vitedge.api.validating",
    "CheckFailed": "vitedge.errors",
    "DeviceFailed": "vitedge.errors",
    "MissingBackend": "vitedge.errors",
    "UserError": "vitedge.errors",
    "VitedgeError": "vitedge.errors",
    "Rule": "vitedge.latency.sampling",
    "PruningRecipe": "vitedge.pruning.recipe",
    "ExportRecipe": "vitedge.recipe",
    "QuantizationRecipe": "vitedge.recipe",
    "Tolerance": "vitedge.records",
}
"""Public name to the module that has it."""
_SHARED = "export"
"""The verb that shares its name with a package of ours: the folder ``export/`` has its name from outside."""


class _Package(ModuleType):
    """This package. Its verb `export` stays a function when the package of that name is imported.

    Python binds a package that it imports to its parent. Here the function stays in that place, so that ``help`` and
    signatures are those of the verb, and gets the modules of the package as attributes, so that
    ``vitedge.export.formats`` is found too.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name == _SHARED and isinstance(value, ModuleType):
            value.__class__ = _SharedPackage
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """Looks a public name up, and keeps it."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(_imported(_HOMES[name]), name)
        if name == _SHARED:
            found.__dict__.update(_modules(sys.modules[f"{__name__}.{_SHARED}"]))
        super().__setattr__(name, found)
        return found

    def __dir__(self) -> list[str]:
        """Lists the public names, and the modules that are imported."""
        return sorted({*__all__, *vars(self)})


class _SharedPackage(ModuleType):
    """The package `vitedge.export`, whose modules are attributes of the verb, too."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        verb = vars(sys.modules[__name__]).get(_SHARED)
        if verb is not None and isinstance(value, ModuleType):
            setattr(verb, name, value)


def _modules(package: ModuleType) -> dict[str, ModuleType]:
    return {name: value for name, value in vars(package).items() if isinstance(value, ModuleType)}


def _imported(module: str) -> ModuleType:
    """Imports a module of ours.

    Raises:
        MissingBackend: it needs a package that is not installed.
    """
    try:
        __import__(module)
    except ImportError as error:
        from vitedge.registry import backend_of

        raise backend_of(error) or error from error
    return sys.modules[module]


sys.modules[__name__].__class__ = _Package
