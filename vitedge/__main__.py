# SPDX-License-Identifier: Apache-2.0
"""The command line as ``python -m vitedge``."""

from __future__ import annotations

from vitedge.cli.main import script

if __name__ == "__main__":
    script()
