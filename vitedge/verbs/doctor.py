# SPDX-License-Identifier: Apache-2.0
"""The verb ``doctor``: what a device is, what can be done there, which profile fits, what is broken, what mends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vitedge.devices.fitting import AUTO, fitting, fitting_profile
from vitedge.devices.health.abilities import (
    FAILING,
    MISSING,
    ability,
    engines,
    new_enough,
    place_of,
    providers,
    without_repetition,
    without_runtime,
)
from vitedge.devices.health.breakages import Place
from vitedge.devices.health.names import PROVIDERS, WORKS
from vitedge.devices.health.outcomes import TRTEXEC, Outcome, outcomes, process_here
from vitedge.devices.health.records import Ability, Checkup
from vitedge.devices.health.state import crowded, remarks
from vitedge.devices.profiles import Profile, named
from vitedge.devices.session import Session, connect
from vitedge.export.formats import FORMATS
from vitedge.progress import Progress, reporting, stage
from vitedge.registry import LOCAL, versions

HERE: Mapping[str, str] = {
    "torch": "read checkpoints",
    "onnx": "export onnx",
    "coreml": "export coreml",
    "tensorrt-rtx": "export tensorrt (RTX)",
    "tensorrt": "export tensorrt",
    "mlprogram": "check coreml",
    "trace": "convert traces",
}
"""Trial of `vitedge.verbs.trials.TRIALS` to the name of what it shows; these are done on this machine."""
THERE: Mapping[str, str] = {
    "onnxruntime": "run onnxruntime",
    "openvino": "run openvino",
    "coreml": "run coreml",
    "tensorrt": "run tensorrt",
    "tensorrt-rtx": "run tensorrt (RTX)",
    TRTEXEC: f"run {TRTEXEC}",
}
"""Trial of `vitedge.devices.health.trials.TRIALS`, or trtexec, to the name of what it shows; done on the device."""
_NEEDS: Mapping[str, tuple[str, ...]] = {
    HERE["onnx"]: (HERE["torch"], THERE["onnxruntime"]),
    HERE["coreml"]: (HERE["torch"],),
    HERE["tensorrt-rtx"]: (HERE["torch"], THERE["onnxruntime"]),
    HERE["tensorrt"]: (HERE["torch"], THERE["onnxruntime"]),
    HERE["mlprogram"]: (HERE["torch"], HERE["coreml"]),
    HERE["trace"]: (HERE["torch"],),
}
"""Name of what is done here to that of what it cannot do without."""
_TRIALS = "vitedge.verbs.trials"
_PACKAGES = ("numpy", "torch", "torchvision", "timm", "onnx", "onnxruntime", "coremltools", "protobuf", "openvino")
_SYSTEMS = ("python", "room")


def doctor(device: str = LOCAL, profile: str = "", *, progress: Progress | None = None) -> Checkup:
    """Returns a check-up of this machine or of a device.

    Args:
        device: a name of `vitedge.registry.DEVICES` with its address.
        profile: what it is asked to do: name of a profile, or ``auto`` for the one that fits; empty asks that whatever
            is installed works.
        progress: as `vitedge.progress.reporting` takes it: who is told how far it is; None tells nobody.

    Raises:
        BadRecipe: there is no such device or profile, or ``auto`` finds none.
        DeviceFailed: the device is out of reach.
    """
    if profile and profile != AUTO:
        named(profile)
    with reporting(progress), stage("doctor", whole=True):
        return _examined(device, profile)


def _examined(device: str, profile: str) -> Checkup:
    with connect(device) as session:
        with stage(f"asking {device}"):
            identity, condition = session.identity(), session.condition()
        fits = fitting(identity)
        chosen = fitting_profile(identity, device) if profile == AUTO else profile
        here, there = _needed(device, chosen, fits)
        with stage(f"trying what runs on {device}"):
            found = _tried(session, there)
    identity = {**identity, **_told(found, "python")}
    if device == LOCAL:
        identity["versions"] = {**versions(_PACKAGES), **identity.get("versions", {})}
    place = place_of(identity, local=device == LOCAL)
    abilities = _there(found, there, identity, place, chosen)
    if here:
        with stage("trying what exports here"):
            abilities = (*_here(here, asked=bool(chosen)), *abilities)
    if device != LOCAL and not chosen:
        abilities = without_runtime(abilities)
    needs = {name: needed for name, needed in _NEEDS.items() if device == LOCAL}
    abilities = without_repetition((*abilities, *_room(found)), needs)
    return Checkup(
        device=device,
        identity=identity,
        condition=condition,
        abilities=abilities,
        remarks=remarks(condition, _told(found, "room")),
        fitting=fits,
        profile=chosen,
        broken=tuple(one.name for one in abilities if one.asked and one.state == FAILING),
        missing=tuple(one.name for one in abilities if one.asked and one.state == MISSING),
        notes=_notes(device, chosen, fits),
    )


def _needed(device: str, profile: str, fits: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the trials of this machine and of the device: those of a profile, or all that make sense there."""
    if not profile:
        all_there = [name for name in THERE if name != "coreml" or device == LOCAL or any("mac" in fit for fit in fits)]
        return (tuple(HERE) if device == LOCAL else ()), tuple(all_there)
    wanted = named(profile)
    there = _runtimes(wanted) if profile in fits else ()
    return tuple(dict.fromkeys(_exports(wanted))), tuple(there)


def _exports(profile: Profile) -> Iterator[str]:
    """Yields the trials of what is done here for a profile."""
    yield "torch"
    for name in profile.formats:
        kind = FORMATS[name]
        if not kind.made_from:
            yield name
            yield from (runtime for runtime in kind.runtimes if runtime == "mlprogram")
        elif profile.builder == "tensorrt-rtx":  # the other builds on the GPU itself
            yield profile.builder


def _runtimes(profile: Profile) -> tuple[str, ...]:
    """Returns the trials of what runs the artifacts of a profile on its device."""
    if profile.has_engines:
        return ("tensorrt-rtx",) if profile.builder == "tensorrt-rtx" else ("tensorrt", TRTEXEC)
    return tuple(FORMATS[name].runtimes[-1] for name in profile.formats)


def _tried(session: Session, names: Sequence[str]) -> dict[str, Outcome]:
    """Returns the outcomes on the device; the execution providers that ONNX Runtime lists are tried one by one."""
    found = dict(session.tried((*_SYSTEMS, *names)))
    listed = _told(found, "onnxruntime").get("providers", ())
    further = [f"onnxruntime {provider}" for provider in PROVIDERS if provider in listed]
    if further:
        found.update(session.tried(further))
    return found


def _told(found: Mapping[str, Outcome], name: str) -> Mapping[str, Any]:
    return found[name].told if name in found and found[name].state == WORKS else {}


def _there(
    found: Mapping[str, Outcome], names: Sequence[str], identity: Mapping[str, Any], place: Place, profile: str
) -> tuple[Ability, ...]:
    oldest = named(profile).runtime_versions if profile else {}
    known = [
        new_enough(ability(THERE[name], found[name], place, asked=bool(profile)), oldest.get(name, ""), place, name)
        for name in names
        if name in found
    ]
    behind = 1 + next((index for index, one in enumerate(known) if one.name == THERE["onnxruntime"]), -1)
    known[behind:behind] = providers(found, identity, place)
    return engines(known, identity)


def _here(names: Sequence[str], *, asked: bool) -> tuple[Ability, ...]:
    place = Place("pip", versions(_PACKAGES))
    found = outcomes(names, process_here(_TRIALS))
    return tuple(ability(HERE[name], found[name], place, asked=asked) for name in names)


def _room(found: Mapping[str, Outcome]) -> Iterator[Ability]:
    why, remedy = crowded(_told(found, "room"))
    if why:
        yield Ability("free space", FAILING, why, remedy, asked=True)


def _notes(device: str, profile: str, fits: Sequence[str]) -> tuple[str, ...]:
    if not profile or profile in fits:
        return ()
    what = "this machine" if device == LOCAL else device
    return (f"{what} is none that {profile} is for: only what is done here for it was tried",)
