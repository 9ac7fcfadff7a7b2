# SPDX-License-Identifier: Apache-2.0
"""Rounds every weight up or down, learned jointly from the layer's output error (AdaRound, arXiv:2004.10568).

``ŵ = s clip(floor(w / s) + h(v))`` with the rectified sigmoid ``h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1)``; the
regularizer ``λ Σ 1 - |2 h - 1|^β`` drives every ``h`` to 0 or 1 as β falls (section 3.2 there). The output
error and its gradient come from the second moments, so that every step sees all rows and nothing is drawn at random.
Weights that are zero stay zero, so that a sparse weight keeps its pattern.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vitedge.calibration.moments import InputStatistics
from vitedge.quantization.weights.parameters import WeightSettings, per_element
from vitedge.quantization.weights.rounding import BestRounding, RoundedWeight, in_groups, round_to_nearest
from vitedge.quantization.weights.scales import fit_scales

STRETCH, SHIFT = 1.2, -0.1
"""Factor and offset of the sigmoid, with which it reaches 0 and 1."""
RATE = 0.05
"""Learning rate."""
WEIGHT = 0.1
"""λ, for an output error that is 1 for the nearest integers of a channel."""
WARM = 0.2
"""Share of the steps without the regularizer."""
SHARP = (20.0, 2.0)
"""β after that, at the first and at the last step."""


def round_weight(weight: Tensor, settings: WeightSettings, inputs: InputStatistics, steps: int = 300) -> RoundedWeight:
    """Rounds a weight.

    Args:
        weight: ``(channels, elements)`` or ``(channels, channels in / groups, height, width)``, float32.
        settings: of the quantization parameters; scales are those of rounding to nearest, and fitted to the integers
            at the end if ``settings.search``.
        inputs: statistics of the layer's input; ``inputs.centred()`` where the bias is corrected afterwards.
        steps: number of steps of Adam.

    Returns:
        The rounded weight. No channel has a larger output error than it has rounded to nearest.
    """
    nearest = round_to_nearest(weight, settings, inputs)
    qparams, hessian = nearest.qparams, inputs.damped()
    target = inputs.ideal_weight(in_groups(weight, inputs))
    free = (in_groups(weight, inputs) != 0).to(torch.float32)
    integers = _Descent.of(target * free, nearest, hessian, free).run(steps).to(qparams.storage)
    best = BestRounding(weight, inputs, nearest)
    best.consider(RoundedWeight(integers.reshape(weight.shape), qparams, "adaround"))
    if settings.search:
        fitted = fit_scales(integers, qparams, target, hessian)
        best.consider(RoundedWeight(integers.reshape(weight.shape), fitted, "adaround"))
    return best.result()


@dataclass(frozen=True)
class _Descent:
    """The optimization of one layer; all tensors but the Hessian are ``(groups, channels, elements)``, float32."""

    target: Tensor
    """The weight to approximate."""
    floor: Tensor
    """``floor(w / s)`` with the zero point."""
    scale: Tensor
    zero_point: Tensor
    hessian: Tensor
    """``(groups, elements, elements)``, float32."""
    unit: Tensor
    """Output error of each channel's nearest integers, by which errors are divided: ``(groups, channels, 1)``."""
    free: Tensor
    """1 where the weight may be rounded up, 0 where it is zero and stays so."""
    ends: tuple[int, int]
    """The smallest and the largest integer."""

    @classmethod
    def of(cls, target: Tensor, nearest: RoundedWeight, hessian: Tensor, free: Tensor) -> _Descent:
        matrix = target.to(torch.float32)
        scale, zero_point = (p.reshape(matrix.shape) for p in per_element(nearest.qparams, matrix.flatten(0, 1)))
        off = nearest.weight().reshape(matrix.shape).to(torch.float64) - target
        error = (off @ hessian * off).sum(dim=2, keepdim=True)
        unit = torch.where(error > 0, error, torch.ones_like(error)).to(torch.float32)
        floor = torch.floor(matrix / scale) + zero_point
        return cls(matrix, floor, scale, zero_point, hessian.to(torch.float32), unit, free, nearest.qparams.ends)

    def run(self, steps: int) -> Tensor:
        """Returns the integers after a number of steps of Adam, float32."""
        fraction = (self.target / self.scale + self.zero_point - self.floor).clamp(0.001, 0.999)
        with torch.enable_grad():
            values = torch.logit((fraction - SHIFT) / STRETCH).requires_grad_()
            optimizer = torch.optim.Adam([values], lr=RATE)
            for step in range(steps):
                optimizer.zero_grad()
                up = _rectified_sigmoid(values) * self.free
                loss = self._output_error(up)
                sharpness = _sharpness(step, steps)
                if sharpness is not None:
                    loss = loss + WEIGHT * (1 - (2 * up - 1).abs().pow(sharpness)).sum()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return (self.floor + (_rectified_sigmoid(values.detach()) * self.free >= 0.5)).clamp(*self.ends)

    def _output_error(self, up: Tensor) -> Tensor:
        change = ((self.floor + up).clamp(*self.ends) - self.zero_point) * self.scale - self.target
        # The value does not matter to Adam, and the gradient of dᵀ H d is 2 H d: one product a step, not two.
        return (2 * (change.detach() @ self.hessian) / self.unit * change).sum()


def _rectified_sigmoid(values: Tensor) -> Tensor:
    return (torch.sigmoid(values) * STRETCH + SHIFT).clamp(0, 1)


def _sharpness(step: int, steps: int) -> float | None:
    """Returns β of a step, from `SHARP`'s first to its last along a cosine; None while there is no regularizer."""
    progress = (step - WARM * steps) / (steps * (1 - WARM))
    if progress < 0:
        return None
    return SHARP[1] + 0.5 * (SHARP[0] - SHARP[1]) * (1 + math.cos(math.pi * progress))
