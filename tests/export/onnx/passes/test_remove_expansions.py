# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.export.onnx.passes.graphs import graph_of, kinds
from vitedge.export.onnx.passes.remove_expansions import remove_expansions

TEXT = """main (float[2,1] x, float[{other}] z) => (float[2,3] y) {{
    s = Constant<value_ints=[2,3]>()  e = Expand(x, s)  y = {operator}(e, z)
}}"""


@pytest.mark.parametrize(
    ("operator", "other", "removed"), [("Mul", "2,3", True), ("Mul", "3", False), ("PRelu", "2,3", False)]
)
def test_an_expansion_goes_where_broadcasting_does_the_same(*, operator: str, other: str, removed: bool) -> None:
    graph = graph_of(TEXT.format(operator=operator, other=other))
    graph.run([remove_expansions])
    assert ("Expand" not in kinds(graph)) is removed


def test_an_expansion_that_is_the_value_of_a_block_stays() -> None:
    graph = graph_of(TEXT.format(operator="Mul", other="2,3"), blocks={"block": "e"})
    graph.run([remove_expansions])
    assert "Expand" in kinds(graph)
