# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import onnx_ir as ir
import pytest

from tests.export import tiny
from tests.export.quantized_programs import quantized
from vitedge.export import to_onnx
from vitedge.export.onnx.passes import quantized as pipeline


@pytest.mark.parametrize("name", ["vit", "pit", "swin", "mobilevit", "mobilevitv2"])  # DeiT and BEiT are as ViT
def test_the_passes_end_where_nothing_changes_any_more(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[bool] = []

    class Count(ir.passes.InPlacePass):
        def __init__(self, manager: ir.passes.PassManager) -> None:
            self.manager = manager

        def call(self, model: ir.Model) -> ir.passes.PassResult:
            result = self.manager(model)
            rounds.append(self.manager(model).modified)
            return result

    passes = [Count(one) if isinstance(one, ir.passes.PassManager) else one for one in pipeline.FOR_PROCESSORS.passes]
    monkeypatch.setattr(pipeline, "FOR_PROCESSORS", ir.passes.Sequential(*passes))
    to_onnx._translate(quantized(name), to_onnx.DEFAULT_OPSET).run((*to_onnx.PASSES, *to_onnx.LAYOUTS["processor"]))
    assert rounds == [False, False]


def test_a_graph_without_integers_stays_as_it_is() -> None:
    graph = to_onnx._translate(tiny.program("vit")[1], to_onnx.DEFAULT_OPSET)
    before = [node.op_type for node in graph.model.graph]
    graph.run([pipeline.LayOutIntegersPass(pipeline.for_processors)])
    assert [node.op_type for node in graph.model.graph] == before
