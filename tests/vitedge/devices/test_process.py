# SPDX-License-Identifier: Apache-2.0
"""The worker here is no part of vitedge: anything that speaks JSON lines on its standard streams is one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from vitedge.devices.process import WorkerProcess
from vitedge.errors import BadRecipe, DeviceFailed

WORKER = """
import json, os, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "first":
        sys.exit("no more words")
    if request["do"] == "burst":
        time.sleep(60)
    answers = {
        "load": {"pixels": request.get("pixels"), "told": os.environ.get("TOLD")},
        "warm_up": {"error": "BadRecipe", "message": "not so"},
        "end": {"error": "ValueError", "message": "a library"},
    }
    print(json.dumps(answers[request["do"]]), flush=True)
"""

Start = Callable[..., WorkerProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[WorkerProcess] = []

    def process(patience_s: float = 60.0, **options: dict[str, str]) -> WorkerProcess:
        started.append(WorkerProcess([sys.executable, "-c", WORKER], "vit", patience_s, **options))
        return started[-1]

    yield process
    for worker in started:
        worker.kill()


def test_a_request_gets_its_answer(start: Start) -> None:
    worker = start(environment={"TOLD": "something"})
    assert worker.ask("load", pixels=[32, 48]) == {"pixels": [32, 48], "told": "something"}
    assert worker.ask("load") == {"pixels": None, "told": "something"}


def test_what_the_worker_raises_arrives_as_itself_or_as_a_failure_of_the_device(start: Start) -> None:
    worker = start()
    with pytest.raises(BadRecipe, match=r"^not so$"):
        worker.ask("warm_up")
    with pytest.raises(DeviceFailed, match=r"^vit failed while ending: ValueError: a library\.$"):
        worker.ask("end")


def test_the_last_words_of_a_worker_that_ended_are_told(start: Start) -> None:
    with pytest.raises(DeviceFailed, match=r"exit code 1 while in its first inference \(no more words\)\.$"):
        start().ask("first")


def test_a_worker_that_says_nothing_is_given_up(start: Start) -> None:
    with pytest.raises(DeviceFailed, match=r"vit gave no answer for 0\.5 s while being measured"):
        start(0.5).ask("burst")


def test_lines_before_the_mark_and_an_answer_that_was_cut_off_are_no_answers() -> None:
    code = "print('Welcome'); print('{}'); print('last login: begins'); print('{\"n\": 1}'); print('{\"n\":', end='')"
    worker = WorkerProcess([sys.executable, "-c", code], "vit", 60.0, mark="begins")
    try:
        assert worker.ask("load") == {"n": 1}
        with pytest.raises(DeviceFailed, match=r"exit code 0 while in its first inference\.$"):
            worker.ask("first")
    finally:
        worker.kill()
