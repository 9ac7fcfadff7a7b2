# SPDX-License-Identifier: Apache-2.0
"""The module of the reference that a value of an ML Program came from.

Packages of vitedge list the modules, and their values are called after module and operation. In other packages the
names of the weights carry those of the parameters; what an operation without weights belongs to is not known there,
only what it comes after.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping

from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.description import metadata
from vitedge.mlprogram.package import Package
from vitedge.mlprogram.program import MLProgram, Operation

MODULES = "vitedge.modules"
"""Key of a package's metadata: the paths of the modules as a JSON list, such as ``blocks.3.attn.qkv``."""
BLOCKS = "vitedge.blocks"
"""Key of a package's metadata: `vitedge.records.Artifact.blocks` as a JSON object."""
AFTER = "after "
"""Prefix of the module of the last weights before an operation that has none itself."""
_WEIGHT = re.compile(
    r"(?:[pb]_)?(\w+?)_(?:weight|bias|gamma|beta|running_mean|running_var)"
    r"(?:_(?:to|quantized|palettized|sparsified)\w*)?",
    re.ASCII,
)
"""The name of a constant that coremltools made of a parameter; ``p_`` and ``b_`` come from ``torch.export``."""


def modules_of(program: MLProgram) -> dict[str, str]:
    """Returns every value, constants included, to its module; empty for the reference itself and where it is unknown.

    Raises:
        UnreadableArtifact: the metadata of the package is damaged.
    """
    listed = listed_modules(program.package)
    if listed is None:
        return _traced(program, module_of_weight, _after)
    paths = {identifier(path): path for path in reversed(listed)}
    return _traced(program, lambda name: _longest_prefix(name, paths), _inherited)


def listed_modules(package: Package) -> tuple[str, ...] | None:
    """Returns the paths of the modules that a package lists; None where it lists none.

    Raises:
        UnreadableArtifact: the entry is not a list of names.
    """
    found = metadata(package, MODULES)
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(path, str) for path in found):
        raise UnreadableArtifact(f"{package.path} is damaged: its {MODULES} is not a list of names.")
    return tuple(found)


def blocks_of(package: Package) -> dict[str, str]:
    """Returns module of the reference to the value that equals its output, as the package lists them.

    Raises:
        UnreadableArtifact: the metadata of the package is damaged.
    """
    found = metadata(package, BLOCKS)
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UnreadableArtifact(f"{package.path} is damaged: its {BLOCKS} does not map names to names.")
    return found


def identifier(path: str) -> str:
    """Returns a dotted name as an identifier of Core ML."""
    return re.sub(r"\W", "_", path.strip("._"), flags=re.ASCII)


def module_of_weight(name: str) -> str:
    """Returns the module in the name of a weight, its dots still underscores; empty where there is none."""
    match = _WEIGHT.fullmatch(name)
    return match.group(1) if match else ""


def readers(program: MLProgram) -> Mapping[str, list[Operation]]:
    """Returns every value to the operations that read it."""
    found: dict[str, list[Operation]] = defaultdict(list)
    for operation in program.operations:
        for name in operation.reads():
            found[name].append(operation)
    return found


Found = dict[str, str]


def _traced(program: MLProgram, say: Callable[[str], str], otherwise: Callable[[Operation, Found], str]) -> Found:
    """Returns modules by names; ``otherwise`` decides on an operation whose name and weights carry none."""
    found: Found = {}
    constants: set[str] = set()
    for operation in program.operations:
        module = say(operation.name)
        if operation.is_constant:
            constants.add(operation.name)
        elif not module:
            weights = (found[name] for name in operation.reads() if name in constants)
            module = next(filter(None, weights), "") or otherwise(operation, found)
        found.update((output.name, module) for output in operation.outputs)
    for name, module in _by_readers(program, {name for name in constants if not found[name]}, found):
        found[name] = module
    return found


def _by_readers(program: MLProgram, unnamed: Collection[str], found: Found) -> Iterator[tuple[str, str]]:
    """Yields constants without a module in their name, with the only module that reads them."""
    for name, operations in readers(program).items():
        modules = {found[operation.name] for operation in operations if operation.name in found}
        if name in unnamed and len(modules) == 1:
            yield name, modules.pop()


def _inherited(operation: Operation, found: Found) -> str:
    """Returns the module of a cast's input; any other operation without a module belongs to the reference itself."""
    return next((found.get(name, "") for name in operation.reads()), "") if operation.kind == "cast" else ""


def _after(operation: Operation, found: Found) -> str:
    reads = set(operation.reads())
    # The branch that was computed last, which for a residual connection is not the one around.
    before = next((found[name] for name in reversed(found) if name in reads and found[name]), "")
    return before if not before or before.startswith(AFTER) else AFTER + before


def _longest_prefix(name: str, paths: Mapping[str, str]) -> str:
    while name:
        if name in paths:
            return paths[name]
        name = name.rpartition("_")[0]
    return ""
