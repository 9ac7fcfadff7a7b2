# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from tests.vitedge.mlprogram.mil import Build
from tests.vitedge.mlprogram.mil import program as mil
from vitedge.errors import BadRecipe
from vitedge.mlprogram.overflow import check_overflow
from vitedge.mlprogram.package import MODEL
from vitedge.program.float16 import FLOAT16_MAX, SAFETY
from vitedge.records import OverflowReport, ValueRange

GENERATOR = np.random.default_rng(3)
X = GENERATOR.normal(size=(1, 4, 6)).astype(np.float32)
Y = GENERATOR.normal(size=(1, 4, 6)).astype(np.float32)


def watched(build: Build, *images: np.ndarray, opset: str = "iOS16", half: bool = True) -> OverflowReport:
    """Returns the report of an operation on float16, or in a package of float32."""

    def cast(mb: Any, x: Any) -> Any:
        return build(mb, mb.cast(x=x, dtype="fp16", name="x_to_fp16") if half else x)

    program = mil(cast, {"x": images[0]}, opset)
    return check_overflow(program.package.path, [{"x": image} for image in images])


def entry(report: OverflowReport, value: str, operation: str | None = None) -> ValueRange:
    """Returns the range of a value, or of an inner result of its operation."""
    (found,) = (
        found
        for found in report.ranges
        if found.value == value and ("(" not in found.operation if operation is None else found.operation == operation)
    )
    return found


def weight(mb: Any, name: str, value: np.ndarray) -> Any:
    return mb.const(val=value.astype(np.float16), name=f"{name}_weight_to_fp16")


def test_what_float16_cannot_hold_is_named_with_those_that_make_and_read_it() -> None:
    def build(mb: Any, x: Any) -> Any:
        quiet = mb.linear(x=x, weight=weight(mb, "blocks_0_norm", np.eye(6)), name="quiet")
        large = mb.linear(x=quiet, weight=weight(mb, "blocks_0_fc1", 1e4 * np.eye(6)), name="large")
        small = mb.linear(x=large, weight=weight(mb, "blocks_0_fc2", 1e-4 * np.eye(6)), name="small")
        return mb.linear(x=small, weight=weight(mb, "head", np.eye(6)), name="tame")

    report = watched(build, 10 * X / np.abs(X).max(), X)
    first = report.ranges[0]
    assert (first.operation, first.value, first.module, first.dtype) == ("linear", "large", "blocks_0_fc1", "float16")
    assert first.fault == "overflow"
    assert first.magnitude == pytest.approx(1e5, rel=1e-3)  # the larger of the two images, not cut off
    assert [found.value for found in report.ranges if found.fault] == ["large"]
    assert report.keep_fp32 == ("blocks_0_fc1", "blocks_0_fc2")
    assert (report.passed, report.images, report.limit) == (False, 2, FLOAT16_MAX)


def test_what_comes_near_passes_and_is_to_be_kept() -> None:
    def build(mb: Any, x: Any) -> Any:
        return mb.linear(x=x, weight=weight(mb, "head", np.eye(6)), name="near")

    report = watched(build, np.full((1, 4, 6), FLOAT16_MAX / SAFETY * 1.1, np.float32))
    assert report.passed
    assert report.keep_fp32 == ("head",)
    assert not watched(build, np.full((1, 4, 6), FLOAT16_MAX / SAFETY * 0.9, np.float32)).keep_fp32


def test_a_package_without_float16_is_told_what_would_happen() -> None:
    def build(mb: Any, x: Any) -> Any:
        scale = mb.const(val=1e5 * np.eye(6, dtype=np.float32), name="head_weight")
        return mb.linear(x=x, weight=scale, name="large")

    report = watched(build, X, half=False)
    assert {(found.operation, found.value, found.fault) for found in report.ranges} == {
        ("linear", "large", "overflow"),
        ("const", "head_weight", "overflow"),
    }
    assert report.keep_fp32 == ("head",)
    assert report.passed


def test_what_is_kept_in_float32_beside_float16_is_no_fault() -> None:
    def build(mb: Any, x: Any) -> Any:
        large = mb.mul(x=mb.cast(x=mb.relu(x=x), dtype="fp32"), y=np.float32(1e6), name="large")
        return mb.mul(x=large, y=np.float32(1e-6), name="small")

    report = watched(build, X)
    assert entry(report, "large").magnitude > FLOAT16_MAX
    assert entry(report, "large").fault == ""
    assert (report.passed, report.keep_fp32) == (True, ())


def test_a_cast_that_overflows_is_mended_by_its_readers() -> None:
    def build(mb: Any, x: Any) -> Any:
        large = mb.mul(x=mb.cast(x=x, dtype="fp32"), y=np.float32(1e6))
        back = mb.cast(x=large, dtype="fp16", name="large_to_fp16")
        return mb.linear(x=back, weight=weight(mb, "head", 1e-4 * np.eye(6)))

    report = watched(build, X)
    assert entry(report, "large_to_fp16").fault == "overflow"
    assert report.keep_fp32 == ("head",)


@pytest.mark.parametrize(
    ("culprit", "fault"),
    [
        (lambda mb, x: mb.log(x=x, name="culprit"), "NaN"),
        (lambda mb, x: mb.real_div(x=x, y=mb.sub(x=x, y=x), name="culprit"), "infinite"),
    ],
)
def test_the_first_that_is_not_finite_is_the_culprit_and_the_rest_follow(culprit: Build, fault: str) -> None:
    def build(mb: Any, x: Any) -> Any:
        wrong = culprit(mb, x)
        return mb.softmax(x=mb.sub(x=wrong, y=wrong, name="follows"), name="follower")

    report = watched(build, X)
    assert [(found.value, found.fault, found.magnitude) for found in report.ranges if found.fault] == [
        ("culprit", fault, None)
    ]
    assert report.ranges[0].value == "culprit"
    assert (entry(report, "follower").magnitude, entry(report, "follower").fault) == (None, "")
    assert not report.passed


def test_an_image_after_a_bad_one_is_looked_at_afresh() -> None:
    report = watched(lambda mb, x: mb.sqrt(x=mb.log(x=x, name="first"), name="second"), X, np.abs(X).clip(0.1, 0.9))
    assert {found.value for found in report.ranges if found.fault} == {"first", "second"}


def masked(mb: Any, x: Any, switched_off: int) -> Any:
    mask = np.zeros((4, 6), np.float16)
    mask[:, 6 - switched_off :] = -np.inf
    return mb.softmax(x=mb.add(x=x, y=mb.const(val=mask, name="mask"), name="scores"), axis=-1, name="weights")


def test_infinity_that_switches_attention_off_is_meant() -> None:
    report = watched(lambda mb, x: masked(mb, x, 2), X)
    assert (entry(report, "scores").magnitude, entry(report, "scores").fault) == (None, "")
    assert report.passed
    report = watched(lambda mb, x: masked(mb, x, 6), X)
    assert [(found.value, found.fault) for found in report.ranges if found.fault] == [("weights", "NaN")]


@pytest.mark.parametrize(("value", "fault"), [(np.inf, "infinite"), (-np.inf, "infinite"), (np.nan, "NaN")])
def test_a_weight_that_is_not_finite_is_named(value: float, fault: str) -> None:
    matrix = np.eye(6)
    matrix[2, 3] = value
    report = watched(lambda mb, x: mb.linear(x=x, weight=weight(mb, "blocks_1_fc1", matrix), name="linear"), X)
    (found,) = (entry for entry in report.ranges if entry.fault)
    assert (found.operation, found.module, found.fault) == ("const", "blocks_1_fc1", fault)
    assert not report.passed


def test_bounds_may_be_infinite() -> None:
    report = watched(lambda mb, x: mb.clip(x=x, alpha=np.float16(0), beta=np.float16(np.inf)), X)
    assert report.passed
    report = watched(lambda mb, x: mb.clip(x=x, alpha=0.0, beta=3.4e38), X, half=False)
    assert not report.keep_fp32


def deviations(x: np.ndarray, axes: Any) -> np.ndarray:
    return ((x - x.mean(axes, keepdims=True)) ** 2).sum(axes)


PLANES = GENERATOR.normal(size=(1, 2, 3, 5)).astype(np.float32)

INSIDE: Mapping[str, tuple[Build, np.ndarray, Callable[[np.ndarray], Any]]] = {
    "layer_norm (sum of squares)": (
        lambda mb, x: mb.layer_norm(x=x, axes=[-1], name="y"), X, lambda x: deviations(x, -1)
    ),
    "instance_norm (sum of squares)": (
        lambda mb, x: mb.instance_norm(x=x, name="y"), PLANES, lambda x: deviations(x, (2, 3))
    ),
    "reduce_l2_norm (sum of squares)": (
        lambda mb, x: mb.reduce_l2_norm(x=x, axes=[1], name="y"), X, lambda x: (x**2).sum(1)
    ),
    "reduce_mean (sum)": (lambda mb, x: mb.reduce_mean(x=x, axes=[-1], name="y"), X, lambda x: np.abs(x).sum(-1)),
    "reduce_sum (sum of magnitudes)": (
        lambda mb, x: mb.reduce_sum(x=x, axes=[1, 2], name="y"), X, lambda x: np.abs(x).sum((1, 2))
    ),
    "gelu (cube)": (
        lambda mb, x: mb.gelu(x=x, mode="TANH_APPROXIMATION", name="y"), X, lambda x: np.abs(x).max() ** 3
    ),
    "scaled_dot_product_attention (scores)": (
        lambda mb, x: mb.scaled_dot_product_attention(query=x, key=mb.relu(x=x), value=x, name="y"), X,
        lambda x: x @ np.maximum(x, 0).swapaxes(1, 2) / np.sqrt(6),
    ),
}  # fmt: skip
"""Inner results of operations, each with its definition in NumPy."""


@pytest.mark.parametrize("kind", INSIDE)
def test_what_an_operation_computes_on_the_way_counts(kind: str) -> None:
    build, x, expected = INSIDE[kind]
    report = watched(build, x, opset="iOS18")
    found = entry(report, "y", kind)
    # The image arrives in float16, but the watch does not round.
    assert found.magnitude == pytest.approx(float(np.abs(expected(x)).max()), rel=1e-4)
    scaled = x * np.float32((2 * FLOAT16_MAX / np.abs(expected(x)).max()) ** 0.5)
    if "sum of squares" in kind:
        report = watched(build, scaled, opset="iOS18")
        assert entry(report, "y", kind).fault == "overflow"
        assert entry(report, "y").fault == ""
        assert not report.passed


def test_images_that_do_not_fit_are_refused() -> None:
    program = mil(lambda mb, x: mb.relu(x=x), {"x": X})
    with pytest.raises(BadRecipe, match="takes x, not image"):
        check_overflow(program.package.path, [{"image": X}])


@pytest.mark.parametrize(("space", "channel"), [(20, 0), (30, 2)])
def test_an_image_comes_in_the_channels_that_the_package_wants(space: int, channel: int) -> None:
    def build(mb: Any, x: Any) -> Any:
        return mb.slice_by_index(x=x, begin=[0, 0, 0, 0], end=[1, 1, 2, 2], name="first")

    pixels = np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2)
    package = mil(build, {"x": pixels.astype(np.float32)}).package
    image = package.model.description.input[0].type.imageType  # replaces the array
    image.width, image.height, image.colorSpace = 2, 2, space
    (package.path / MODEL).write_bytes(package.model.SerializeToString())
    (found,) = check_overflow(package.path, [{"x": pixels}]).ranges
    assert found.magnitude == pixels[0, channel].max()
