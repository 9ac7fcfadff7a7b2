# SPDX-License-Identifier: Apache-2.0
"""Images to batches: a folder, or a seeded synthetic set with natural statistics."""
