# SPDX-License-Identifier: Apache-2.0
"""The preprocessing as explicit steps, for whoever prepares pictures without vitedge.

`vitedge.images.preprocess` does what they say; `vitedge.guide` renders the pages and programs of a bundle from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from vitedge.images.preprocess import padding, takes_pictures
from vitedge.records import ModelSpec

Step = Mapping[str, Any]

_EDGES = {"center": "short", "border": "long", "squash": "both"}
"""``Preprocessing.crop_mode`` to the edges of a picture that are resized to the height and width of a step."""


def preprocessing_steps(spec: ModelSpec, dtype: str) -> tuple[Step, ...]:
    """Returns what is done to a picture until a model takes it, in order.

    Each is a plain mapping, which a manifest keeps as it is. Its ``step`` is one of:

    - ``open``: decoded as ``mode`` (``RGB`` or ``L``, grey) with 8 bits a channel, rotated by its EXIF tag if ``exif``,
      its ``transparency`` laid over ``white`` or ``dropped``. A model of neither 1 nor 3 channels has ``array`` there:
      a uint8 array ``(height, width, channels)``, each of whose channels is resized and cropped alone.
    - ``resize``: by ``interpolation`` until the ``edge`` fits: ``both`` to ``height`` and ``width``; ``short``, the
      picture covers them; ``long``, it fits into them. ``kernel`` is ``pillow``, or ``torch``: that of PyTorch for
      uint8, whose weights have 16 bits, along the width first.
    - ``crop``: to ``height`` and ``width`` around the centre; a smaller picture is padded with ``fill``, and half of an
      odd margin is rounded by ``offset``.
    - ``pixels``: an array of uint8 ``(height, width, channels)``.
    - ``channels``: reversed to ``order``.
    - ``scale``: divided by ``divisor``, in float32.
    - ``normalize``: less ``mean``, divided by ``std``, in float32 and in this order.
    - ``layout``: to ``axes`` (``NCHW``) and ``dtype``.

    Args:
        spec: gives the image size, the number of channels, and the preprocessing.
        dtype: of the model's input: ``float32``, or ``uint8`` for a model that scales and normalizes by itself.
    """
    return tuple(_steps(spec, dtype))


def _steps(spec: ModelSpec, dtype: str) -> Iterator[Step]:
    preprocessing, (height, width) = spec.preprocessing, spec.image_size
    if takes_pictures(spec.in_channels):
        mode = "RGB" if spec.in_channels == 3 else "L"
        yield {
            "step": "open",
            "mode": mode,
            "exif": preprocessing.exif,
            "transparency": preprocessing.transparency,
        }
    else:
        yield {"step": "array", "channels": spec.in_channels}
    resized = [math.floor(side / preprocessing.crop) for side in spec.image_size]
    by_torch = preprocessing.resizer == "torch" and preprocessing.interpolation != "nearest"
    yield {
        "step": "resize",
        "edge": _EDGES[preprocessing.crop_mode],
        "height": resized[0],
        "width": resized[1],
        "interpolation": preprocessing.interpolation,
        "kernel": "torch" if by_torch else "pillow",
    }
    if preprocessing.crop_mode != "squash" or resized != [height, width]:
        offset = preprocessing.crop_offset
        yield {"step": "crop", "height": height, "width": width, "offset": offset, "fill": list(padding(spec))}
    yield {"step": "pixels", "axes": "HWC", "dtype": "uint8"}
    if dtype != "uint8":
        if preprocessing.channel_order == "bgr":
            yield {"step": "channels", "order": "bgr"}
        yield {"step": "scale", "divisor": 255}
        yield {"step": "normalize", "mean": list(preprocessing.mean), "std": list(preprocessing.std)}
    yield {"step": "layout", "axes": "NCHW", "dtype": dtype}
