# SPDX-License-Identifier: Apache-2.0
"""Of `about`: what the Python of a device has, and what is to be typed there."""

from __future__ import annotations

from typing import Any

import pytest

from vitedge.devices.about import about
from vitedge.devices.interpreter import Interpreter

FACTS: dict[str, Any] = {"system": "Linux", "versions": {"numpy": "1.26.4"}, "broken": {}, "managed": False}


@pytest.mark.parametrize(
    ("managed", "typed"),
    [
        (False, "/usr/bin/python3 -m pip install onnxruntime"),
        (True, "python3 -m venv ~/.vitedge && ~/.vitedge/bin/pip install onnxruntime"),
    ],
)
def test_what_is_to_be_typed_works_where_pip_may_not_install(managed: bool, typed: str) -> None:
    one = Interpreter("/usr/bin/python3", {**FACTS, "managed": managed})
    assert one.refusal("onnxruntime", "ssh:pi") == f"ONNX Runtime is not installed on ssh:pi; there type: {typed}"


def test_a_library_that_cannot_be_imported_is_told_with_its_reason() -> None:
    one = Interpreter("python3", {**FACTS, "broken": {"onnxruntime": "no libgomp"}})
    assert one.refusal("onnxruntime", "ssh:pi").endswith("cannot be imported: no libgomp.")
    assert "does not run on ssh:pi" in one.refusal("torch", "ssh:pi")
    assert "does not run on Linux" in one.refusal("coreml", "ssh:pi")


def test_this_python_tells_what_is_installed_in_it() -> None:
    told = about()
    assert told["broken"] == {}
    assert told["distributions"]["onnxruntime"] == told["versions"]["onnxruntime"]
    assert not told["managed"]  # an environment of its own
