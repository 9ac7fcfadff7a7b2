# SPDX-License-Identifier: Apache-2.0
"""A fake of Windows and of macOS on this machine: what cannot be tried on the systems themselves here.

The parts of Python that a system lacks are taken away after the libraries were imported, so that only vitedge meets
what is left. mypy checks the same names for both systems, as `make test-all` runs it. What only a real system shows
(its locks on open files, its consoles, its Core ML) is beyond this.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bad_files import VIT
from tests.test_layout import SOURCES

LACKING = {
    "win32": (
        ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"),
        ("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGUSR1", "SIGUSR2"),
        (
            "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getuid", "killpg", "mkfifo",
            "nice", "sched_getaffinity", "sched_setaffinity", "setpgid", "setsid", "sysconf", "uname",
            "wait3", "wait4",
        ),
    ),
    "darwin": ((), ("SIGPWR", "SIGSTKFLT"), ("sched_getaffinity", "sched_setaffinity", "sched_setscheduler")),
}  # fmt: skip
"""System to the modules, the names of ``signal`` and the names of ``os`` that Python does not have there.

``statvfs``, which Python's own `shutil` uses on this system, stays.
"""

FAKE = """
import importlib, os, pathlib, platform, signal, sys, time, warnings

lacking, modules, files = {lacking!r}, {modules!r}, {files!r}
system = {system!r}
warnings.simplefilter("ignore")


def import_all():
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in ("tensorrt", "tensorrt_rtx", "openvino"):  # extras that this machine may not have
                raise


import_all()  # and with them the libraries, which are built for this system
for name in [name for name in sys.modules if name.partition(".")[0] == "vitedge"]:
    del sys.modules[name]
for name in lacking[0]:
    sys.modules[name] = None
for place, names in ((signal, lacking[1]), (os, lacking[2]), (time, ("CLOCK_BOOTTIME",))):
    for name in names:
        if hasattr(place, name):
            delattr(place, name)
sys.platform = system
platform.system = lambda: {{"win32": "Windows", "darwin": "Darwin"}}[system]
if system == "win32":
    for place in (pathlib, sys.modules.get("pathlib._local", pathlib)):
        place.WindowsPath = place.PosixPath
    os.name = "nt"
import_all()

from vitedge.cli.main import main


def typed(*words):
    sys.argv = ["vitedge", *words]
    try:
        main()
    except SystemExit as leaving:
        assert not leaving.code, (words, leaving.code)


checkpoint, folder = files
typed("profiles", "--json")
typed("inspect", checkpoint)
typed("export", checkpoint, "-o", folder + "/bundle", "--format", "onnx")
typed("export", checkpoint, "-o", folder + "/bundle", "--format", "onnx", "--force")
typed("validate", folder + "/bundle")
print("FAKED", system, len(modules))
"""


@pytest.mark.slow
@pytest.mark.parametrize("system", LACKING)
def test_a_fake_of_a_system_imports_everything_and_exports(system: str, tmp_path: Path) -> None:
    modules = sorted(name for name in SOURCES if not name.endswith("__main__") and "mac_kit.verify" not in name)
    filled = FAKE.format(lacking=LACKING[system], modules=modules, files=(str(VIT), str(tmp_path)), system=system)
    done = subprocess.run([sys.executable, "-c", filled], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f"FAKED {system} {len(modules)}")
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text(encoding="utf-8"))["artifacts"]
