# SPDX-License-Identifier: Apache-2.0
"""Parity: how far an artifact's outputs are from the reference's, and where it departs."""
