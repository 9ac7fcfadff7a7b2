# SPDX-License-Identifier: Apache-2.0
"""Arrays as JSON values, for the lines that a worker process and its parent exchange."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

_LEVEL = 1
"""Of compression: the quickest, which halves normalized photographs."""


def packed(arrays: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, dict[str, Any]]:
    """Returns arrays by name as plain JSON values, numbers in the byte order of little-endian machines."""
    return {name: _packed(np.asarray(array)) for name, array in arrays.items()}


def unpacked(values: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Returns the arrays that `packed` made values of."""
    found = {}
    for name, value in values.items():
        data = zlib.decompress(base64.b64decode(value["data"]))
        found[name] = np.frombuffer(data, np.dtype(value["dtype"])).reshape(value["shape"]).copy()
    return found


def _packed(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    dtype = array.dtype.newbyteorder("<")
    data = np.ascontiguousarray(array, dtype).tobytes()
    text = base64.b64encode(zlib.compress(data, _LEVEL)).decode()
    return {"dtype": dtype.str, "shape": list(array.shape), "data": text}
