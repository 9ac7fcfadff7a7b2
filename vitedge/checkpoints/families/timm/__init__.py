# SPDX-License-Identifier: Apache-2.0
"""Any architecture of timm, known by the names and shapes of its weights."""
