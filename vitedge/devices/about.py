# SPDX-License-Identifier: Apache-2.0
"""What the Python of a device has: its version, and those of the libraries that run models. A part of the runner."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from typing import Any

from vitedge import registry
from vitedge.devices.processors import cores, processors

LIBRARIES = ("numpy", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "coremltools", "PIL")
"""Import names of what a model needs there."""
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
"""Names that packages are installed by whose files lie in one folder: the last one that was installed wins."""


def about() -> dict[str, Any]:
    """Returns the facts; a library that cannot be imported has an entry in ``broken``, with what it says."""
    versions, broken = {}, {}
    for name in LIBRARIES:
        try:
            versions[name] = str(getattr(__import__(name), "__version__", "unknown"))
        except ImportError as error:
            if getattr(error, "name", "") != name:
                broken[name] = _line(error)
        except (Exception, SystemExit) as error:  # a library that is there, and whose own start failed
            broken[name] = _line(error)
    return {
        **installed(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": cores(),
        "processors": processors(),
        "versions": versions,
        "broken": broken,
        "providers": _providers() if "onnxruntime" in versions else [],
    }


def installed() -> dict[str, Any]:
    """Returns what is known without importing a library; ``managed`` is whether PEP 668 forbids pip to install here."""
    return {
        "python": platform.python_version(),
        "program": sys.executable,
        "distributions": registry.versions(DISTRIBUTIONS),
        "managed": _managed(),
    }


def _providers() -> list[str]:
    import onnxruntime  # noqa: PLC0415 - which a device need not have

    return list(onnxruntime.get_available_providers())


def _managed() -> bool:
    marker = os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    return sys.prefix == sys.base_prefix and os.path.isfile(marker)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
