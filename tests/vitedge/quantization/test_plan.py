# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from tests.vitedge.quantization.plans import whole
from vitedge.quantization.plan import Plan


def test_a_plan_begins_empty_and_shares_nothing() -> None:
    first, second = Plan(), Plan()
    first.dynamic.add("head")
    first.inputs["head"] = whole("int8", 1.0)
    assert second == Plan()
    assert not second.dynamic
