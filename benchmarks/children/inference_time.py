# SPDX-License-Identifier: Apache-2.0
"""Times a model over images one by one, after one run that is not timed.

``python -m benchmarks.children.inference_time MODEL IMAGES.npy onnxruntime|openvino`` reports the seconds of all.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from benchmarks.child import report
from vitedge import registry


def measure(model: str, images: str, runtime: str) -> float:
    with registry.load(registry.RUNTIMES, runtime).Runtime(model) as loaded:
        (image,) = loaded.inputs
        pixels = np.load(images)
        loaded.run({image.name: pixels[:1]})
        start = time.perf_counter()
        for one in pixels:
            loaded.run({image.name: one[None]})
        return time.perf_counter() - start


if __name__ == "__main__":
    report({"seconds": measure(*sys.argv[1:4])})
