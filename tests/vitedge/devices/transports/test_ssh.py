# SPDX-License-Identifier: Apache-2.0
"""What the way through ssh asks of ssh; `tests.vitedge.devices.test_ssh` has a real server at the other end.

The ssh here is a stand-in that hands the far end's command line to a shell of this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitedge.devices.guard import script
from vitedge.devices.transports.ssh import Transport
from vitedge.devices.transports.transport import quoted
from vitedge.errors import BadRecipe, ConnectionLost, DeviceFailed, MissingBackend

SHELLS = ("sh", "dash", "bash", "zsh", "fish", "tcsh", "mksh", "busybox sh")
"""Login shells that a far end may have."""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files here, with a path that is short enough for a socket's."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def ssh(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in for ssh in front of PATH, whose far end has the shell and the noise that its neighbour `far` says."""
    far = tmp_path / "bin" / "far"
    far.parent.mkdir()
    far.write_text('sh -c "$1"\n')
    client = tmp_path / "bin" / "ssh"
    client.write_text(f'#!/bin/sh\nfor last; do :; done\nexec sh {far} "$last"\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
    yield far
    assert not list(temporary.iterdir()), "a folder stayed"


@pytest.fixture
def transport(ssh: Path) -> Iterator[Transport]:
    made = Transport("board")
    yield made
    made.close()


@pytest.mark.parametrize(
    "address",
    [
        "-oProxyCommand=touch h", "-oProxyCommand=x", "a;b", "$(x)", "`x`", "a b", "a|b", "a&b", "me@-oProxyCommand=x",
        "a\nb", "a'b", 'a"b', "a\\b", "a>b", "*", "--",
    ],
)  # fmt: skip
def test_what_is_no_host_is_refused(address: str, ssh: Path) -> None:
    with pytest.raises(BadRecipe, match=r"is no host that ssh takes: --device ssh:HOST"):
        Transport(address)


def test_no_host_at_all_is_refused() -> None:
    with pytest.raises(BadRecipe, match=r"^ssh needs a host: --device ssh:HOST"):
        Transport("")


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("orin", "orin", ""), ("me@orin.local", "me@orin.local", ""), ("me@orin:2222", "me@orin", "2222"),
        ("fe80::1%eth0", "fe80::1%eth0", ""), ("[::1]", "[::1]", ""), ("a_b-c.d", "a_b-c.d", ""),
    ],
)  # fmt: skip
def test_hosts_users_and_ports_reach_ssh_behind_its_options(address: str, host: str, port: str, ssh: Path) -> None:
    transport = Transport(address)
    command = transport.command("true")
    transport.close()
    options, rest = command[: command.index("--")], command[command.index("--") + 1 :]
    assert transport.name == f"ssh:{address}"
    assert rest[0] == host
    assert len(rest) == 2
    assert "BatchMode=yes" in options
    assert ("-p" in options) == bool(port)
    assert not port or options[options.index("-p") + 1] == port


def test_a_machine_without_ssh_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingBackend, match="ssh:orin needs the program ssh, which is not here"):
        Transport("orin")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_login_shell_there_may_be_any(shell: str, ssh: Path, transport: Transport, tmp_path: Path) -> None:
    if shutil.which(shell.partition(" ")[0]) is None:
        pytest.skip(f"apt-get install {shell}")
    ssh.write_text(f'exec {shell} -c "$1"\n')
    words = ("it's", "a\nb", "$HOME", "`x`", "a\\\\b\\n", "!!", "!x", '"', "*", "\\012", "\\'", "%s")
    done = transport.run(f"cat >{tmp_path}/got; printf '%s|' {quoted(words)}; echo oh >&2; exit 7", given=b"in\0put")
    assert done.out == "".join(f"{word}|" for word in words)
    assert (done.code, done.err) == (7, "oh\n")
    assert (tmp_path / "got").read_bytes() == b"in\0put"
    home = f"export XDG_CACHE_HOME={tmp_path}/far\n"
    assert len(transport.run(home + script()).out.splitlines()) == 3


def test_what_start_up_files_print_is_not_taken_for_an_answer_or_a_file(
    ssh: Path, transport: Transport, tmp_path: Path
) -> None:
    ssh.write_text('echo Welcome; echo 17; printf "no end: "; exec sh -c "$1"\n')
    content = bytes(range(256)) * 1000
    (tmp_path / "here").write_bytes(content)
    transport.send(tmp_path / "here", f"{tmp_path}/there")
    assert (tmp_path / "there").read_bytes() == content
    transport.fetch(f"{tmp_path}/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert transport.run("echo own").out == "own\n"


def test_sending_goes_on_where_it_ended_and_replaces_what_is_longer(transport: Transport, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "a file's 'name'"
    here.write_bytes(b"0123456789")
    for held, found in ((b"abc", b"abc3456789"), (b"x" * 11, b"0123456789"), (b"", b"0123456789")):
        there.write_bytes(held)
        transport.send(here, str(there))
        assert there.read_bytes() == found


def test_a_fetch_that_fails_leaves_what_was_there(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "back").write_text("before")
    with pytest.raises(DeviceFailed, match=r"could not be fetched from ssh:board: cat: .*No such file or directory\.$"):
        transport.fetch(f"{tmp_path}/missing", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "before"


def test_a_script_that_takes_too_long_is_given_up(transport: Transport) -> None:
    with pytest.raises(DeviceFailed, match=r"^ssh:board did not answer within 0\.2 s\.$"):
        transport.run("sleep 5", 0.2)


@pytest.mark.parametrize(
    ("words", "kind", "sentence"),
    [
        ("Host key verification failed.", DeviceFailed, "its key is not known here, type ssh board once"),
        ("me@board: Permission denied (publickey).", DeviceFailed, "type ssh-copy-id board"),
        ("ssh: Could not resolve hostname board: Name or service not known", DeviceFailed, "check the name"),
        ("ssh: connect to host board port 22: Connection refused", DeviceFailed, "no ssh server listens"),
        ("client_loop: send disconnect: Broken pipe", ConnectionLost, "was lost: client_loop: send disconnect"),
        ("", ConnectionLost, "was lost: ssh said nothing"),
    ],
)
def test_what_ssh_says_becomes_a_sentence_with_what_to_do(
    words: str, kind: type[DeviceFailed], sentence: str, ssh: Path, transport: Transport
) -> None:
    ssh.write_text(f"echo {quoted([words])} >&2; exit 255\n")
    with pytest.raises(DeviceFailed) as caught:
        transport.run("true")
    assert type(caught.value) is kind
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a b", "a%h", "x" * 90])
def test_the_socket_has_a_short_path_and_a_folder_of_its_own(
    name: str, ssh: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / name))
    transport = Transport("board")
    folder = transport._folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(os.fsencode(transport._socket)) <= 80
    path = str(transport._socket).replace("%", "%%")
    assert f'ControlPath="{path}"' in transport.command("true")
    transport.close()
    assert not folder.exists()
    (temporary / name).rmdir()


def test_an_empty_folder_that_a_killed_process_left_is_removed(ssh: Path, temporary: Path) -> None:
    left, young, used = (temporary / f"vitedge-ssh-{name}" for name in ("left", "young", "used"))
    for folder in (left, young, used):
        folder.mkdir()
    (used / "c").write_text("")
    for folder in (left, used):
        os.utime(folder, (0, 0))
    Transport("board").close()
    assert [folder.exists() for folder in (left, young, used)] == [False, True, True]
    shutil.rmtree(young)
    shutil.rmtree(used)


def test_ssh_itself_takes_the_options() -> None:
    if shutil.which("ssh") is None:
        pytest.skip("apt-get install openssh-client")
    transport = Transport("board")
    command = transport.command("true")
    asked = [command[0], "-G", "-F", os.devnull, *command[1:-1]]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    transport.close()
    assert f"controlpath {transport._socket}\n" in said
    assert "batchmode yes\n" in said
