# SPDX-License-Identifier: Apache-2.0
"""Answers what ends a command: one sentence on stderr, with ``--json`` a document on stdout, and an exit code."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Any

from vitedge.errors import VitedgeError
from vitedge.registry import backend_of
from vitedge.stopping import kept, stopped_by

READER_LEFT = 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1
"""Exit code where the reader of a pipe ended first: a shell shows the same for a tool that SIGPIPE killed."""
BUG = 1
"""Exit code of an error of ours."""
_MOVED = {"--kit": "vitedge kit write", "--import": "vitedge kit import"}
"""Options of earlier versions, to the commands that replace them."""
_UNUSABLE = (errno.ENAMETOOLONG, errno.EACCES, errno.ELOOP)
"""Errors of the system about a path that was typed, and that say all there is to say."""


@dataclass(frozen=True)
class Failure:
    """The document that a command prints with ``--json`` when it fails."""

    error: str
    """What happened, where, and what to type next, in one sentence."""
    kind: str
    """Class of the error, such as ``BadRecipe``; ``UsageError`` for a mistake on the command line, ``Stopped`` for a
    signal."""
    exit_code: int
    """1 a bug, 2 bad input, 3 a missing backend, 4 a failed check, 5 a failed device; 128 and more a signal."""


def answer(error: Exception, usage: type[Exception]) -> int | None:
    """Tells the user of an error; returns the exit code, or None for a bug, whose traceback the user should see.

    Args:
        error: what ended the command.
        usage: the type of every mistake on the command line.
    """
    kind = type(error).__name__
    if isinstance(error, BrokenPipeError):
        return READER_LEFT
    if isinstance(error, usage):
        return tell(_usage(error), 2, "UsageError")
    missing = backend_of(error) if isinstance(error, ImportError) else error
    if isinstance(missing, VitedgeError):
        return tell(str(missing), missing.exit_code, type(missing).__name__)
    sentence = _of_system(error) if isinstance(error, OSError) else ""
    if sentence:
        return tell(sentence, 2, kind)
    _document(f"{kind}: {error}", BUG, kind)
    _log(f"a bug of vitedge: {kind}: {error}", error)
    return None


def _of_system(error: OSError) -> str:
    """Returns the sentence where a path that was typed cannot be used, or stdout takes nothing more; else nothing."""
    if error.errno in _UNUSABLE and error.filename is not None:
        return f"{error.filename} cannot be used: {error.strerror}."
    if error.errno in (errno.ENOSPC, errno.EBADF) and error.filename is None:
        return f"The result cannot be written to stdout: {error.strerror}."
    return ""


def answer_exit(leaving: SystemExit) -> None:
    """Says what a signal left behind; raises another exit code where the reader of a pipe ended first."""
    stopped = stopped_by(leaving.code)
    if stopped:
        told = "".join(f" Kept: {sentence}" for sentence in kept())
        sentence = f"Stopped by {stopped} before it was done; what was there before is whole.{told}"
        tell(sentence, int(leaving.code or 0), "Stopped")
    elif isinstance(leaving.__context__, BrokenPipeError):  # typer makes 1 of it
        sys.exit(READER_LEFT)


def tell(sentence: str, code: int, kind: str) -> int:
    """Prints an error, unless the streams take nothing; returns the exit code."""
    from vitedge.render.screen import error

    _document(sentence, code, kind)
    with contextlib.suppress(OSError):
        error(sentence)
    _log(sentence)
    return code


def _document(sentence: str, code: int, kind: str) -> None:
    """Prints the error as the one JSON document of the command, where one was asked for."""
    if "--json" not in sys.argv[1:]:
        return
    from vitedge.render.screen import document, has_document

    if has_document():  # such as that of a damaged bundle
        return
    with contextlib.suppress(OSError):
        document(asdict(Failure(sentence, kind, code)))


def _log(sentence: str, error: BaseException | None = None) -> None:
    if "vitedge.render.log" in sys.modules:
        from vitedge.render.log import log_failure

        log_failure(sentence, error)


def _usage(error: Any) -> str:
    """Returns typer's message about a mistake on the command line as one sentence."""
    where = error.ctx.command_path if error.ctx else "vitedge"
    where = _MOVED.get(getattr(error, "option_name", ""), where)
    return f"{error.format_message().rstrip('.')}; see {where} --help."
