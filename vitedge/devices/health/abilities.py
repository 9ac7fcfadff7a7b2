# SPDX-License-Identifier: Apache-2.0
"""What can be done on a device, from the outcomes of trials there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from vitedge.devices.health.breakages import JETSON_BUILDS, Place, at_least, explain
from vitedge.devices.health.names import BROKEN, ELSEWHERE, GPU_PROVIDERS, WORKS
from vitedge.devices.health.outcomes import TRTEXEC, Outcome
from vitedge.devices.health.records import Ability
from vitedge.devices.interpreter import VENV

WORKING, FAILING, MISSING, NOT_HERE = "works", "broken", "missing", "not here"
"""Values of `Ability.state`."""
_INSTALLED_BY: Mapping[str, str] = {
    "tensorrt-rtx": "'vitedge[tensorrt-rtx]'",
    "coreml": "'coremltools>=9.0' 'numpy<2.4'",
    "mlprogram": "'coremltools>=9.0' 'numpy<2.4'",
    "trace": "'coremltools>=9.0' 'numpy<2.4'",
    "torch": "torch torchvision timm",
    "onnx": "onnx onnxscript onnx-ir onnxruntime",
}
"""Trial to what pip installs, where it is not the package of that name."""
_PACKAGES: Mapping[str, str] = {"coreml": "coremltools", "mlprogram": "coremltools", "trace": "coremltools"}
_TITLES: Mapping[str, str] = {
    "CUDAExecutionProvider": "CUDA",
    "TensorrtExecutionProvider": "TensorRT",
    "NvTensorRTRTXExecutionProvider": "TensorRT RTX",
    "CoreMLExecutionProvider": "Core ML",
    "OpenVINOExecutionProvider": "OpenVINO",
    "XnnpackExecutionProvider": "XNNPACK",
}


def place_of(identity: Mapping[str, Any], *, local: bool) -> Place:
    """Returns what remedies depend on: the command that installs there, and what is installed."""
    program = str(identity.get("program") or "python3")
    pip = "pip" if local else f"{program} -m pip"
    if identity.get("managed"):
        pip = VENV
    jetpack = identity.get("jetpack") or identity.get("l4t") or ""
    return Place(pip, dict(identity.get("versions", {})), str(jetpack))


def ability(name: str, outcome: Outcome, place: Place, *, asked: bool) -> Ability:
    """Returns the ability that a trial was for.

    Args:
        name: of the ability.
        outcome: of the trial.
        place: where it was tried.
        asked: whether it was asked for by name, so that it is missing where it is not installed.
    """
    trial = outcome.trial.partition(" ")[0]
    package = _PACKAGES.get(trial, trial)
    if outcome.state == WORKS:
        return Ability(name, WORKING, _detail(outcome), asked=True)
    if outcome.state == BROKEN:
        why, remedy = explain(outcome, package, place)
        return Ability(name, FAILING, why, remedy, asked=True, error=outcome.error)
    state = MISSING if asked else NOT_HERE
    error = re.sub(r"^(?:[Tt]his machine|\S+:\S+) has ", "", outcome.error.rstrip("."))
    if outcome.state == ELSEWHERE:
        return Ability(name, state, error, asked=asked)
    if " " in error:  # a sentence that says more than the name of a package
        why, _, remedy = error.partition("; ")
        remedy = remedy.removeprefix("there type: ")
        if place.jetpack and trial == "onnxruntime":
            remedy = f"{remedy.removesuffix(' onnxruntime')}, and the ONNX Runtime for {place.jetpack}: {JETSON_BUILDS}"
        return Ability(name, state, why, remedy, asked=asked)
    by = _INSTALLED_BY.get(trial, package)
    return Ability(name, state, f"{outcome.error} is not installed", f"{place.pip} install {by}", asked=asked)


def _detail(outcome: Outcome) -> str:
    told = dict(outcome.told)
    if "version" in told:
        version = str(told["version"])
        return f"{version} on {told['gpu']}" if told.get("gpu") else version
    return ", ".join(f"{name} {version}" for name, version in told.items())


def providers(found: Mapping[str, Outcome], identity: Mapping[str, Any], place: Place) -> Iterator[Ability]:
    """Yields an ability for each execution provider of ONNX Runtime that was tried, and for one that should be there.

    Args:
        found: the outcomes of the device.
        identity: the device; what its Python has installed is among it.
        place: where it was tried.
    """
    for outcome in found.values():
        runtime, _, provider = outcome.trial.partition(" ")
        if runtime == "onnxruntime" and provider:
            yield ability(f"run onnxruntime {_TITLES.get(provider, provider)}", outcome, place, asked=False)
    base = found.get("onnxruntime")
    if base is None or base.state != WORKS or set(GPU_PROVIDERS) & set(base.told.get("providers", ())):
        return
    installed = identity.get("distributions", {})
    if "onnxruntime-gpu" in installed and "onnxruntime" in installed:
        yield Ability(
            "run onnxruntime CUDA",
            FAILING,
            "onnxruntime and onnxruntime-gpu are both installed, and the first hides the second's CUDA",
            f"{place.pip} uninstall -y onnxruntime onnxruntime-gpu && {place.pip} install onnxruntime-gpu",
            asked=True,
        )
    elif place.jetpack:
        why = f"ONNX Runtime {base.told.get('version', '')} has no CUDA; JetPack needs NVIDIA's build"
        remedy = f"install the one for {place.jetpack}, see {JETSON_BUILDS}"
        yield Ability("run onnxruntime CUDA", FAILING, why, remedy, asked=True)


def new_enough(one: Ability, oldest: str, place: Place, package: str) -> Ability:
    """Returns an ability to run what was made for a release and newer ones.

    Args:
        one: the ability.
        oldest: the release, such as ``1.18``; empty is any.
        place: where it was tried.
        package: the distribution of the runtime.
    """
    if one.state != WORKING or not oldest or at_least(one.detail, oldest):
        return one
    why = f"{one.detail} is older than {oldest}, which the files are for"
    return replace(one, state=FAILING, detail=why, remedy=f"{place.pip} install --upgrade {package}")


def engines(abilities: Iterable[Ability], identity: Mapping[str, Any]) -> tuple[Ability, ...]:
    """Returns the abilities with what TensorRT's Python and trtexec mean to each other."""
    found = {one.name: one for one in abilities}
    python, program = found.get("run tensorrt"), found.get(f"run {TRTEXEC}")
    if python is None or program is None:
        return tuple(found.values())
    versions = [one.detail.partition(" ")[0] for one in (python, program)]
    if python.state == program.state == WORKING and not _same_release(*versions):
        why = f"it is of TensorRT {versions[1]}, Python has {versions[0]}: neither loads the other's engines"
        found[program.name] = replace(program, state=FAILING, detail=why, remedy="install both in one version")
    installed = identity.get("tensorrt", "")
    if python.state in (NOT_HERE, MISSING) and installed and identity.get("program"):
        why = f"TensorRT {installed} is installed, but not for {identity['program']}"
        remedy = "python3 -m venv --system-site-packages ~/.vitedge"
        found[python.name] = replace(python, detail=why, remedy=remedy)
    if program.state == WORKING and python.state == MISSING:
        found[python.name] = replace(found[python.name], state=NOT_HERE, asked=False)
        found[program.name] = replace(program, asked=True)
    elif python.state == WORKING and program.state == MISSING:
        found[program.name] = replace(program, state=NOT_HERE, asked=False)
    return tuple(found.values())


def without_repetition(
    abilities: Iterable[Ability], needs: Mapping[str, tuple[str, ...]] = MappingProxyType({})
) -> tuple[Ability, ...]:
    """Returns the abilities, of which those that fail for the reason of another one only name that one.

    Args:
        abilities: in their order.
        needs: name of an ability to those that it cannot do without.
    """
    seen: dict[tuple[str, str], str] = {}
    kept = []
    listed = tuple(abilities)
    bad = {one.name for one in listed if one.state == FAILING}
    for one in listed:
        reason = next((name for name in needs.get(one.name, ()) if name in bad), "")
        if one.state == FAILING and reason:
            kept.append(replace(one, detail=f"as {reason}", remedy=""))
            continue
        key = (one.detail, one.remedy)
        if one.state != WORKING and one.detail and key in seen:
            kept.append(replace(one, detail=f"as {seen[key]}", remedy=""))
            continue
        seen.setdefault(key, one.name)
        kept.append(one)
    return tuple(kept)


def without_runtime(abilities: tuple[Ability, ...]) -> tuple[Ability, ...]:
    """Returns the abilities of a device; where it runs nothing and nothing is broken, its first runtime is missing."""
    if any(one.state != NOT_HERE for one in abilities) or not abilities:
        return abilities
    return (replace(abilities[0], state=MISSING, asked=True), *abilities[1:])


def _same_release(first: str, second: str) -> bool:
    return at_least(first.rpartition(".")[0], "0") and first.split(".")[:2] == second.split(".")[:2]
