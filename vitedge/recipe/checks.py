# SPDX-License-Identifier: Apache-2.0
"""Checks of numbers in recipes; each refusal names the option and its range."""

from __future__ import annotations

import math

from vitedge.errors import BadRecipe
from vitedge.records import Tolerance


def check_whole(name: str, value: int | None, least: int) -> None:
    """Refuses a count that is no whole number, or too small; None is what was not said.

    Raises:
        BadRecipe: names the option and the smallest number that it takes.
    """
    if value is not None and not is_whole(value, least):
        raise BadRecipe(f"{name} is a whole number from {least} up; got {value}.")


def check_finite(name: str, value: float | None, least: float = -math.inf, most: float = math.inf) -> None:
    """Refuses NaN, infinity and a number outside a range; None is what was not said.

    Raises:
        BadRecipe: names the option and its range.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None or (is_number and math.isfinite(value) and least <= value <= most):
        return
    ends = f" from {least:g} to {most:g}" if math.isfinite(most) else f" from {least:g} up"
    raise BadRecipe(f"{name} is a finite number{ends if math.isfinite(least) else ''}; got {value}.")


def check_image_count(purpose: str, count: int) -> None:
    """Refuses fewer than two images for ``Parity`` or ``Calibration``.

    Raises:
        BadRecipe: says why one is not enough.
    """
    check_whole("--image-count", count, 0)
    if count < 2:
        raise BadRecipe(
            f"{purpose} needs at least 2 images, and --image-count is {count}: with fewer, nothing shows that the "
            "output depends on the image."
        )


def check_image_size(size: tuple[int, int] | None) -> None:
    """Refuses a height or width below one pixel; None is the checkpoint's own.

    Raises:
        BadRecipe: names the option.
    """
    if size is not None and not (len(size) == 2 and all(is_whole(edge, 1) for edge in size)):
        raise BadRecipe(f"--image-size is a height and a width of at least one pixel; got {size}.")


def check_tolerance(tolerance: Tolerance | None, *, features: bool = False) -> None:
    """Refuses limits that are no numbers, that no comparison could exceed, or that leave nothing checked.

    Args:
        tolerance: of parity; None is the default one.
        features: whether tokens and pooled features are compared, which have no top-1.

    Raises:
        BadRecipe: names the option and its range.
    """
    if tolerance is None:
        return
    check_finite("--max-error (relative_error)", tolerance.relative_error, 0)
    check_finite("--min-sqnr (centred_sqnr_db), in dB,", tolerance.centred_sqnr_db)
    check_finite("--min-agreement (agreement), a share of the images such as 0.99,", tolerance.agreement, 0, 1)
    if tolerance == Tolerance():
        raise BadRecipe("A tolerance without a limit checks nothing: give --max-error, --min-sqnr or both.")
    if features and tolerance.relative_error is None and tolerance.centred_sqnr_db is None:
        raise BadRecipe("Features have no top-1, so --min-agreement checks nothing: add --max-error or --min-sqnr.")


def is_whole(value: object, least: int) -> bool:
    """Returns whether a value is a whole number that is not too small; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
