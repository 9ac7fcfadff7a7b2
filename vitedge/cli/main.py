# SPDX-License-Identifier: Apache-2.0
"""The application: the table of commands, and the exit codes of their errors."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

import typer
from typer.core import TyperGroup

from vitedge.cli.bench import bench
from vitedge.cli.demo import demo
from vitedge.cli.doctor import doctor
from vitedge.cli.evaluate import evaluate
from vitedge.cli.export import export
from vitedge.cli.inspect import inspect
from vitedge.cli.kit import kit
from vitedge.cli.profiles import profiles
from vitedge.cli.prune import prune
from vitedge.cli.quantize import quantize
from vitedge.cli.validate import validate
from vitedge.errors import VitedgeError
from vitedge.registry import backend_of
from vitedge.stopping import obeying_signals, stopped_by

COMMANDS: Mapping[str, Callable[..., None] | typer.Typer] = {
    "inspect": inspect,
    "export": export,
    "prune": prune,
    "quantize": quantize,
    "validate": validate,
    "evaluate": evaluate,
    "bench": bench,
    "kit": kit,
    "doctor": doctor,
    "profiles": profiles,
    "demo": demo,
}
"""Name to its function, or to a group of commands, in the order of ``vitedge --help``."""
_MOVED = {"--kit": "vitedge kit write", "--import": "vitedge kit import"}
"""Options of earlier versions, to the commands that replace them."""
_READER_LEFT = 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1
"""Exit code where the reader of a pipe ended first: a shell shows the same for a tool that SIGPIPE killed."""
_UNUSABLE = (errno.ENAMETOOLONG, errno.EACCES, errno.ELOOP)
"""Errors of the system about a path that was typed, and that say all there is to say."""
_OBJECTS_OF_IMPORTS = 1_000_000
"""Objects before the first search for garbage: more than importing PyTorch and timm makes (660 000)."""
_OBJECTS_BEFORE_COLLECTION = 200_000
"""Objects before any later one."""


class _InOrder(TyperGroup):
    """Lists the commands as `COMMANDS` does; typer would put groups before them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns their names."""
        return sorted(super().list_commands(ctx), key=list(COMMANDS).index)


app = typer.Typer(
    name="vitedge",
    cls=_InOrder,
    help="Vision transformer checkpoints in, verified ONNX, Core ML and TensorRT out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for name, command in COMMANDS.items():
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name)
    else:
        app.command(name)(command)

_USAGE = cast("type[Exception]", typer.BadParameter.__bases__[0])
"""The type of every mistake on the command line; typer gives it no name of its own."""


def _usage(error: Any) -> str:
    """Returns typer's message about a mistake on the command line as one sentence."""
    where = error.ctx.command_path if error.ctx else "vitedge"
    where = _MOVED.get(getattr(error, "option_name", ""), where)
    return f"{error.format_message().rstrip('.')}; see {where} --help."


def main() -> None:
    """Runs one command and exits: errors of `vitedge.errors` become one sentence and their exit code."""
    from vitedge.render.screen import prepare_streams

    prepare_streams()
    try:
        with obeying_signals():
            code = app(sys.argv[1:] or ["--help"], prog_name="vitedge", standalone_mode=False)
        sys.stdout.flush()
    except VitedgeError as error:
        code = _failed(str(error), error.exit_code)
    except _USAGE as error:
        code = _failed(_usage(error), 2)
    except ImportError as error:
        missing = backend_of(error)
        if missing is None:
            raise
        code = _failed(str(missing), missing.exit_code)
    except OSError as error:
        code = _unwritten(error)
    except SystemExit as leaving:
        if stopped_by(leaving.code):
            _failed(f"Stopped by {stopped_by(leaving.code)} before it was done; what was there before is whole.", 0)
        elif isinstance(leaving.__context__, BrokenPipeError):  # typer makes 1 of it
            sys.exit(_READER_LEFT)
        raise
    sys.exit(code)


def _unwritten(error: OSError) -> int:
    """Returns the exit code where stdout took nothing more, or a path is none that the system opens.

    Raises:
        OSError: it is neither.
    """
    if isinstance(error, BrokenPipeError):
        return _READER_LEFT
    if error.errno in _UNUSABLE and error.filename is not None:
        return _failed(f"{error.filename} cannot be used: {error.strerror}.", 2)
    if error.errno not in (errno.ENOSPC, errno.EBADF) or error.filename is not None:
        raise error
    return _failed(f"The result cannot be written to stdout: {error.strerror}.", 2)


def _failed(sentence: str, code: int) -> int:
    """Prints the error, unless stderr takes nothing; returns the exit code."""
    from vitedge.render.screen import error

    with contextlib.suppress(OSError):
        error(sentence)
    return code


def _stand_in_for_closed_streams() -> None:
    """Opens what takes the place of a stream that was closed before the process began.

    Otherwise the next file to be opened would get the stream's number, and what libraries print would go into it. As
    gnulib's stdopen does, stdin and stdout are opened the wrong way round: their use fails as that of a closed one.
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, flags), number)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _collect_after_imports(phase: str, _info: Mapping[str, int]) -> None:
    """Searches for garbage more often after the first time; a callback of `gc`, which calls it around each search."""
    if phase == "stop":
        gc.callbacks.remove(_collect_after_imports)
        gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)


def script() -> None:
    """Runs `main` as the console script, in a process that has nothing else to do.

    Importing PyTorch makes hundreds of thousands of objects that live to the end. To search them for garbage, and to
    free them one by one just before the process ends, would cost `inspect` a third of its time.
    """
    gc.set_threshold(_OBJECTS_OF_IMPORTS)
    gc.callbacks.append(_collect_after_imports)
    _stand_in_for_closed_streams()
    code = 0
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    for number in (signal.SIGINT, signal.SIGTERM):  # what was to be cleaned up is; Ctrl-C again is no traceback
        signal.signal(number, signal.SIG_IGN)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the reader of a pipe may have ended
            stream.flush()
    os._exit(code)
