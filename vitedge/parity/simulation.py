# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own run of a quantized program, the numbers that every runtime has to reproduce."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from vitedge.program.execution import Execution
from vitedge.program.program import Program
from vitedge.runtimes.feeding import inputs, joined


def simulate(program: Program, images: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
    """Runs a program over images in PyTorch, a batch at a time.

    Args:
        program: at any batch.
        images: ``(images, channels, height, width)``, RGB, 0 to 255.

    Returns:
        Output name to its values for all images.
    """
    run, names = Execution(program.exported), [output.name for output in program.outputs]
    results = (run(torch.from_numpy(np.array(batch))) for batch in inputs(images, program.inputs[0], program.spec))
    named = ({name: value.numpy() for name, value in zip(names, values, strict=True)} for values in results)
    return joined(named, len(images), {name: name for name in names})  # type: ignore[return-value]
