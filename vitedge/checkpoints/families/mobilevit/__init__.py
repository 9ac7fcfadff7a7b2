# SPDX-License-Identifier: Apache-2.0
"""MobileViT v1 and v2, in the names of each library."""
