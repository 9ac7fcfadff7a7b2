# SPDX-License-Identifier: Apache-2.0
"""The trtexec of a board: where it is, its version, the options that it takes, and its runs.

Options come and go between versions, and an unknown one ends a run. So ``--help`` is read once, and an option that it
does not list at the beginning of a line is never passed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vitedge.devices.transports.transport import Completed, Transport, quoted
from vitedge.devices.trtexec.log import Log, read_log
from vitedge.errors import DeviceFailed, MissingBackend, VitedgeError
from vitedge.runtimes.cuda import Gpu
from vitedge.sentences import fate

PLACES = ("/usr/src/tensorrt/bin/trtexec",)
"""Where TensorRT's packages for Debian put it, which is in no PATH."""
_FIND = """
for program in "$(command -v trtexec || :)" {places}; do
  if [ -n "$program" ] && [ -x "$program" ]; then
    printf '%s\\n' "$program"
    "$program" --help
    exit
  fi
done
exit 127
"""
_OPTION = re.compile(r"^\s+(?:-\w, )?(?P<names>--\w+(?:, --\w+)*)(?P<rest>.*)$", re.MULTILINE)
_DEPRECATED = "[Deprecated]"
_NOWHERE = "no-engine"
"""An engine that is not there: trtexec names the GPU before it looks for it."""
_KILLED = 128
_LIMIT_S = 120.0
_INSTALL = "sudo apt-get install libnvinfer-bin"


@dataclass(frozen=True)
class Trtexec:
    """The program on one device."""

    transport: Transport
    path: str
    version: str
    """Version of TensorRT, such as ``8.6.1``."""
    options: Mapping[str, bool]
    """Every option of this version, such as ``--onnx``, to whether it is deprecated."""
    help: str
    """What it prints of itself, for values of options."""

    @property
    def title(self) -> str:
        """Returns program, version and device, for sentences."""
        return f"trtexec {self.version} on {self.transport.name}"

    @property
    def major(self) -> int:
        """Returns the first part of the version."""
        return int(self.version.partition(".")[0])

    def takes(self, *words: str) -> bool:
        """Returns whether this version has every option of a command line, none of them deprecated."""
        return all(self.options.get(word.partition("=")[0]) is False for word in words)

    def run(
        self,
        words: Sequence[str],
        folder: str,
        doing: str,
        limit_s: float = _LIMIT_S,
        error: type[VitedgeError] = DeviceFailed,
    ) -> Log:
        """Runs it in a folder of the device, and waits for its end.

        Args:
            words: options, each one that this version takes.
            folder: there; names in the options are relative to it.
            doing: its activity in sentences.
            limit_s: seconds after which it is ended.
            error: raised where trtexec itself reports a failure.

        Raises:
            DeviceFailed: it was killed, did not end in time, or printed no end.
            VitedgeError: ``error``, with trtexec's own reason.
        """
        script = f"cd {quoted([folder])} && exec {quoted([self.path, *words])}"
        return self.checked(self.transport.run(script, limit_s), doing, error)

    def checked(self, done: Completed, doing: str, error: type[VitedgeError] = DeviceFailed) -> Log:
        """Returns the log of a run that passed.

        Raises:
            DeviceFailed: it was killed, or printed no end.
            VitedgeError: ``error``, with trtexec's own reason.
        """
        log = read_log(done.out, done.err)
        if done.code > _KILLED:
            raise DeviceFailed(f"{self.title} {fate(_KILLED - done.code)} while {doing}{_reason(log.errors)}.")
        if log.end == "FAILED" or (done.code != 0 and log.errors):
            raise error(f"{self.title} failed while {doing}{_reason(log.errors)}.")
        if done.code != 0 or log.end != "PASSED":
            raise DeviceFailed(f"{self.title} {fate(done.code)} while {doing} ({done.last_words.rstrip('.')}).")
        return log

    def gpu(self) -> Gpu:
        """Returns the GPU that it uses; its CUDA version is not told.

        Raises:
            DeviceFailed: it finds none.
        """
        done = self.transport.run(quoted([self.path, f"--loadEngine={_NOWHERE}"]), _LIMIT_S)
        log = read_log(done.out, done.err)
        if not log.gpu or not log.capability:
            reason = _reason(log.errors) or f" ({done.last_words.rstrip('.')})"
            raise DeviceFailed(f"{self.title} finds no GPU{reason}.")
        return Gpu(log.gpu, log.capability, "")


def find_trtexec(transport: Transport) -> Trtexec:
    """Returns the trtexec of a device.

    Raises:
        MissingBackend: there is none, or it does not start.
        DeviceFailed: the device is out of reach, or the program does not tell its version.
    """
    done = transport.run(_FIND.format(places=quoted(PLACES)), _LIMIT_S)
    path, _, told = done.out.partition("\n")
    if not path.strip():
        raise MissingBackend(
            f"{transport.name} has no trtexec, neither in PATH nor as {PLACES[0]}; install it there: {_INSTALL}"
        )
    return known_by(transport, path, Completed(done.code, told, done.err))


def known_by(transport: Transport, path: str, done: Completed) -> Trtexec:
    """Returns a trtexec by what it has said to ``--help``.

    Raises:
        MissingBackend: it did not start.
        DeviceFailed: it does not tell its version.
    """
    return Trtexec(transport, path, version_of(path, transport.name, done), _options(done.out), done.out)


def version_of(path: str, device: str, done: Completed) -> str:
    """Returns the version of a trtexec by what it has said to ``--help``.

    Raises:
        MissingBackend: it did not start.
        DeviceFailed: it does not tell its version.
    """
    version = read_log(done.out, done.err).version
    if done.code != 0 and not version:
        raise MissingBackend(
            f"{path} of {device} does not start ({done.last_words.rstrip('.')}); install it anew: {_INSTALL}"
        )
    if not version:
        raise DeviceFailed(f"{path} of {device} does not tell its version, so it is no trtexec of TensorRT.")
    return version


def _options(text: str) -> dict[str, bool]:
    found = {}
    for match in _OPTION.finditer(text):
        for name in match["names"].split(", "):
            found[name] = _DEPRECATED in match["rest"]
    return found


def _reason(errors: Iterable[str]) -> str:
    """Returns the first error, which later ones follow from, in a form that ends a sentence."""
    first = next(iter(errors), "")
    return f": {first.rstrip('.')}" if first else ""
