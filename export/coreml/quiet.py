# SPDX-License-Identifier: Apache-2.0
"""The one place that imports coremltools, without the notices and progress bars it puts on stderr."""

from __future__ import annotations

import contextlib
import io
import logging
import platform
import warnings
from collections.abc import Iterator
from typing import Any

from vitedge.errors import MissingBackend

INSTALL = "pip install 'coremltools>=9.0' 'numpy<2.4'"
_LOGGER = "coremltools"


def load_coremltools() -> Any:
    """Returns the package.

    Raises:
        MissingBackend: it is not installed or does not run here.
    """
    if platform.system() == "Windows":
        raise MissingBackend("Core ML packages cannot be made on Windows: run the same command on Linux or macOS.")
    try:
        with quiet():
            import coremltools  # noqa: PLC0415  (its notices have to be kept from stderr while it is imported)

            return coremltools
    except ImportError as error:
        raise MissingBackend(f"Core ML needs coremltools, which cannot be imported ({error}): {INSTALL}.") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps coremltools from writing to stderr or warning, and leaves logging and warnings as they were.

    It reports an untested PyTorch at every import, its macOS-only parts on Linux, and its progress by tqdm; what goes
    wrong still arrives as an exception.
    """
    logger = logging.getLogger(_LOGGER)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
