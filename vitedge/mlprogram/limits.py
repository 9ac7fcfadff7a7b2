# SPDX-License-Identifier: Apache-2.0
"""Upper limits on what a package may contain; one beyond them is damaged or hostile, and is refused.

Each bound is many times what the largest published models of the families need.
"""

from __future__ import annotations

LARGEST_VALUE = 2**30
"""Elements of one value; a ViT-H of 1024 x 1024 pixels needs a quarter of it."""
LARGEST_MEMORY = 2**33
"""Bytes of the values that are alive at one time, as declared; constants that stay in their file do not count."""
LARGEST_FILE = 2**35
"""Bytes of a blob file; a ViT-G in float32 has 7 GB."""
LARGEST_SPECIFICATION = 2**24
"""Bytes of ``model.mlmodel``; a MobileViT v2 has 250 kB."""
LARGEST_MANIFEST = 2**20
"""Bytes of ``Manifest.json``; coremltools writes 617."""
MOST_BLOBS = 2**16
"""Entries of a blob file; a ViT-L has 300."""
MOST_PARTS = 2**17
"""Operations, arguments, types and constants of a program together; a MobileViT v2 has 11 000."""
HIGHEST_RANK = 16
"""Rank of a value; far above that of Core ML."""
MAX_RANK = 5
"""Rank of a value that Core ML takes; it refuses higher ones on the device."""
LONGEST_NAME = 1024
"""Characters of the name of a value."""
