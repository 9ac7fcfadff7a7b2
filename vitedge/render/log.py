# SPDX-License-Identifier: Apache-2.0
"""Writes everything that happens to the file of ``--log``, with its time."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path

from vitedge.errors import OutputRefused
from vitedge.registry import environment
from vitedge.render import screen

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_PROGRESS = "vitedge.progress"
"""The logger of what is reported, and so shown anyway."""
_opened: list[logging.Handler] = []


class _Shown(logging.Handler):
    """Shows what modules of vitedge log on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != _PROGRESS:
            screen.progress(record.getMessage())


def show_log() -> None:
    """Shows from now on what modules of vitedge log."""
    handler = _Shown(logging.INFO)
    logging.getLogger("vitedge").addHandler(handler)
    logging.getLogger("vitedge").setLevel(logging.INFO)
    _opened.append(handler)


def open_log(path: Path) -> None:
    """Appends from now on what vitedge and the libraries that it uses log to a file; Python's warnings too.

    Raises:
        OutputRefused: it cannot be written.
    """
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputRefused(f"The log {path} cannot be written: {error.strerror}; name another file.") from error
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.getLogger().addHandler(handler)
    logging.getLogger("vitedge").setLevel(logging.DEBUG)
    logging.captureWarnings(capture=True)
    _opened.append(handler)
    versions = ", ".join(f"{name} {version}" for name, version in environment().items())
    logging.getLogger(__name__).debug("%s (%s)", shlex.join(["vitedge", *sys.argv[1:]]), versions)


def log_failure(sentence: str, error: BaseException | None = None) -> None:
    """Writes an error to the log; of one that is a bug also the traceback."""
    if any(isinstance(handler, logging.FileHandler) for handler in _opened):
        logging.getLogger(_PROGRESS).error("%s", sentence, exc_info=error)


def close_logs() -> None:
    """Ends what `show_log` and `open_log` began."""
    while _opened:
        handler = _opened.pop()
        for logger in (logging.getLogger(), logging.getLogger("vitedge")):
            logger.removeHandler(handler)
        handler.close()
    logging.getLogger("vitedge").setLevel(logging.NOTSET)
    logging.captureWarnings(capture=False)
