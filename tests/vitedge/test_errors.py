# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from collections.abc import Iterator

from vitedge import errors
from vitedge.errors import VitedgeError

BRANCH = re.compile(r" {4}(?P<indent>[│ ]*)[├└]── (?P<name>\w+) +(?P<code>\d )?.+")


def drawn() -> list[tuple[str, int, int | None]]:
    """Name, depth and exit code of each line of the tree in the docstring of the module."""
    found = [BRANCH.fullmatch(line) for line in (errors.__doc__ or "").splitlines()]
    return [
        (branch["name"], len(branch["indent"]) // 4 + 1, int(branch["code"]) if branch["code"] else None)
        for branch in found
        if branch
    ]


def defined(kind: type[VitedgeError] = VitedgeError, depth: int = 0) -> Iterator[tuple[type[VitedgeError], int]]:
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield below, depth + 1
            yield from defined(below, depth + 1)


def test_the_tree_is_drawn_with_every_error_at_its_place() -> None:
    expected = {(kind.__name__, depth) for kind, depth in defined()}
    # A refused pickle is an unreadable checkpoint too; it is drawn beside it.
    expected = (expected - {("RefusedPickle", 3)}) | {("RefusedPickle", 2)}
    assert {(name, depth) for name, depth, _ in drawn()} == expected


def test_exit_codes_are_those_of_the_drawing() -> None:
    codes = {name: code for name, _, code in drawn() if code is not None}
    assert codes == {kind.__name__: kind.exit_code for kind, depth in defined() if depth == 1}
    assert sorted(codes.values()) == [2, 3, 4, 5]  # 1 is a bug of ours, 0 is success
    assert all(kind.exit_code in codes.values() for kind, _ in defined())
