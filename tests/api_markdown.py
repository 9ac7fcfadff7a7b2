# SPDX-License-Identifier: Apache-2.0
"""Objects and their docstrings as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import griffe
from griffe import DocstringSectionKind as Kind

from tests.api_source import Entry, anchor, attributes, default, is_enumeration, methods, properties, quoted

_PIPE = r"\|"
"""A tolerance in a cell of a table."""
_WIDTH = 100
"""Columns of a signature before it is broken."""
_SPAN = re.compile(r"(?P<code>``.+?``)|`(?P<name>[^`]+)`", re.DOTALL)
_LITERAL = re.compile(r"^::\n\n((?:    .*\n|\n)+)", re.MULTILINE)
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Index:
    """The headings of the page, by the names that they explain."""

    anchors: Mapping[str, str]
    """Dotted names, and the last parts of them, to anchors."""

    @staticmethod
    def of(entries: Sequence[Entry], titles: Sequence[str], elsewhere: Mapping[str, str]) -> Index:
        """The index of a page.

        Args:
            entries: what has a heading.
            titles: the other headings.
            elsewhere: names that are explained under another heading than their own, to its anchor.

        Raises:
            ValueError: two headings have the same anchor.
        """
        found = [anchor(title) for title in titles] + [entry.anchor for entry in entries]
        twice = sorted({name for name in found if found.count(name) > 1})
        if twice:
            raise ValueError(f"more than one heading has the anchor {', '.join(twice)}")
        anchors = dict(elsewhere)
        for entry in entries:
            anchors[entry.path] = anchors[entry.heading] = entry.anchor
            if entry.object.is_class or entry.path.count(".") == 1:  # a verb
                anchors[entry.object.name] = entry.anchor
        return Index(anchors)

    def linked(self, name: str, code: str) -> str:
        """Code, as a link where the name is explained."""
        owner, _, _member = name.rpartition(".")
        is_member = owner.rpartition(".")[2][:1].isupper()
        target = self.anchors.get(name) or (self.anchors.get(owner) if is_member else None)
        return f"[`{code}`](#{target})" if target else f"`{code}`"

    def type(self, annotation: object) -> str:
        """An annotation, as a link to the first of its names that is explained."""
        names = (name for name in _IDENTIFIER.findall(str(annotation)) if name in self.anchors)
        return self.linked(next(names, ""), str(annotation))


def text(docstring: str, index: Index) -> str:
    """Text of a docstring: names in backticks become links, literal blocks are fenced."""

    def span(match: re.Match[str]) -> str:
        if match["code"]:
            return match["code"][1:-1]
        return index.linked(match["name"], match["name"])

    parts = _LITERAL.split(f"{docstring.strip()}\n")
    fenced = (
        f"```\n{_dedented(part)}\n```\n\n" if number % 2 else _SPAN.sub(span, part) for number, part in enumerate(parts)
    )
    return "".join(fenced).strip()


def render(entry: Entry, index: Index) -> str:
    """An object under its heading, with everything that its docstrings say."""
    found = entry.object
    blocks = [f"### {entry.heading}"]
    if isinstance(found, griffe.Function):
        blocks += _function(found, entry.path, index)
    elif isinstance(found, griffe.Class):
        blocks += [f"`{entry.path}`", *_class(found, index)]
    else:
        blocks.append(_table(("name", "value", "meaning"), _constants(found, index)))
    return "\n\n".join(block for block in blocks if block)


def _class(found: griffe.Class, index: Index) -> Iterator[str]:
    yield from _sections(found, index)
    if is_enumeration(found):
        members = (
            [f"`{found.name}.{member.name}`", f"`{quoted(str(member.value))}`", _cell(member, index)]
            for member in attributes(found)
        )
        yield _table(("member", "value", "meaning"), members)
    else:
        fields = (
            [f"`{member.name}`", index.type(member.annotation), _code(default(member)), _cell(member, index)]
            for member in attributes(found)
        )
        yield _table(("field", "type", "default", "meaning"), fields)
    yield _table(
        ("property", "type", "meaning"),
        ([f"`{member.name}`", index.type(member.annotation), _cell(member, index)] for member in properties(found)),
    )
    for method in methods(found):
        yield f"#### {found.name}.{method.name}"
        yield from _function(method, f"{found.name}.{method.name}", index)


def _function(found: griffe.Function, name: str, index: Index) -> Iterator[str]:
    yield f"```python\n{signature(found, name)}\n```"
    yield from _sections(found, index)


def _constants(found: griffe.Object, index: Index) -> Iterator[list[str]]:
    for member in attributes(found):
        yield [f"`{member.name}`", f"`{quoted(str(member.value))}`", _cell(member, index)]


def signature(found: griffe.Function, name: str) -> str:
    """Returns the signature of a function, on one line or on one for each parameter."""
    parts = list(_parameters(found))
    result = f" -> {found.returns}" if found.returns is not None else ""
    line = f"{name}({', '.join(parts)}){result}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){result}"])


def _parameters(found: griffe.Function) -> Iterator[str]:
    previous = None
    for parameter in found.parameters:
        if parameter.name == "self" and previous is None:
            continue
        if parameter.kind is griffe.ParameterKind.keyword_only and previous is not parameter.kind:
            yield "*"
        previous = parameter.kind
        stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(previous, "")
        annotation = f": {parameter.annotation}" if parameter.annotation is not None else ""
        value = default(parameter)
        yield f"{stars}{parameter.name}{annotation}{f' = {value}' if value and not stars else ''}"


def _sections(found: griffe.Object, index: Index) -> Iterator[str]:
    """Returns a docstring as Markdown, section by section.

    Raises:
        ValueError: it has a section of another kind.
    """
    if found.docstring is None:
        return
    for section in found.docstring.parse("google", returns_multiple_items=False, returns_named_value=False):
        if section.kind is Kind.text:
            yield text(section.value, index)
        elif section.kind is Kind.parameters:
            yield _list("Arguments", ((f"`{item.name}`", item.description) for item in section.value), index)
        elif section.kind in (Kind.returns, Kind.raises):
            items = ((index.type(item.annotation), item.description) for item in section.value)
            yield _list(section.kind.value.capitalize(), items, index)
        elif section.kind is Kind.admonition and section.title == "Example":
            yield f"Example:\n\n```pycon\n{section.value.description.strip()}\n```"
        else:
            raise ValueError(f"{found.path} has a section {section.title or section.kind.value}, which is not shown")


def _list(title: str, items: Iterable[tuple[str, str]], index: Index) -> str:
    lines = (f"- {name}: {text(' '.join(description.split()), index)}" for name, description in items)
    return "\n".join([f"{title}:", "", *lines])


def _cell(member: griffe.Object, index: Index) -> str:
    """The docstring of a field on one line."""
    return text(" ".join(member.docstring.value.split()), index) if member.docstring else ""


def _table(head: tuple[str, ...], rows: Iterable[list[str]]) -> str:
    """A table without the columns that are empty, or nothing where it has no rows."""
    columns = [column for column in zip(head, *rows, strict=True) if any(column[1:])]
    lines = [f"| {' | '.join(cell.replace('|', _PIPE) for cell in row)} |" for row in zip(*columns, strict=True)]
    return "\n".join([*lines[:1], "|---" * len(columns) + "|", *lines[1:]]) if lines else ""


def _code(value: str) -> str:
    return f"`{value}`" if value else ""


def _dedented(block: str) -> str:
    return "\n".join(line[4:] for line in block.strip("\n").splitlines())
