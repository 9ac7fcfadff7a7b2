# SPDX-License-Identifier: Apache-2.0
"""Writes to standard output, as one JSON document, the versions that the Python which runs it has.

It is sent to devices as a text and runs alone there, on Python 3.6 and newer. A package that is installed and cannot
be imported is named with its error; one whose import takes long is asked for its version only.
"""

import json
import platform
import sys

IMPORTED = ("numpy", "onnxruntime", "tensorrt")
LISTED = ("vitedge", "torch", "timm", "onnx", "coremltools", "openvino", "tensorrt-rtx", "onnxruntime-gpu")


def versions() -> object:
    """Returns the version of Python, those of its packages, ONNX Runtime's providers, and errors of imports."""
    found: dict[str, str] = {}  # inside a function, older versions do not read annotations
    problems: dict[str, str] = {}
    facts: dict[str, object] = {"python": platform.python_version(), "versions": found, "problems": problems}
    for name in IMPORTED:
        try:
            module = __import__(name)
            found[name] = str(module.__version__)
            if name == "onnxruntime":
                facts["providers"] = list(module.get_available_providers())
        except Exception as error:
            if not (isinstance(error, ImportError) and getattr(error, "name", None) == name):
                reason = str(error).partition("\n")[0]
                problems[name] = f"{type(error).__name__}: {reason}"
    try:
        metadata = __import__("importlib.metadata", fromlist=["version"])
    except ImportError:  # before Python 3.8
        return facts
    for name in LISTED:
        try:
            found[name] = str(metadata.version(name))
        except metadata.PackageNotFoundError:
            continue
    return facts


json.dump(versions(), sys.stdout)
