# SPDX-License-Identifier: Apache-2.0
"""Runs several pieces of work at once, each on one core.

An operator on a few images is too short to be shared: what cores wait for one another takes up to half of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class Map(Protocol):
    """Calls a function for every item and returns the results in order."""

    def __call__(self, function: Callable[[T], R], items: Iterable[T], /) -> list[R]:
        """Calls it."""
        ...


@contextmanager
def one_core_each() -> Iterator[Map]:
    """Yields a map that calls its function on as many threads as PyTorch may use; an operator then takes one of them.

    The function has to leave alone what other calls of it write, and gradients are not recorded.
    """
    count = torch.get_num_threads()
    if count == 1:
        yield _one_by_one
        return
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def mapped(function: Callable[[T], R], items: Iterable[T], /) -> list[R]:
            return list(pool.map(torch.no_grad()(function), items))

        try:
            yield mapped
        finally:
            torch.set_num_threads(count)  # which MKL has for the whole process


def _one_by_one(function: Callable[[T], R], items: Iterable[T], /) -> list[R]:
    with torch.no_grad():
        return [function(item) for item in items]
