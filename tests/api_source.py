# SPDX-License-Identifier: Apache-2.0
"""The public objects of vitedge by their dotted names, read from the sources without importing them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import griffe

PACKAGE = "vitedge"


def anchor(heading: str) -> str:
    """The fragment that GitHub gives a heading."""
    kept = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


@dataclass(frozen=True)
class Entry:
    """One object with a heading of its own."""

    object: griffe.Object
    public: str = ""
    """The name under which the package offers it, where that is another than where it is written."""

    @property
    def path(self) -> str:
        """Its dotted name."""
        return self.public or self.object.path

    @property
    def heading(self) -> str:
        """A class by its name, a function with its module's, constants by the module that holds them."""
        if self.object.is_module:
            return f"Constants of {self.path}"
        return self.object.name if self.object.is_class else ".".join(self.path.split(".")[-2:])

    @property
    def anchor(self) -> str:
        """The fragment of its heading."""
        return anchor(self.heading)


class Source:
    """The package as it stands in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def entries(self, name: str) -> Iterator[Entry]:
        """The object of that dotted name; of a module, every public class and function, and its constants as one.

        Raises:
            KeyError: there is no such object.
        """
        found = self.find(name)
        if not isinstance(found, griffe.Module):
            yield Entry(found, name if name.count(".") == 1 else "")
            return
        for member in found.members.values():
            if isinstance(member, (griffe.Class, griffe.Function)) and not member.name.startswith("_"):
                yield Entry(member)
        if attributes(found):
            yield Entry(found)

    def docstring(self, name: str) -> str:
        """The docstring of the object of that dotted name."""
        found = self.find(name).docstring
        return found.value if found else ""

    def find(self, name: str) -> griffe.Object:
        """The object of that dotted name.

        Raises:
            KeyError: there is no such object.
        """
        package, _, rest = name.partition(".")
        # A verb may share its name with a subpackage: the package itself says which module it is from.
        offered = self._offered.members.get(rest) if "." not in rest else None
        place = offered.target_path.partition(".")[2] if isinstance(offered, griffe.Alias) else rest
        try:
            found = self._package[place]
        except KeyError:
            raise KeyError(f"there is no {name}") from None
        if isinstance(found, griffe.Alias):
            found = found.final_target
        if package != PACKAGE or not isinstance(found, griffe.Object):
            raise KeyError(f"{name} is not an object of {PACKAGE}")
        return found

    @cached_property
    def _package(self) -> griffe.Object | griffe.Alias:
        return self._load(submodules=True)

    @cached_property
    def _offered(self) -> griffe.Object | griffe.Alias:
        return self._load(submodules=False)

    def _load(self, *, submodules: bool) -> griffe.Object | griffe.Alias:
        loader = griffe.GriffeLoader(search_paths=[self._root], allow_inspection=False)
        return loader.load(PACKAGE, submodules=submodules)


def attributes(owner: griffe.Object) -> list[griffe.Attribute]:
    """Public fields of a class, or constants of a module, in the order of the source; no properties."""
    return [member for member in _values(owner) if "property" not in member.labels]


def properties(owner: griffe.Object) -> list[griffe.Attribute]:
    """Public properties of a class."""
    return [member for member in _values(owner) if "property" in member.labels]


def _values(owner: griffe.Object) -> list[griffe.Attribute]:
    found = [member for member in owner.members.values() if isinstance(member, griffe.Attribute)]
    return [member for member in found if not member.name.startswith("_")]


def methods(owner: griffe.Class) -> list[griffe.Function]:
    """Public methods of a class; of a protocol also the special ones, which who implements it has to write."""
    is_protocol = any(str(base) == "Protocol" for base in owner.bases)
    found = [member for member in owner.members.values() if isinstance(member, griffe.Function)]
    return [member for member in found if is_protocol or not member.name.startswith("_")]


def types(found: griffe.Object) -> set[str]:
    """Dotted names of everything that the annotations of a function, or of the members of a class, name."""
    functions = methods(found) if isinstance(found, griffe.Class) else [found]
    annotations = [member.annotation for member in _values(found)] if isinstance(found, griffe.Class) else []
    for function in functions:
        if isinstance(function, griffe.Function):
            annotations += [function.returns, *(parameter.annotation for parameter in function.parameters)]
    expressions = [annotation for annotation in annotations if isinstance(annotation, griffe.Expr)]
    names = [part for expression in expressions for part in expression.iterate(flat=True)]
    return {name.canonical_path for name in names if isinstance(name, griffe.ExprName)}


def is_enumeration(owner: griffe.Class) -> bool:
    """Whether the members of a class are values."""
    return any(str(base).endswith(("Enum", "Flag")) for base in owner.bases)


def default(attribute: griffe.Attribute | griffe.Parameter) -> str:
    """The value that a field has where none is given, as it would be typed; a constant by its value, or nothing."""
    value = attribute.value if isinstance(attribute, griffe.Attribute) else attribute.default
    if isinstance(value, griffe.ExprCall) and value.canonical_path == "dataclasses.field":
        keywords = [argument for argument in value.arguments if isinstance(argument, griffe.ExprKeyword)]
        factory = next((str(keyword.value) for keyword in keywords if keyword.name == "default_factory"), "")
        return {"dict": "{}", "list": "[]", "tuple": "()"}.get(factory, f"{factory}()")
    if isinstance(value, griffe.ExprName) and isinstance(value.resolved, griffe.Attribute):
        value = value.resolved.value
    return "" if value is None else quoted(str(value))


def quoted(source: str) -> str:
    """Source text with the quotation marks of this project."""
    return source if '"' in source else source.replace("'", '"')
