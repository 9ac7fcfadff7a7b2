# SPDX-License-Identifier: Apache-2.0
"""Parity metrics of an artifact's outputs against the reference's, and the tolerances that they are checked with.

NumPy only: a sealed bundle is validated where PyTorch is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vitedge.records import OutputParity, Tolerance

Array = npt.NDArray[np.float64]

SMALLEST_SIGNAL = 1e-30
"""Smallest largest magnitude of a reference; below it is noise, as half-initialized models end up near 1e-41."""
SMALLEST_CENTRED_SHARE = 1e-6
"""Root mean square of the image-dependent part over the largest magnitude; below it float32 cannot resolve the part."""
TIE = 1e-6
"""Scores of one image nearer than this, relative to its largest magnitude, are a tie that float32 cannot decide."""

_DEGENERATE = "the reference is degenerate ({})"


def default_tolerance(precision: str, family: str) -> Tolerance:
    """Returns the default tolerance; that of fp32 is tight enough to catch a tanh GELU in place of the exact one."""
    if precision == "fp32":
        return Tolerance(relative_error=1e-4 if family == "mobilevitv2" else 2e-5, agreement=1.0)
    if precision == "fp16":
        return Tolerance(centred_sqnr_db=40.0)
    return Tolerance(centred_sqnr_db=20.0)


def compare(
    reference: Mapping[str, npt.NDArray[np.generic]],
    candidate: Mapping[str, npt.NDArray[np.generic]],
    scores: str | None = "logits",
) -> tuple[OutputParity, ...]:
    """Compares every output of the reference with the candidate's of the same name.

    Args:
        reference: output name to values, ``(images, …)``.
        candidate: the same names and shapes.
        scores: the output that holds class scores ``(images, classes)``, for agreement and divergence.
    """
    return tuple(
        _compare_output(name, expected.astype(np.float64), candidate.get(name), is_scores=name == scores)
        for name, expected in reference.items()
    )


def exceeded(outputs: tuple[OutputParity, ...], tolerance: Tolerance) -> str:
    """Returns how the outputs exceed the tolerance, or the empty string.

    Missing outputs, NaN and infinity never pass, whatever the tolerance, and neither does a degenerate reference, nor
    outputs of which a tolerance of agreement alone checks nothing.
    """
    reasons = (_exceeded_by(parity, tolerance) for parity in outputs)
    return next(filter(None, reasons), "") or _unchecked(outputs, tolerance)


def _exceeded_by(parity: OutputParity, tolerance: Tolerance) -> str:
    """Returns how one output exceeds the tolerance, or the empty string."""
    if parity.degenerate:
        return f"{parity.output} cannot be checked: {_DEGENERATE.format(parity.degenerate)}"
    if not np.isfinite(parity.relative_error):
        return f"{parity.output} is missing, has another shape, or holds NaN or infinity"
    if tolerance.relative_error is not None and not parity.relative_error <= tolerance.relative_error:
        found = f"{parity.relative_error:.2g} relative"
        return f"{parity.output} is off by {found}; the tolerance is {tolerance.relative_error:g}"
    if tolerance.centred_sqnr_db is not None and not parity.centred_sqnr_db >= tolerance.centred_sqnr_db:
        found = f"{parity.centred_sqnr_db:.2f} dB centred SQNR"
        return f"{parity.output} has {found}; the tolerance is {tolerance.centred_sqnr_db:g} dB"
    if tolerance.agreement is not None and parity.agreement is not None and not parity.agreement >= tolerance.agreement:
        found = f"{parity.agreement:.1%} of the images"
        return f"{parity.output} agrees on {found}; the tolerance is {tolerance.agreement:.1%}"
    return ""


def _unchecked(outputs: tuple[OutputParity, ...], tolerance: Tolerance) -> str:
    """Returns that a tolerance of agreement alone checks none of the outputs, or the empty string."""
    others = (tolerance.relative_error, tolerance.centred_sqnr_db)
    if tolerance.agreement is None or others != (None, None) or any(one.agreement is not None for one in outputs):
        return ""
    named = ", ".join(one.output for one in outputs)
    return f"{named} cannot be checked: there is no top-1, and the tolerance is of agreement alone"


def degeneracy(outputs: Mapping[str, npt.NDArray[Any]]) -> str:
    """Returns why nothing can be compared with a reference's outputs, as one phrase, or the empty string.

    Args:
        outputs: output name to values, ``(images, …)``.
    """
    for name, values in outputs.items():
        expected = values.astype(np.float64)
        with np.errstate(all="ignore"):
            reason = _degeneracy(expected, expected - expected.mean(axis=0, keepdims=True))
        if reason:
            return f"{name} cannot be checked: {_DEGENERATE.format(reason)}"
    return ""


def agrees(reference: npt.NDArray[Any], scores: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Returns for each image, ``(images,)``, whether its top-1 class is the reference's.

    Where the reference itself has a tie, either class counts: the top-1 class has to have a reference score within
    `TIE` of the best, relative to the largest magnitude among the reference's scores of that image. It is that image's
    own because the rounding error of float32 grows with the values that it rounds: large scores of other images make a
    clear decision on this one no less clear, and the answer must not depend on which images share a batch. Scores with
    NaN or infinity, on either side, agree with nothing.

    Args:
        reference: class scores, ``(images, classes)``.
        scores: the same shape; a tie of these is decided as ``argmax`` does, for the first class.
    """
    expected = reference.astype(np.float64)
    chosen = np.take_along_axis(expected, scores.argmax(axis=1)[:, None], axis=1)[:, 0]
    with np.errstate(invalid="ignore"):
        within: npt.NDArray[np.bool_] = chosen >= expected.max(axis=1) - TIE * np.abs(expected).max(axis=1)
    return within & finite(reference) & finite(scores)


def finite(scores: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Returns for each image, ``(images,)``, whether its scores ``(images, classes)`` hold neither NaN nor infinity."""
    found: npt.NDArray[np.bool_] = np.isfinite(scores).all(axis=1)
    return found


def _compare_output(
    name: str, expected: Array, values: npt.NDArray[np.generic] | None, *, is_scores: bool
) -> OutputParity:
    if values is None or values.shape != expected.shape:
        nan = float("nan")
        return OutputParity(name, nan, nan, nan, nan, None, None)
    found = values.astype(np.float64)
    # A single class is the top-1 of everything, and so is each of several that always have the same score.
    is_scores = is_scores and expected.ndim == 2 and bool(_decides(expected).any())
    with np.errstate(all="ignore"):
        error = found - expected
        centred = expected - expected.mean(axis=0, keepdims=True)
        return OutputParity(
            output=name,
            relative_error=float(np.abs(error).max() / np.abs(expected).max()),
            sqnr_db=_ratio_db(expected, error),
            centred_sqnr_db=_ratio_db(centred, error),
            cosine=float(np.sum(expected * found) / np.sqrt(np.sum(expected**2) * np.sum(found**2))),
            agreement=float(np.mean(agrees(expected, found))) if is_scores else None,
            kl=_divergence(expected, found) if is_scores else None,
            degenerate=_degeneracy(expected, centred),
        )


def _decides(scores: Array) -> npt.NDArray[np.bool_]:
    """Returns for each image, ``(images,)``, whether some class is told from the best by more than a tie.

    Scores with NaN or infinity count as telling: they are faults, which are reported as such.
    """
    with np.errstate(invalid="ignore"):
        tied: npt.NDArray[np.bool_] = scores.min(axis=1) >= scores.max(axis=1) - TIE * np.abs(scores).max(axis=1)
    return ~tied


def _ratio_db(signal: Array, noise: Array) -> float:
    """Returns 10 log10 of the power ratio; infinite for no noise, NaN where either holds a NaN."""
    noise_power = float(np.sum(noise**2))
    if noise_power == 0.0:
        return float("inf")
    return float(10 * np.log10(np.sum(signal**2) / noise_power))


def _divergence(expected: Array, found: Array) -> float:
    """Returns the mean over the images of KL(softmax(expected) || softmax(found)) in nats."""
    log_p, log_q = _log_softmax(expected), _log_softmax(found)
    return float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _degeneracy(expected: Array, centred: Array) -> str:
    """Returns why nothing can be compared with a reference, or the empty string."""
    if not np.isfinite(expected).all():
        return "it holds NaN or infinity"
    largest = float(np.abs(expected).max())
    if largest < SMALLEST_SIGNAL:
        return f"it is zero: no value is above {SMALLEST_SIGNAL:g}"
    if len(expected) < 2:
        return "one image cannot show that the output depends on the image"
    if float(np.sqrt(np.mean(centred**2))) < SMALLEST_CENTRED_SHARE * largest:
        return "it is the same for every image"
    return ""
