# SPDX-License-Identifier: Apache-2.0
"""Reading checkpoints: containers, weight sets, key signatures, and converters to timm's names."""
