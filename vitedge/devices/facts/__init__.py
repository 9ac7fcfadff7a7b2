# SPDX-License-Identifier: Apache-2.0
"""Devices asked what they are and how they are: texts read there, facts parsed from them here."""

from vitedge.devices.facts.condition import condition
from vitedge.devices.facts.identity import identity

__all__ = ["condition", "identity"]
