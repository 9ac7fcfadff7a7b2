# SPDX-License-Identifier: Apache-2.0
"""The application: the table of commands, and the exit codes of their errors."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from vitedge.cli.bench import bench
from vitedge.cli.cache import cache
from vitedge.cli.compare import compare
from vitedge.cli.demo import demo
from vitedge.cli.doctor import doctor
from vitedge.cli.evaluate import evaluate
from vitedge.cli.everywhere import Log, Quiet, Verbose, end_reports, everywhere, remember
from vitedge.cli.export import export
from vitedge.cli.failures import answer, answer_exit
from vitedge.cli.inspect import inspect
from vitedge.cli.kit import kit
from vitedge.cli.profiles import profiles
from vitedge.cli.prune import prune
from vitedge.cli.quantize import quantize
from vitedge.cli.validate import validate
from vitedge.errors import BadRecipe
from vitedge.stopping import obeying_signals

COMMANDS: Mapping[str, Callable[..., None] | typer.Typer] = {
    "inspect": inspect,
    "export": export,
    "prune": prune,
    "quantize": quantize,
    "validate": validate,
    "evaluate": evaluate,
    "bench": bench,
    "compare": compare,
    "kit": kit,
    "doctor": doctor,
    "profiles": profiles,
    "cache": cache,
    "demo": demo,
}
"""Name to its function, or to a group of commands, in the order of ``vitedge --help``."""
_SETTING = re.compile(r"-q\s?([a-z_]+=.*)")
"""A setting of quantization as earlier versions took it."""
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
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for name, command in COMMANDS.items():
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name)
    else:
        app.command(name)(everywhere(command))


def _show_versions(asked: bool) -> None:  # noqa: FBT001 - as typer calls it
    if asked:
        from vitedge.registry import environment
        from vitedge.render.version import render

        render(environment())
        raise typer.Exit


_USAGE = cast("type[Exception]", typer.BadParameter.__bases__[0])
"""The type of every mistake on the command line; typer gives it no name of its own."""


@app.callback()
def root(
    context: typer.Context,
    *,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log: Log = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_versions, is_eager=True, help="Show versions and exit.")
    ] = False,
) -> None:
    """Vision transformer checkpoints in, verified ONNX, Core ML and TensorRT out."""
    remember(context, quiet=quiet, verbose=verbose, log=log)


def main() -> None:
    """Runs one command and exits: errors of `vitedge.errors` become one sentence and their exit code."""
    from vitedge.render.screen import prepare_streams

    prepare_streams()
    try:
        with obeying_signals():
            _refuse_moved(sys.argv[1:])
            code = app(sys.argv[1:] or ["--help"], prog_name="vitedge", standalone_mode=False)
        sys.stdout.flush()
    except Exception as error:
        answered = answer(error, _USAGE)
        if answered is None:
            raise
        code = answered
    except SystemExit as leaving:
        answer_exit(leaving)
        raise
    finally:
        end_reports()
    sys.exit(code)


def _refuse_moved(arguments: Sequence[str]) -> None:
    """Refuses ``-q NAME=VALUE`` of earlier versions, which a quiet command would take for something else.

    Raises:
        BadRecipe: it was typed.
    """
    joined = (f"{option} {value}" if option == "-q" else option for option, value in pairwise([*arguments, ""]))
    for found in filter(None, map(_SETTING.fullmatch, joined)):
        raise BadRecipe(f"-q is --quiet: a setting of quantization is given with -Q {found[1]} (--quantization).")


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
