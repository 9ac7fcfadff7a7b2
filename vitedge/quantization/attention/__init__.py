# SPDX-License-Identifier: Apache-2.0
"""Attention: which of its products are quantized, and with which parameters."""
