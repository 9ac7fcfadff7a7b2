# SPDX-License-Identifier: Apache-2.0
"""Whether two latencies were measured in the same way: only then their ratio says something of the models.

A report's ``device["method"]`` says how it was measured, in one text that is the same for measurements that can be
compared, and in no other case: of the kernels or of a call, with copies or without, with a CUDA graph or without.
"""

from __future__ import annotations

from collections.abc import Sequence

from vitedge.errors import BadRecipe
from vitedge.records import LatencyReport

_UNTOLD = "a way that is not recorded"


def unequal_methods(reports: Sequence[LatencyReport]) -> str:
    """Returns which of the reports was measured in another way than the first, as a sentence; empty where none was."""
    for report in reports[1:]:
        mine, first = (str(one.device.get("method", _UNTOLD)) for one in (report, reports[0]))
        if mine != first:
            return (
                f"{report.subject} was measured by {mine}, and {reports[0].subject} by {first}, so the difference of "
                "the times says nothing about the models"
            )
    return ""


def check_equal_methods(reports: Sequence[LatencyReport]) -> None:
    """Checks that all reports were measured in the same way.

    Raises:
        BadRecipe: one was not.
    """
    found = unequal_methods(reports)
    if found:
        raise BadRecipe(f"{found}: measure them together, with the same settings.")
