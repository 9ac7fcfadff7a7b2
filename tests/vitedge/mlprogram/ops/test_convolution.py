# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from tests.vitedge.mlprogram.mil import executed
from vitedge.errors import UnreadableArtifact
from vitedge.mlprogram.ops import convolution as ops

# coremltools infers no values here: the operations are stated below as sums over indices.


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def padding(pad_type, pad, edges, extent, strides):
    """Before and after each edge, as MIL's documentation of the padding says."""
    if pad_type == "valid":
        return [(0, 0)] * len(edges)
    if pad_type == "custom":
        return list(zip(pad[::2], pad[1::2], strict=True))
    found = []
    for edge, size, stride in zip(edges, extent, strides, strict=True):
        total = max(0, (-(-edge // stride) - 1) * stride + size - edge)
        small, large = total // 2, total - total // 2
        found.append((small, large) if pad_type == "same" else (large, small))
    return found


def stated_conv(x, weight, bias=None, *, strides=None, pad_type="valid", pad=None, dilations=None, groups=1):
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    extent = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    pads = padding(pad_type, pad, x.shape[2:], extent, strides)
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    edges = [(edge - size) // stride + 1 for edge, size, stride in zip(x.shape[2:], extent, strides, strict=True)]
    found = np.zeros((x.shape[0], weight.shape[0], *edges))
    inside, outside = x.shape[1] // groups, weight.shape[0] // groups
    for out in range(weight.shape[0]):
        channels = x[:, out // outside * inside : (out // outside + 1) * inside]
        for place in np.ndindex(*edges):
            for tap in np.ndindex(*weight.shape[2:]):
                at = tuple(p * s + t * d for p, s, t, d in zip(place, strides, tap, dilations, strict=True))
                found[(slice(None), out, *place)] += channels[(..., *at)] @ weight[(out, slice(None), *tap)]
    return found if bias is None else found + bias.reshape(-1, *(1,) * rank)


CONVOLUTIONS = {
    "a vector": ((2, 3, 7), (4, 3, 3), {}),
    "a patch embedding": ((2, 3, 8, 8), (5, 3, 4, 4), {"strides": [4, 4]}),
    "a volume": ((1, 2, 4, 5, 3), (3, 2, 2, 3, 1), {"strides": [1, 2, 1]}),
    "depthwise": ((2, 4, 6, 6), (4, 1, 3, 3), {"pad_type": "same", "groups": 4}),
    "two groups": ((1, 4, 5, 5), (6, 2, 3, 3), {"groups": 2, "pad_type": "custom", "pad": [1, 1, 1, 1]}),
    "same with an odd rest": ((1, 2, 6, 7), (3, 2, 3, 4), {"pad_type": "same", "strides": [2, 3]}),
    "same_lower with an odd rest": ((1, 2, 6, 7), (3, 2, 3, 4), {"pad_type": "same_lower", "strides": [2, 3]}),
    "same of windows that do not touch": ((1, 1, 7, 7), (1, 1, 1, 2), {"pad_type": "same", "strides": [3, 4]}),
    "another padding before than after": ((1, 2, 5, 6), (3, 2, 3, 3), {"pad_type": "custom", "pad": [0, 2, 1, 0]}),
    "dilated": ((1, 2, 9, 8), (3, 2, 3, 2), {"dilations": [2, 3], "strides": [2, 1]}),
    "dilated and same": ((1, 2, 9, 8), (3, 2, 3, 2), {"dilations": [2, 3], "pad_type": "same"}),
    "a vector, same_lower": ((1, 2, 6), (3, 2, 4), {"pad_type": "same_lower"}),
    "a volume, custom": ((1, 1, 3, 3, 3), (2, 1, 2, 2, 2), {"pad_type": "custom", "pad": [1, 0, 0, 1, 1, 1]}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv(case):
    shape, kernel, settings = CONVOLUTIONS[case]
    x, weight, bias = random(*shape), random(*kernel, seed=1), random(kernel[0], seed=2)
    offset = bias if len(case) % 2 else None
    given = {} if offset is None else {"bias": offset}

    def build(mb, x):
        return mb.conv(x=x, weight=weight, **given, **settings)

    np.testing.assert_allclose(
        executed(build, {"x": x}), stated_conv(x, weight, offset, **settings), rtol=1e-5, atol=1e-5
    )


def test_conv_takes_filters_of_another_type_and_filters_that_are_computed():
    x, weight = random(1, 2, 5, 5), random(3, 2, 3, 3, seed=1)
    half = weight.astype(np.float16)

    def build(mb, x, weight):
        return mb.conv(x=x, weight=weight), mb.conv(x=x, weight=half, bias=np.ones(3, np.float16))

    computed, narrow = executed(build, {"x": x, "weight": weight}, "iOS17")
    np.testing.assert_allclose(computed, stated_conv(x, weight), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(narrow, stated_conv(x, half, np.ones(3)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("scale", "offset"), [(0.5, -3.0), ([0.5, 2.0, 1.0], [0.0, 1.0, -1.0])])
def test_conv_quantized(scale, offset):
    x, weight = random(1, 2, 5, 5), np.random.default_rng(1).integers(0, 255, (3, 2, 3, 3)).astype(np.uint8)
    scale, offset = np.array(scale, np.float32), np.array(offset, np.float32)
    found = ops.conv_quantized(
        *map(torch.from_numpy, (x, weight)), torch.from_numpy(scale), torch.from_numpy(offset), "linear", nbits=8
    )
    filters = weight * scale.reshape(-1, 1, 1, 1) + offset.reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(found, stated_conv(x, filters), rtol=1e-5, atol=1e-2)
    with pytest.raises(UnreadableArtifact, match="'lut'"):
        ops.conv_quantized(*map(torch.from_numpy, (x, weight, scale, offset)), "lut")


def stated_transpose(x, weight, bias=None, strides=None, dilations=None, groups=1, **kept):
    """Every number of ``x`` spreads a filter over the result; then the padding is cut off."""
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    extent = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    full = [(edge - 1) * stride + size for edge, stride, size in zip(x.shape[2:], strides, extent, strict=True)]
    found = np.zeros((x.shape[0], weight.shape[1] * groups, *[2 * size + 4 for size in full]))
    inside, outside = x.shape[1] // groups, weight.shape[1]
    for channel, place, tap in itertools.product(
        range(x.shape[1]), np.ndindex(*x.shape[2:]), np.ndindex(*weight.shape[2:])
    ):
        at = tuple(p * s + t * d for p, s, t, d in zip(place, strides, tap, dilations, strict=True))
        group = channel // inside
        spread = np.outer(x[(slice(None), channel, *place)], weight[(channel, slice(None), *tap)])
        found[(slice(None), slice(group * outside, (group + 1) * outside), *at)] += spread
    found = found[(..., *kept_part(x.shape, full, extent, strides, **kept))]
    return found if bias is None else found + bias.reshape(-1, *(1,) * rank)


def kept_part(shape, full, extent, strides, *, pad_type="valid", pad=None, output_shape=None):
    if pad_type == "same":
        edges = output_shape[2:] if output_shape else [e * s for e, s in zip(shape[2:], strides, strict=True)]
        before = [first for first, _ in padding("same", None, edges, extent, strides)]
    else:
        pads = padding(pad_type, pad, shape[2:], extent, strides)
        before = [first for first, _ in pads]
        edges = output_shape[2:] if output_shape else [e - sum(cut) for e, cut in zip(full, pads, strict=True)]
    return tuple(slice(first, first + edge) for first, edge in zip(before, edges, strict=True))


TRANSPOSES = {
    "a vector": ((2, 3, 4), (3, 2, 3), {"strides": [2]}),
    "an image": ((1, 2, 3, 4), (2, 3, 2, 3), {}),
    "a volume": ((1, 2, 2, 3, 2), (2, 1, 2, 2, 1), {"strides": [1, 2, 2]}),
    "grouped": ((1, 4, 3, 3), (4, 2, 2, 2), {"groups": 2, "strides": [2, 2]}),
    "custom": ((1, 2, 4, 4), (2, 3, 3, 3), {"pad_type": "custom", "pad": [1, 0, 1, 2], "strides": [2, 2]}),
    "dilated": ((1, 2, 4, 4), (2, 3, 2, 3), {"dilations": [3, 2]}),
    "same": ((1, 2, 3, 4), (2, 3, 3, 4), {"pad_type": "same", "strides": [2, 2]}),
    "same of windows that do not touch": ((1, 2, 3, 3), (2, 3, 1, 2), {"pad_type": "same", "strides": [2, 3]}),
    "same of a given shape": (
        (1, 2, 3, 3),
        (2, 3, 3, 3),
        {"pad_type": "same", "strides": [2, 2], "output_shape": [1, 3, 5, 6]},
    ),
    "custom of a given shape": (
        (1, 2, 3, 3),
        (2, 3, 3, 3),
        {"pad_type": "custom", "pad": [1, 1, 1, 1], "strides": [2, 2], "output_shape": [1, 3, 6, 6]},
    ),
    "further than the windows": ((1, 1, 2), (1, 2, 2), {"strides": [2], "output_shape": [1, 2, 6]}),
}


@pytest.mark.parametrize("case", TRANSPOSES)
def test_conv_transpose(case):
    shape, kernel, settings = TRANSPOSES[case]
    x, weight = random(*shape), random(*kernel, seed=1)
    bias = random(kernel[1] * settings.get("groups", 1), seed=2) if len(case) % 2 else None
    given = {} if bias is None else {"bias": bias}

    def build(mb, x):
        return mb.conv_transpose(x=x, weight=weight, **given, **settings)

    stated = stated_transpose(x, weight, bias, **settings)
    np.testing.assert_allclose(executed(build, {"x": x}), stated, rtol=1e-5, atol=1e-5)


def windows(x, kernel_sizes, strides=None, pad_type="valid", pad=None, ceil_mode=False):
    """Every place of a window, with the indices that it covers and how many of them lie in the padded value."""
    edges = x.shape[2:]
    strides = strides or [1] * len(edges)
    pads = padding(pad_type, pad, edges, kernel_sizes, strides)
    places = []
    for edge, size, stride, (before, after) in zip(edges, kernel_sizes, strides, pads, strict=True):
        rest = edge + before + after - size
        number = (math.ceil if ceil_mode else math.floor)(rest / stride) + 1
        if ceil_mode and before and (number - 1) * stride >= edge + before:
            number -= 1
        spans = [(n * stride - before, min(n * stride - before + size, edge + after)) for n in range(number)]
        places.append([(slice(max(0, a), max(0, min(b, edge))), b - a) for a, b in spans])
    for index in itertools.product(*[range(len(entry)) for entry in places]):
        chosen = [entry[n] for entry, n in zip(places, index, strict=True)]
        yield index, (..., *[part for part, _ in chosen]), math.prod(length for _, length in chosen)


def stated_pool(kind, x, exclude_padding_from_average=False, **settings):
    found = {}
    axes = tuple(range(2, x.ndim))
    for index, covered, length in windows(x, **settings):
        part = x[covered].astype(np.float64)
        if kind == "max_pool":
            found[index] = part.max(axes)
        elif kind == "l2_pool":
            found[index] = np.sqrt((part**2).sum(axes))
        else:
            found[index] = part.sum(axes) / (part[0, 0].size if exclude_padding_from_average else length)
    shape = tuple(edge + 1 for edge in max(found))
    return np.stack([found[index] for index in np.ndindex(*shape)], axis=-1).reshape(*x.shape[:2], *shape)


POOLS = {
    "a vector": ((2, 3, 7), {"kernel_sizes": [3], "strides": [2], "pad_type": "valid"}),
    "every place": ((1, 2, 4, 5), {"kernel_sizes": [2, 3], "pad_type": "valid"}),
    "same": ((1, 2, 6, 7), {"kernel_sizes": [3, 2], "strides": [2, 2], "pad_type": "same"}),
    "same_lower": ((1, 2, 6, 7), {"kernel_sizes": [3, 2], "strides": [2, 2], "pad_type": "same_lower"}),
    "custom": ((1, 2, 5, 6), {"kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1]}),
    "one side": ((1, 2, 5, 6), {"kernel_sizes": [3, 3], "strides": [2, 1], "pad_type": "custom", "pad": [0, 2, 1, 0]}),
    "more than half": ((1, 1, 3, 3), {"kernel_sizes": [3, 2], "pad_type": "custom", "pad": [2, 2, 1, 1]}),
    "ceil": ((1, 2, 6, 7), {"kernel_sizes": [3, 2], "strides": [2, 2], "pad_type": "valid", "ceil_mode": True}),
    "ceil, padded": (
        (1, 2, 6, 7),
        {"kernel_sizes": [3, 2], "strides": [2, 3], "pad_type": "custom", "pad": [1, 1, 1, 1], "ceil_mode": True},
    ),
    "ceil of a vector": (
        (1, 1, 4),
        {"kernel_sizes": [2], "strides": [2], "pad_type": "custom", "pad": [1, 1], "ceil_mode": True},
    ),
}
VOLUMES = {
    "a volume": ((1, 2, 4, 3, 5), {"kernel_sizes": [2, 3, 2], "strides": [2, 1, 3], "pad_type": "same"}),
    "a volume, custom": (
        (1, 1, 3, 3, 3),
        {"kernel_sizes": [2, 2, 2], "pad_type": "custom", "pad": [1, 0, 0, 1, 1, 1]},
    ),
}


KINDS = ("max_pool", "avg_pool", "avg_pool without padding")
EVERY = [*itertools.product(KINDS, {**POOLS, **VOLUMES}), *(("l2_pool", case) for case in POOLS)]


@pytest.mark.parametrize(("kind", "case"), EVERY)
def test_pooling(kind, case):
    shape, settings = {**POOLS, **VOLUMES}[case]
    kind, without, _ = kind.partition(" without padding")
    settings = {**settings, "exclude_padding_from_average": True} if without else settings
    x = random(*shape)

    def build(mb, x):
        return getattr(mb, kind)(x=x, **settings)

    np.testing.assert_allclose(executed(build, {"x": x}), stated_pool(kind, x, **settings), rtol=1e-5, atol=1e-6)


ONES = {"kernel_sizes": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1]}
WRONG = [
    ("there is no such padding", {**ONES, "pad_type": "reflect"}, "no pad_type 'reflect'"),
    ("it does not fit into the value", {**ONES, "kernel_sizes": [9, 1]}, "does not fit into"),
    ("it does not move", {**ONES, "strides": [0, 1]}, "does not move by"),
    ("it has edges of its own", {**ONES, "kernel_sizes": [2]}, "does not slide over"),
    ("padding of other edges", {**ONES, "pad": [1, 1]}, "does not fit a value of 2 spatial edges"),
    ("padding that cuts off", {**ONES, "pad": [-1, 1, 1, 1]}, "does not fit a value of 2 spatial edges"),
    ("padding that takes all memory", {**ONES, "pad": [2**30, 0, 0, 0]}, "which no model has"),
]


@pytest.mark.parametrize(("settings", "said"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_window_that_makes_no_sense_is_refused(settings, said):
    tensors = {
        name: value if isinstance(value, str) else torch.tensor(value, dtype=torch.int32)
        for name, value in settings.items()
    }
    with pytest.raises(UnreadableArtifact, match=said):
        ops.max_pool(torch.zeros(1, 1, 3, 3), **tensors)


@pytest.mark.parametrize("edge", [-1, 2**30])
def test_a_shape_that_no_model_has_is_refused(edge):
    with pytest.raises(UnreadableArtifact, match="which no model has"):
        ops.conv_transpose(torch.zeros(1, 1, 3), torch.zeros(1, 1, 2), output_shape=torch.tensor([1, 1, edge * 2]))
