# SPDX-License-Identifier: Apache-2.0
"""Of `abilities` and `state`: what outcomes and a condition mean."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vitedge.devices.facts.boards import NAMES, texts
from vitedge.devices import facts
from vitedge.devices.health.abilities import (
    ability,
    engines,
    new_enough,
    place_of,
    providers,
    without_repetition,
    without_runtime,
)
from vitedge.devices.health.breakages import Place
from vitedge.devices.health.outcomes import Outcome
from vitedge.devices.health.records import Ability
from vitedge.devices.health.state import crowded, remarks

ORIN = {"jetpack": "6.1", "l4t": "36.4.0", "program": "/usr/bin/python3", "tensorrt": "10.3.0"}
CPU = Outcome("onnxruntime", "works", {"version": "1.23.0", "providers": ["CPUExecutionProvider"]})


def test_what_is_not_installed_is_no_fault_unless_it_was_asked_for() -> None:
    absent = Outcome("openvino", "absent", error="openvino")
    plain = ability("run openvino", absent, Place(), asked=False)
    assert (plain.state, plain.asked, plain.remedy) == ("not here", False, "pip install openvino")
    assert ability("run openvino", absent, Place(), asked=True).state == "missing"
    broken = ability("run openvino", Outcome("openvino", "broken", error="X: y"), Place(), asked=False)
    assert (broken.state, broken.asked, broken.detail) == ("broken", True, "X: y")


@pytest.mark.parametrize(
    ("identity", "local", "pip"),
    [
        ({"program": "/usr/bin/python3"}, False, "/usr/bin/python3 -m pip"),
        ({}, True, "pip"),
        ({"managed": True, "program": "/usr/bin/python3"}, False, "python3 -m venv ~/.vitedge && ~/.vitedge/bin/pip"),
    ],
)
def test_remedies_are_ones_that_the_python_there_takes(identity: dict[str, Any], local: bool, pip: str) -> None:
    assert place_of(identity, local=local).pip == pip


def test_jetpacks_python_and_a_build_without_cuda() -> None:
    place = place_of(ORIN, local=False)
    (found,) = providers({"onnxruntime": CPU}, ORIN, place)
    assert (found.name, found.state, found.asked) == ("run onnxruntime CUDA", "broken", True)
    assert found.detail == "ONNX Runtime 1.23.0 has no CUDA; JetPack needs NVIDIA's build"
    assert "6.1" in found.remedy
    sentence = "python3 on ssh:orin has no NumPy; there type: python3 -m venv ~/.vitedge && x install numpy onnxruntime"
    bare = ability("run onnxruntime", Outcome("onnxruntime", "absent", error=sentence), place, asked=True)
    assert bare.detail == "python3 on ssh:orin has no NumPy"
    assert bare.remedy.startswith("python3 -m venv ~/.vitedge && x install numpy, and the ONNX Runtime for 6.1")


def test_two_packages_of_onnxruntime_are_broken_where_one_hides_the_others_cuda() -> None:
    both = {"distributions": {"onnxruntime": "1.23.0", "onnxruntime-gpu": "1.23.0"}}
    (found,) = providers({"onnxruntime": CPU}, both, Place())
    assert found.state == "broken"
    assert found.remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu")
    cuda = Outcome("onnxruntime", "works", {**CPU.told, "providers": ["CUDAExecutionProvider"]})
    assert list(providers({"onnxruntime": cuda}, both, Place())) == []
    assert list(providers({"onnxruntime": CPU}, {"distributions": {"onnxruntime": "1.23.0"}}, Place())) == []


def works(name: str, detail: str) -> Ability:
    return Ability(name, "works", detail, asked=True)


def test_tensorrts_python_and_trtexec_have_to_be_of_one_release() -> None:
    same = (works("run tensorrt", "10.3.0 on Orin"), works("run trtexec", "10.3.0"))
    assert engines(same, {}) == same
    _, program = engines((works("run tensorrt", "10.3.0 on Orin"), works("run trtexec", "8.6.1")), {})
    assert (program.state, program.detail) == (
        "broken", "it is of TensorRT 8.6.1, Python has 10.3.0: neither loads the other's engines",
    )  # fmt: skip


def test_trtexec_alone_is_enough_for_engines_and_python_that_lacks_tensorrt_is_explained() -> None:
    absent = Ability("run tensorrt", "missing", "tensorrt is not installed", "pip install tensorrt", asked=True)
    python, program = engines((absent, works("run trtexec", "10.3.0")), ORIN)
    assert (python.state, python.asked, program.asked) == ("not here", False, True)
    assert python.detail == "TensorRT 10.3.0 is installed, but not for /usr/bin/python3"
    assert "--system-site-packages" in python.remedy
    gone = Ability("run trtexec", "missing", "no trtexec", "", asked=True)
    assert engines((works("run tensorrt", "10.3.0"), gone), {})[1].state == "not here"
    assert [one.state for one in engines((absent, gone), {})] == ["missing", "missing"]


def test_a_runtime_that_is_older_than_what_the_files_are_for_is_broken() -> None:
    one = works("run onnxruntime", "1.16.3")
    for oldest in ("", "1.16", "1.16.3", "1.9"):
        assert new_enough(one, oldest, Place(), "onnxruntime") == one
    old = new_enough(one, "1.18", Place(), "onnxruntime")
    assert (old.state, old.detail) == ("broken", "1.16.3 is older than 1.18, which the files are for")
    assert old.remedy == "pip install --upgrade onnxruntime"


def test_one_reason_is_told_once() -> None:
    first, second = (Ability(name, "broken", "no GPU", "buy one", asked=True) for name in ("a", "b"))
    other = Ability("c", "broken", "something else", "x", asked=True)
    told = without_repetition((first, second, other), {"c": ("a",), "a": ("b", "none")})
    assert [one.detail for one in told] == ["as b", "no GPU", "as a"]
    assert [one.remedy for one in told] == ["", "buy one", ""]


def test_a_device_that_runs_nothing_lacks_a_runtime() -> None:
    nothing = (Ability("run onnxruntime", "not here"), Ability("run openvino", "not here"))
    assert [one.state for one in without_runtime(nothing)] == ["missing", "not here"]
    assert without_runtime((*nothing, works("run trtexec", "8.6.1")))[0].state == "not here"
    assert without_runtime(()) == ()


@pytest.mark.parametrize("name", NAMES)
def test_recorded_boards_are_remarked_on_only_where_something_is_to_be_done(name: str) -> None:
    told = facts.condition(texts(name))
    found = [remark.text for remark in remarks(told, {})]
    assert any("power mode" in text for text in found) == (not told.get("power_mode", "MAXN").startswith("MAXN"))
    assert sum("throttled now" in text for text in found) == len(told.get("throttled", ()))


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"governor": "powersave"}, ["governor powersave"]),
        ({"governor": "powersave", "scaling_driver": "intel_pstate"}, []),
        ({"governor": "schedutil", "temperatures": {"cpu": 60.0}}, []),
        ({"power_mode": "15W"}, ["15W is not the largest"]),
        ({"power_mode": "MAXN_SUPER"}, []),
        ({"temperatures": {"cpu": 91.2, "gpu": 88.0}}, ["cpu is 91 degrees"]),
        ({"throttled": ["the firmware caps the clock"]}, ["throttled now: the firmware caps the clock"]),
    ],
)
def test_states_that_cost_speed(condition: dict[str, Any], words: list[str]) -> None:
    found = [remark.text for remark in remarks(condition, {"memory_mb": 8000})]
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


def test_too_little_memory_is_a_remark_and_a_full_disk_is_broken() -> None:
    assert "90 MB of memory" in remarks({}, {"memory_mb": 90})[0].text
    room = {"folders": {"cache": "/a"}, "free_mb": {"cache": 12}}
    assert crowded(room) == ("12 MB are free for the cache in /a", "free some space in /a")
    assert crowded({"folders": {"cache": "/a"}, "free_mb": {"cache": 1200}}) == ("", "")
