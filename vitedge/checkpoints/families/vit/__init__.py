# SPDX-License-Identifier: Apache-2.0
"""ViT, DeiT and their self-supervised encoders, in the names of each library."""
