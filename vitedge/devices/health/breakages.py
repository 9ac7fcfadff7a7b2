# SPDX-License-Identifier: Apache-2.0
"""Known breakages: what a library says where it fails, why it does, and what mends it.

Whether something is broken is found by trying it; this table only explains what was found. Sources are the issues of
the projects, named beside each entry where there is one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vitedge.devices.health.outcomes import Outcome
from vitedge.sentences import short

JETSON_BUILDS = "https://elinux.org/Jetson_Zoo#ONNX_Runtime"


@dataclass(frozen=True)
class Breakage:
    """One known breakage."""

    says: str
    """A pattern of what is said; its groups can be named in the texts."""
    why: str
    remedy: str
    """``{pip}`` is the command that installs there, ``{package}`` what was tried."""
    trials: tuple[str, ...] = ()
    """Beginnings of the names of trials that it is about; empty is all."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package to ``>=VERSION`` or ``<VERSION``, all of which hold."""


@dataclass(frozen=True)
class Place:
    """What remedies depend on."""

    pip: str = "pip"
    """The command that installs into the Python that was tried."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package to its installed version."""
    jetpack: str = ""
    """Release of JetPack or of L4T; empty on other machines."""


BREAKAGES: Sequence[Breakage] = (
    # apple/coremltools#2633
    Breakage(
        r"only 0-dimensional arrays can be converted to Python scalars|only length-1 arrays can be converted",
        "coremltools {coremltools} converts no traced model with NumPy {numpy}",
        "{pip} install 'numpy<2.4'",
        versions={"numpy": ">=2.4"},
    ),
    # apple/coremltools#2465, #2617: pip takes the source where there is no wheel
    Breakage(
        r"BlobWriter not loaded|BlobReader not loaded|No module named 'coremltools\.lib(milstorage|modelpackage)",
        "coremltools came without its native parts: there is no wheel for this Python or processor",
        "take Python 3.10 to 3.13 on x86-64 Linux or macOS, there: pip install --force-reinstall 'coremltools>=9.0'",
    ),
    # pytorch/pytorch#122494, #157648
    Breakage(
        r"operator torchvision::\w+ does not exist|torchvision[^\n]*undefined symbol|Couldn't load custom C\+\+ ops",
        "torch {torch} and torchvision {torchvision} are not of one build",
        "{pip} install --force-reinstall torch torchvision",
    ),
    Breakage(
        r"_ARRAY_API not found|numpy\.core\.multiarray failed to import|compiled using NumPy 1\.x cannot be run",
        "{package} {version} was built for NumPy 1, and NumPy {numpy} is installed",
        "{pip} install --upgrade {package}, or {pip} install 'numpy<2'",
    ),
    # microsoft/onnxruntime#25609, #26996
    Breakage(
        r"(?P<lib>lib(?:cudnn|cublas|cudart|cufft|curand|nvrtc)\w*\.so[.\d]*): cannot open shared object file",
        "{lib} is not found, so that ONNX Runtime falls back to the processor",
        "{pip} install 'onnxruntime-gpu[cuda,cudnn]'",
        trials=("onnxruntime",),
    ),
    Breakage(
        r"(?P<lib>libnvinfer\w*\.so[.\d]*): cannot open shared object file",
        "{lib} of TensorRT is not found, so that ONNX Runtime falls back",
        "install the TensorRT that has {lib}, and add its folder to LD_LIBRARY_PATH",
        trials=("onnxruntime",),
    ),
    Breakage(
        r"(?P<lib>libnv(?:infer|onnxparser)\w*\.so[.\d]*): cannot open shared object file",
        "TensorRT's Python finds no {lib}: its libraries are absent, or of another version",
        "{pip} install --force-reinstall tensorrt, or add the folder of {lib} to LD_LIBRARY_PATH",
    ),
    Breakage(
        r"asked for (?P<provider>\w+), ONNX Runtime took",
        "ONNX Runtime lists {provider} and falls back to the processor",
        "check the versions of CUDA and cuDNN that onnxruntime-gpu {onnxruntime} needs",
    ),
    Breakage(
        r"Unsupported model IR version: (?P<has>\d+), max supported IR version: (?P<most>\d+)",
        "onnx {onnx} writes IR version {has}, and ONNX Runtime {onnxruntime} reads {most} at most",
        "{pip} install --upgrade onnxruntime",
    ),
    Breakage(
        r"Opset (?P<has>\d+) is under development|ai\.onnx[^\n]*opset (?P<also>\d+)[^\n]*(?:support|guarantee)",
        "ONNX Runtime {onnxruntime} is older than the operators that onnx {onnx} writes",
        "{pip} install --upgrade onnxruntime",
    ),
    Breakage(
        r"Descriptors cannot be created directly|cannot import name 'runtime_version' from 'google\.protobuf'"
        r"|Detected incompatible Protobuf Gencode/Runtime versions|MessageFactory' object has no attribute",
        "protobuf {protobuf} does not fit the code that {package} was generated with",
        "{pip} install --upgrade protobuf onnx coremltools",
    ),
    Breakage(
        r"cannot allocate memory in static TLS block",
        "a library of OpenMP was loaded too late, a known fault of 64-bit Arm",
        "export LD_PRELOAD=$(ldconfig -p | grep -o '/.*libgomp.so.1' | head -n 1)",
    ),
    Breakage(
        r"killed by SIGILL",
        "it has instructions that this processor lacks",
        "export OPENBLAS_CORETYPE=ARMV8, or install an older {package}",
    ),
    Breakage(
        r"version [`'](?P<lib>GLIBC(?:XX)?_[\d.]+)' not found",
        "{package} needs {lib}, which is newer than this system",
        "install an older {package}, or a newer system",
    ),
    Breakage(
        r"DLL load failed",
        "a DLL that {package} needs is not found",
        "install Microsoft's Visual C++ Redistributable of 2015 to 2022",
    ),
)
"""The table, in the order in which it is searched."""

_DISTRIBUTIONS = {"tensorrt-rtx": "tensorrt-rtx-cu12", "torch": "torch torchvision timm", "mlprogram": "coremltools"}
_DISTRIBUTIONS_OF = {"onnx_ir": "onnx-ir", "tensorrt_rtx": "tensorrt-rtx"}
"""Import name to what is installed by pip, where they differ."""
_FALLBACK = "{pip} install --force-reinstall {package}"


def explain(outcome: Outcome, package: str, place: Place) -> tuple[str, str]:
    """Returns why a trial failed, and what mends it; where it is no known breakage, its error and a new installation.

    Args:
        outcome: of the trial.
        package: the distribution that it is about.
        place: what is installed there.
    """
    text = f"{outcome.error}\n{outcome.said}"
    blamed = re.match(r"RuntimeError: (\w+) cannot be imported(?:\n(.*))?", outcome.error)
    package = _blamed(outcome, place) or package
    for known in BREAKAGES:
        if known.trials and not outcome.trial.startswith(known.trials):
            continue
        found = re.search(known.says, text)
        if found and _hold(known.versions, place.versions):
            values = _Values({**place.versions, **{k: v for k, v in found.groupdict().items() if v}})
            values.update(pip=place.pip, package=package, version=place.versions.get(package, ""))
            return _tidy(known.why.format_map(values)), known.remedy.format_map(values)
    first = (blamed[2] if blamed else "") or outcome.error.partition("\n")[0]
    remedy = _FALLBACK.format(pip=place.pip, package=_DISTRIBUTIONS.get(package, package))
    return short(Exception(first)), remedy


def _blamed(outcome: Outcome, place: Place) -> str:
    """Returns the package whose import failed, or ended the process; empty where that is not known."""
    named = re.findall(r"^RuntimeError: (\w+) cannot be imported", outcome.error)
    if "killed by" in outcome.error:
        passed = [part for path in re.findall(r'File "(.+)", line', outcome.said) for part in re.split(r"[/\\]", path)]
        named = [name for name in reversed(passed) if name in place.versions and name != "numpy"]
    return _DISTRIBUTIONS_OF.get(named[0], named[0]) if named else ""


def at_least(version: str, least: str) -> bool:
    """Returns whether a version such as ``2.3.5`` is the other one or newer."""
    return _numbers(version) >= _numbers(least)


class _Values(dict[str, str]):
    """Values of a text; one that is not known is left out."""

    def __missing__(self, key: str) -> str:
        return ""


def _hold(wanted: Mapping[str, str], versions: Mapping[str, str]) -> bool:
    for package, bound in wanted.items():
        newer = package in versions and at_least(versions[package], bound.lstrip("<>="))
        if newer != bound.startswith(">"):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part[:9]) for part in re.findall(r"\d+", version)[:3])


def _tidy(text: str) -> str:
    return " ".join(text.split())
