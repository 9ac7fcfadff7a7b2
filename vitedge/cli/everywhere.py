# SPDX-License-Identifier: Apache-2.0
"""Options that every command has, before its name or after it: how much is said, and a log."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say also how long each stage took, and more.")]
Log = Annotated[
    Path | None, typer.Option("--log", metavar="FILE", help="Append all that happens, with its time, to a file.")
]
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_OPTIONS = (
    inspect.Parameter("context", _KEYWORD, annotation=typer.Context),
    inspect.Parameter("quiet", _KEYWORD, default=False, annotation=Quiet),
    inspect.Parameter("verbose", _KEYWORD, default=False, annotation=Verbose),
    inspect.Parameter("log", _KEYWORD, default=None, annotation=Log),
)


def remember(context: typer.Context, *, quiet: Quiet = False, verbose: Verbose = False, log: Log = None) -> None:
    """Keeps what stands before the name of a command, for `everywhere`."""
    given = context.ensure_object(dict)
    given.update({name: value for name, value in (("quiet", quiet), ("verbose", verbose), ("log", log)) if value})


def everywhere(command: Callable[..., None]) -> Callable[..., None]:
    """Returns a command that has these options too, and whose work is reported as they say."""
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(*, context: typer.Context, quiet: bool, verbose: bool, log: Path | None, **given: Any) -> None:
        remember(context, quiet=quiet, verbose=verbose, log=log)
        asked = context.ensure_object(dict)
        if asked.get("quiet") and asked.get("verbose"):
            raise typer.BadParameter("--quiet and --verbose exclude each other: give one of them.", ctx=context)
        from vitedge.progress import reporting
        from vitedge.render.log import open_log, show_log
        from vitedge.render.waiting import listener

        if "verbose" in asked:
            show_log()
        if "log" in asked:
            open_log(asked["log"])
        with reporting(listener(quiet=asked.get("quiet", False), verbose=asked.get("verbose", False))):
            command(**given)

    parameters = [one.replace(kind=_KEYWORD) for one in signature.parameters.values()]
    run.__signature__ = signature.replace(parameters=[*parameters, *_OPTIONS])  # type: ignore[attr-defined]
    return run


def end_reports() -> None:
    """Ends the log of a command, if there is one."""
    if "vitedge.render.log" in sys.modules:
        from vitedge.render.log import close_logs

        close_logs()
