# SPDX-License-Identifier: Apache-2.0
"""What a device is, from the texts of `vitedge.devices.facts.reading.IDENTITY`.

Nothing here fails: what is absent, or not as expected, is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vitedge.devices.facts import boards, reading

Texts = Mapping[str, str]


def identity(texts: Texts) -> dict[str, Any]:
    """Returns the facts that do not change during a measurement.

    Args:
        texts: what was read of `vitedge.devices.facts.reading.IDENTITY`.

    Returns:
        Plain JSON values under ``model, processor, soc, architecture, cores`` (physical), ``processors`` (logical),
        ``clock_max_mhz, memory_mb`` (10^6 bytes), ``isa`` (names of `vitedge.devices.facts.boards.ISA`), ``os,
        kernel, android, l4t, jetpack, gpu, gpus, sm`` (such as ``SM87``), ``gpu_memory_mb, driver, cuda, tensorrt,
        trtexec`` (its path), ``python, versions, providers`` and ``problems`` (packages that cannot be imported).
        What is not known is left out.
    """
    system, _, kernel = texts.get(reading.line(reading.SYSTEM), "").partition(" ")
    architecture = texts.get(reading.line(reading.MACHINE), "")
    facts: dict[str, Any] = {
        "model": _model(texts),
        "processor": _processor(texts),
        "soc": _soc(texts),
        "architecture": architecture,
        "cores": _cores(texts),
        "processors": _processors(texts),
        "clock_max_mhz": _clock_max(texts),
        "memory_mb": _memory(texts),
        "isa": _isa(texts, architecture),
        "os": _operating_system(texts) or f"{system} {kernel}".strip(),
        "kernel": kernel,
        "android": _property(texts, "ro.build.version.release"),
        **_jetson(texts),
        **_gpu(texts),
        "cuda": _cuda(texts),
        "trtexec": text_of(texts, "ls").partition("\n")[0],
        **_python(texts),
    }
    facts["tensorrt"] = _tensorrt(texts) or facts.get("versions", {}).get("tensorrt", "")
    return {name: value for name, value in facts.items() if value or (name == "isa" and value is not None)}


def text_of(texts: Texts, *words: str) -> str:
    """Returns the text of the first command that begins with these words; empty where it was not run."""
    begin = reading.line(words)
    return next((text for key, text in texts.items() if key == begin or key.startswith(f"{begin} ")), "")


def entries(text: str) -> Iterator[tuple[str, str]]:
    """Yields name and value of each line ``name: value``."""
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()


def number(text: str) -> float | None:
    """Returns the number that a text is; None where it is none, or not finite."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e18 else None  # not for NaN either


def _whole(text: str) -> int:
    return int(number(text) or 0)


def _property(texts: Texts, name: str) -> str:
    return texts.get(reading.line(("getprop", name)), "")


def _model(texts: Texts) -> str:
    android = f"{_property(texts, 'ro.product.manufacturer')} {_property(texts, 'ro.product.model')}".strip()
    board = texts.get("/proc/device-tree/model") or texts.get("/sys/class/dmi/id/product_name")
    return android or board or _sysctl(texts).get("hw.model", "")


def _sysctl(texts: Texts) -> dict[str, str]:
    return dict(entries(text_of(texts, "sysctl", "hw.model")))


def _cpuinfo(texts: Texts) -> list[dict[str, str]]:
    """Returns the entries of each block of /proc/cpuinfo."""
    blocks = re.split(r"\n\s*\n", texts.get("/proc/cpuinfo", ""))
    return [dict(entries(block)) for block in blocks]


def _processor(texts: Texts) -> str:
    blocks = _cpuinfo(texts)
    parts = [f"{block.get('CPU implementer')} {block.get('CPU part')}" for block in blocks if "CPU part" in block]
    if parts and all(part in boards.PARTS for part in parts):
        return " + ".join(dict.fromkeys(boards.PARTS[part] for part in parts))
    names = [block[name] for name in ("model name", "Hardware") for block in blocks if name in block]
    return next(iter(names), "") or _sysctl(texts).get("machdep.cpu.brand_string", "")


def _soc(texts: Texts) -> str:
    """Returns the name of the SoC, which the device tree has last of the names that it is compatible with."""
    compatible = [name for name in re.split(r"[\0\n]", texts.get("/proc/device-tree/compatible", "")) if name]
    told = compatible[-1].rpartition(",")[2] if compatible else ""
    return _property(texts, "ro.soc.model") or told or _property(texts, "ro.board.platform")


def _cores(texts: Texts) -> int:
    siblings = {text for path, text in texts.items() if path.endswith("/topology/thread_siblings_list")}
    return len(siblings) or _whole(_sysctl(texts).get("hw.physicalcpu", "")) or _processors(texts)


def _processors(texts: Texts) -> int:
    told = sum("processor" in block and block["processor"].isdigit() for block in _cpuinfo(texts))
    return told or _whole(_sysctl(texts).get("hw.logicalcpu", ""))


def _clock_max(texts: Texts) -> int:
    return max((_whole(text) for path, text in texts.items() if path.endswith("/cpuinfo_max_freq")), default=0) // 1000


def _memory(texts: Texts) -> int:
    told = dict(entries(texts.get("/proc/meminfo", ""))).get("MemTotal", "").partition(" ")[0]
    return _whole(told) * 1024 // 10**6 or _whole(_sysctl(texts).get("hw.memsize", "")) // 10**6


def _isa(texts: Texts, architecture: str) -> list[str] | None:
    """Returns the extensions that every processor of the device has; None where the device does not tell.

    Where a processor is emulated, /proc/cpuinfo is that of the one beneath, with the other's name for the entry.
    """
    names = {"aarch64": ("Features",), "x86_64": ("flags",)}.get(architecture, ("Features", "flags"))
    flags = [set(block[name].split()) for block in _cpuinfo(texts) for name in names if name in block]
    common = set.intersection(*flags) if flags else set()
    for name, value in _sysctl(texts).items():
        if name.startswith("hw.optional.arm.") and value == "1":
            common.add(name.rpartition(".")[2])
        elif name in ("machdep.cpu.features", "machdep.cpu.leaf7_features"):
            common |= set(value.split())
    found = [name for name, spellings in boards.ISA.items() if common & set(spellings)]
    return found if common else None


def _operating_system(texts: Texts) -> str:
    android, level = (_property(texts, f"ro.build.version.{name}") for name in ("release", "sdk"))
    if android:
        return f"Android {android} (API {level})" if level else f"Android {android}"
    for line in texts.get("/etc/os-release", "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip("\"'")
    macos = dict(entries(texts.get("sw_vers", "")))
    return f"{macos.get('ProductName', '')} {macos.get('ProductVersion', '')}".strip()


def _packages(texts: Texts) -> dict[str, str]:
    pairs = (line.partition(" ") for line in text_of(texts, "dpkg-query").splitlines())
    return {name: version.strip() for name, _, version in pairs if version.strip()}


def _jetson(texts: Texts) -> dict[str, str]:
    told = re.search(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", texts.get("/etc/nv_tegra_release", ""))
    packages = _packages(texts)
    packaged = re.match(r"\d+(?:\.\d+)+", packages.get("nvidia-l4t-core", ""))
    l4t = f"{told[1]}.{told[2]}" if told else packaged[0] if packaged else ""
    installed = re.match(r"\d+(?:\.\d+)+", packages.get("nvidia-jetpack", ""))
    return {"l4t": l4t, "jetpack": installed[0] if installed else boards.jetpack(l4t)}


def _gpu(texts: Texts) -> dict[str, Any]:
    """Returns the facts of the first GPU, and how many there are where there are several."""
    told = text_of(texts, *reading.GPU)
    rows = [row for line in told.splitlines() if len(row := line.split(", ")) == 3]
    name, driver, memory = rows[0] if rows else ("", "", "")
    asked = text_of(texts, *reading.CAPABILITY).partition("\n")[0].strip()
    capability = asked if re.fullmatch(r"\d+\.\d", asked) else boards.COMPUTE_CAPABILITY.get(_soc(texts), "")
    return {
        "gpu": name,
        "gpus": len(rows) if len(rows) > 1 else 0,
        "gpu_memory_mb": int(_whole(memory) * 2**20 / 1e6),
        "driver": driver if driver[:1].isdigit() else "",
        "sm": f"SM{capability.replace('.', '')}" if capability else "",
    }


def _cuda(texts: Texts) -> str:
    folder = "/usr/local/cuda"
    told = " ".join(
        (texts.get(f"{folder}/version.txt", ""), _json(texts, f"{folder}/version.json"), text_of(texts, "nvcc"))
    )
    found = re.search(r"(?:CUDA Version |, V)(\d+\.\d+(?:\.\d+)?)", told)
    return found[1] if found else ""


def _json(texts: Texts, path: str) -> str:
    document = _parsed(texts.get(path, ""))
    cuda = document.get("cuda")
    return f"CUDA Version {cuda.get('version')}" if isinstance(cuda, dict) else ""


def _tensorrt(texts: Texts) -> str:
    for name, version in _packages(texts).items():
        found = re.match(r"\d+\.\d+\.\d+", version)
        if found and re.fullmatch(r"libnvinfer\d+", name):
            return found[0]
    return ""


def _python(texts: Texts) -> dict[str, Any]:
    told = _parsed(texts.get(reading.PYTHON, ""))
    kinds = {"python": str, "versions": dict, "providers": list, "problems": dict}
    return {name: told[name] for name, kind in kinds.items() if isinstance(told.get(name), kind)}


def _parsed(text: str) -> dict[str, Any]:
    """Returns the JSON object that a text is, or that its last line is; empty where there is none."""
    for part in (text, text.rpartition("\n")[2]):
        try:
            document = json.loads(part)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict):
            return document
    return {}
