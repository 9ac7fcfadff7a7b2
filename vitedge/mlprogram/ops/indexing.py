# SPDX-License-Identifier: Apache-2.0
"""Operations that choose values by index.

Nothing is computed, so float16 stays float16.
"""

from __future__ import annotations

from vitedge.mlprogram.ops.arguments import Table

OPS: Table = {}
