# SPDX-License-Identifier: Apache-2.0
"""The messages of TensorRT, which says in its log alone why it refused something."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

Log = Callable[[str, str], None]
"""Takes the severity of a message, such as ``ERROR``, and its text."""

_ERRORS = ("ERROR", "INTERNAL_ERROR")
_NO_DRIVER = "cudaError 35"
"""Without a driver, every refusal of TensorRT for RTX 1.7 is followed by this one, which hides the reason."""


def logger(trt: ModuleType, log: Log) -> Any:
    """Returns a logger of TensorRT that hands on every message.

    Args:
        trt: the package ``tensorrt`` or ``tensorrt_rtx``.
        log: called with every message, of any severity.
    """

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()  # pybind11 refuses an object whose base was not initialized

        def log(self, severity: Any, text: str) -> None:
            log(severity.name, text)

    return Logger()


def reason(messages: Iterable[tuple[str, str]]) -> str:
    """Returns the first error of a log as a phrase, without the places in the library's sources.

    Args:
        messages: severity and text of each.

    Returns:
        The phrase, or ``it gives no reason``.
    """
    errors = [text for severity, text in messages if severity in _ERRORS]
    first = next((text for text in errors if _NO_DRIVER not in text), errors[0] if errors else "it gives no reason")
    text = re.sub(r"\s*\bIn \S+ at \S+?:\d+(?=[\s)]|$)", "", first).rpartition("Error Code ")[2]
    return " ".join(re.sub(r"^\d+: ", "", text).split()).rstrip(".")
