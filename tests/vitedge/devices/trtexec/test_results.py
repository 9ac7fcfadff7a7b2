# SPDX-License-Identifier: Apache-2.0
"""The files that trtexec writes, whole, odd and cut short."""

from __future__ import annotations

import numpy as np
import pytest

from vitedge.devices.trtexec.results import read_outputs, read_profile, read_times
from vitedge.errors import DeviceFailed

ROW = '{{ "startComputeMs" : {start}, "computeMs" : {compute}, "latencyMs" : {latency}{more} }}'
OUTPUTS = """[
  { "name" : "logits"
  , "dimensions" : "2x2"
  , "values" : [ 1, -2.5e-05, nan, inf ]
  }
, { "name" : "a "quoted", name"
  , "dimensions" : ""
  , "values" : [ 7 ]
  }
]
"""


def row(start: float, compute: float, more: str = "") -> str:
    return ROW.format(start=start, compute=compute, latency=compute + 1, more=more)


def test_the_warm_up_of_eight_two_is_left_out() -> None:
    ends = ', "endToEndMs" : 9'
    times = read_times(f"[ {row(0, 5, ends)}, {row(200, 2, ends)}, {row(203, 3, ends)} ]", 200)
    assert times.compute_ms == (2, 3)
    assert times.latency_ms == (3, 4)
    assert times.end_to_end_ms == (9, 9)


def test_later_versions_leave_it_out_themselves() -> None:
    times = read_times(f"[ {row(0.5, 5)}, {row(6, 2)} ]", 200)
    assert times.compute_ms == (5, 2)
    assert times.end_to_end_ms == ()


@pytest.mark.parametrize(
    "text", ["", "[", "[ ]", "{}", '[ { "computeMs" : 1 } ]', f"[ {row(1, 2)}".replace("2", "nan")]
)
def test_times_that_are_no_times_are_refused(text: str) -> None:
    with pytest.raises(DeviceFailed, match="trtexec wrote"):
        read_times(text, 0)


def test_outputs_are_arrays_by_name() -> None:
    found = read_outputs(OUTPUTS, {"logits": "float16"})
    assert list(found) == ["logits", 'a "quoted", name']
    assert found["logits"].dtype == np.float16
    np.testing.assert_array_equal(found["logits"], np.array([[1, -2.5e-05], [np.nan, np.inf]], np.float16))
    assert found['a "quoted", name'].shape == ()
    assert found['a "quoted", name'].dtype == np.float32


def test_a_shape_that_depends_on_data_is_the_final_one() -> None:
    final = "Final shape is 1x3 reported by the output allocator.\n1, 2, 3 ]"
    found = read_outputs(f'[\n  {{ "name" : "y"\n  , "dimensions" : "1x-1"\n  , "values" : [ {final}\n  }}\n]\n', {})
    assert found["y"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("text", ["", "[\n]\n", OUTPUTS[:60], OUTPUTS[:-10], OUTPUTS.replace("2x2", "2x3")])
def test_outputs_cut_short_are_refused(text: str) -> None:
    with pytest.raises(DeviceFailed, match="trtexec wrote"):
        read_outputs(text, {})


@pytest.mark.parametrize(("median", "expected"), [(', "medianMs" : 0.25', 250.0), ("", 500.0)])
def test_layers_are_read_whatever_their_names(median: str, expected: float) -> None:
    line = f', {{ "name" : "a "quoted" \\ name", "timeMs" : 5, "averageMs" : 0.5{median}, "percentage" : 100 }}\n'
    assert read_profile(f'[\n  {{ "count" : 10 }}\n{line}]\n') == {'a "quoted" \\ name': expected}
    assert read_profile(f'[\n  {{ "count" : 10 }}\n{line}{line}]\n') == {'a "quoted" \\ name': 2 * expected}
    with pytest.raises(DeviceFailed, match="no times of layers"):
        read_profile('[\n  { "count" : 10 }\n]\n')
