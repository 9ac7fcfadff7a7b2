# SPDX-License-Identifier: Apache-2.0
"""The verb ``cache``: what is in the user's cache, and its limit."""

from __future__ import annotations

from vitedge.errors import BadRecipe
from vitedge.files.cache import LIMIT_VARIABLE, CacheUsage, choose_limit, find_limit, find_usage, parse_size
from vitedge.files.cache import clear as clear_cache


def cache(*, limit: str | None = None, clear: bool = False) -> CacheUsage:
    """Returns what is in the cache, after it was cleared or limited where that was asked for.

    Args:
        limit: a size such as ``2GB``, to which the cache keeps from now on; the least recently used entries above it
            are dropped at once.
        clear: drop every entry.

    Raises:
        BadRecipe: the limit is no size, or the environment has another one, which goes before.
        OutputRefused: the cache cannot be written.
    """
    dropped = clear_cache() if clear else 0
    if limit is not None:
        asked = parse_size(limit, "--limit")
        if find_limit()[1] == LIMIT_VARIABLE:
            raise BadRecipe(f"{LIMIT_VARIABLE} is set and goes before --limit: change it, or unset it.")
        dropped += choose_limit(asked)
    return find_usage(dropped)
