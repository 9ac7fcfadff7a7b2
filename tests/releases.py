# SPDX-License-Identifier: Apache-2.0
"""Which release of a package is installed, for tests of what older ones lack."""

from __future__ import annotations

import importlib.metadata


def older(package: str, *release: int) -> bool:
    """Returns whether a package is older than a release such as ``1, 30``."""
    parts = importlib.metadata.version(package).split(".")
    return tuple(int(part) for part in parts[: len(release)]) < release
