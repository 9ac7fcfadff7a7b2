# SPDX-License-Identifier: Apache-2.0
"""Reports that can be compared, and such that cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vitedge.errors import BadRecipe
from vitedge.latency.methods import check_equal_methods, unequal_methods
from vitedge.latency.statistics import quantiles
from vitedge.records import LatencyReport


def report(subject: str, device: dict[str, Any]) -> LatencyReport:
    return LatencyReport(subject, "tensorrt", device, 1, 3, 1.0, 1.0, 1.0, 1, quantiles([1.0, 2.0, 3.0]), stable=True)


def test_equal_methods_are_compared_whatever_else_differs() -> None:
    reports = [report("a", {"method": "m", "version": "8.2.1"}), report("b", {"method": "m", "version": "11.1.0"})]
    assert unequal_methods(reports) == ""
    check_equal_methods(reports)
    check_equal_methods(reports[:1])


@pytest.mark.parametrize(("device", "told"), [({"method": "clock"}, "clock"), ({}, "a way that is not recorded")])
def test_unequal_methods_are_refused_by_name(device: dict[str, Any], told: str) -> None:
    reports = [report("a", {"method": "m"}), replace(report("b", {}), device=device)]
    with pytest.raises(BadRecipe, match=rf"^b was measured by {told}, and a by m, so .*: measure them together"):
        check_equal_methods(reports)
