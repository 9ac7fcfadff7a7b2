# SPDX-License-Identifier: Apache-2.0
"""The script that guards a session on a device, run by the shells that devices have."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vitedge.devices.shell_transport import PROGRAMS, Transport, alive, killed, until
from vitedge.devices.guard import PROCESSES, TIDY, Guard, script
from vitedge.errors import DeviceFailed

SHELLS = (("dash",), ("bash",), ("busybox", "sh"))


def is_missing(shell: tuple[str, ...]) -> bool:
    return shutil.which(shell[0]) is None


@pytest.fixture(
    params=[
        pytest.param(
            shell, id=shell[0], marks=pytest.mark.skipif(is_missing(shell), reason="apt-get install " + shell[0])
        )
        for shell in SHELLS
    ]
)
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Transport:
    """A device with the programs of its shell's kind and no others."""
    return Transport(tmp_path / "far", shell=request.param, programs=PROGRAMS)


@pytest.fixture
def near(tmp_path: Path) -> Transport:
    return Transport(tmp_path / "far")


@pytest.fixture
def strangers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that tests start and that no guard may end."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        killed(process)


def noted(far: Transport, guard: Guard, name: str, script: str) -> subprocess.Popen[bytes]:
    """Starts a script as a session does, with its number noted for the guard."""
    return far.started(f'cd {guard.work}\n{PROCESSES}\necho "$$ $(born $$)" >{name}.pid\n(\n{script}\n)\n:')


def numbers(process: subprocess.Popen[bytes], count: int) -> list[int]:
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(count)]


def test_the_folder_is_there_for_the_session_and_gone_after_it(far: Transport) -> None:
    guard = Guard(far)
    assert guard.cache == str(far.cache)
    assert far.runs() == [Path(guard.work)]
    assert Path(guard.work).stat().st_mode & 0o777 == 0o700
    guard.close()
    assert far.runs() == []


def test_it_leaves_no_process_however_soon_it_ends(far: Transport) -> None:
    for number in range(12):
        guard = Guard(far)
        time.sleep(0.005 * (number % 3))
        guard.close()
    assert until(lambda: not far.running(), 2.0), far.running()


def test_killed_alone_its_watch_cleans_up(far: Transport) -> None:
    process = far.started(script(silence_s=0.4))
    assert process.stdout is not None
    greeting = [process.stdout.readline() for _ in range(3)]
    assert far.runs() == [Path(greeting[2].decode().strip())]
    process.kill()
    assert until(lambda: not far.runs() and not far.running())
    process.communicate()


def test_everything_that_was_started_is_ended_and_settings_are_restored(
    far: Transport, strangers: list[subprocess.Popen[bytes]]
) -> None:
    guard = Guard(far)
    Path(guard.work, "clocks.restore").write_text(f"echo back >{far.folder}/restored\n")
    script = "sh -c 'sleep 50 & echo $!; echo $$; trap : TERM HUP; wait; wait; sleep 50' & echo $!; wait"
    process = noted(far, guard, "1", script)
    strangers.append(process)
    found = numbers(process, 3)
    assert all(alive(pid) for pid in found)
    guard.close()
    assert until(lambda: not any(alive(pid) for pid in [*found, process.pid]))
    assert (far.folder / "restored").read_text() == "back\n"


def test_what_lost_its_parent_is_ended_by_the_folder_that_it_runs_in(
    far: Transport, strangers: list[subprocess.Popen[bytes]]
) -> None:
    guard = Guard(far)
    process = noted(far, guard, "1", "sleep 50 & echo $!")
    strangers.append(process)
    (found,) = numbers(process, 1)
    assert process.wait(10) == 0
    assert alive(found)
    guard.close()
    assert until(lambda: not alive(found))


def test_a_number_that_another_process_has_by_now_is_left_alone(
    far: Transport, strangers: list[subprocess.Popen[bytes]]
) -> None:
    guard = Guard(far)
    strangers.append(subprocess.Popen(["sleep", "50"], start_new_session=True))
    Path(guard.work, "1.pid").write_text(f"{strangers[0].pid} 12345\n")
    Path(guard.work, "2.pid").write_text("\n")
    guard.close()
    assert alive(strangers[0].pid)


def test_without_a_line_for_some_time_it_ends_by_itself(far: Transport) -> None:
    process = far.started(script(silence_s=0.4))
    assert process.stdin is not None
    assert until(lambda: len(far.runs()) == 1)
    for _ in range(6):
        assert not until(lambda: process.poll() is not None, 0.1)
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert len(far.runs()) == 1
    assert until(lambda: process.poll() is not None, 5.0)
    assert far.runs() == []
    killed(process)


def test_what_a_killed_guard_left_is_removed_by_the_next_and_what_lives_is_not(far: Transport) -> None:
    first, second = Guard(far), Guard(far)
    killed(second._process)
    assert len(far.runs()) == 2
    third = Guard(far)
    assert set(far.runs()) == {Path(first.work), Path(third.work)}
    for guard in (first, second, third):
        guard.close()
    assert far.runs() == []


def test_a_session_whose_connection_was_lost_is_ended_by_the_one_that_follows_it(
    far: Transport, strangers: list[subprocess.Popen[bytes]]
) -> None:
    lost = Guard(far)
    process = noted(far, lost, "1", "echo $$; exec sleep 50")
    strangers.append(process)
    numbers(process, 1)
    after = Guard(far, lost.work)
    assert far.runs() == [Path(after.work)]
    assert not alive(lost._process.pid)
    assert until(lambda: process.poll() is not None)
    for guard in (lost, after):
        guard.close()
    assert far.runs() == []


def test_processes_are_found_by_ps_where_the_system_has_no_proc(
    near: Transport, strangers: list[subprocess.Popen[bytes]]
) -> None:
    functions = PROCESSES.replace("/proc/", "/no-such-folder/")
    process = near.started("sh -c 'sleep 50 & echo $!; wait' & echo $!; wait")
    strangers.append(process)
    found = numbers(process, 2)
    file = near.folder / "1.pid"
    near.run(f'{functions}\necho "{process.pid} $(born {process.pid})" >{file}')
    assert len(file.read_text().split()) == 6, "a day and a time"
    near.run(f"{functions}\nend_noted {file}")
    assert until(lambda: not any(alive(pid) for pid in [*found, process.pid]))


def test_a_home_that_cannot_be_written_is_no_obstacle(far: Transport) -> None:
    far.home = Path("/proc/self/nowhere")
    guard = Guard(far)
    assert Path(guard.cache).parent == far.folder / "tmp"
    assert Path(guard.cache).stat().st_mode & 0o777 == 0o700
    guard.close()


def test_a_device_without_any_place_says_so(near: Transport) -> None:
    near.home = Path("/proc/self/nowhere")
    (near.folder / "tmp").rmdir()
    (near.folder / "tmp").write_text("")
    with pytest.raises(DeviceFailed, match=r"^stand-in has no place for a folder of vitedge: mkdir: .*directory\.$"):
        Guard(near)


def test_what_a_start_up_file_prints_is_no_folder(tmp_path: Path) -> None:
    far = Transport(tmp_path, noise="echo Welcome to board; echo /etc; printf 'last login: '")
    guard = Guard(far)
    assert guard.cache == str(far.cache)
    guard.close()
    assert far.runs() == []


def test_a_device_that_hangs_up_at_once_is_told_with_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(DeviceFailed, match=r"^stand-in ended the session at once: it ended with exit code 1\.$"):
        Guard(Transport(tmp_path, noise="echo This account is not available.; exit 1"))


def test_the_cache_keeps_what_was_used_last_up_to_its_limit(far: Transport) -> None:
    files = far.folder / "files"
    files.mkdir()
    for age, name in enumerate(("newest", "middle", "oldest", "abandoned.x.part")):
        (files / name).write_bytes(bytes(2048))
        assert far.run(f"touch -d '2020-01-0{9 - age} 00:00:00' {files}/{name}").code == 0
    far.run(f"touch {files}/*st")
    far.run(TIDY.format(files=files, limit_kb=5))
    assert "abandoned.x.part" not in {path.name for path in files.iterdir()}
    assert "middle" not in {path.name for path in files.iterdir()}
    assert len(list(files.iterdir())) == 2
