# SPDX-License-Identifier: Apache-2.0
"""The engines of an export: built from the ONNX files of their profiles, and read."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from vitedge import registry
from vitedge.devices.profiles import Profile, named
from vitedge.devices.session import Session, connect
from vitedge.errors import CheckFailed, MissingBackend, UserError
from vitedge.export.formats import FORMATS
from vitedge.export.tensorrt.building import BUILDERS
from vitedge.export.tensorrt.records import EngineRecord
from vitedge.export.tensorrt.request import EngineRequest, shapes_of
from vitedge.export.tensorrt.summary import shortfall
from vitedge.export.tensorrt.trtexec import command
from vitedge.files.plain import from_dict
from vitedge.progress import say
from vitedge.recipe import SCHEMES
from vitedge.records import Artifact
from vitedge.registry import LOCAL
from vitedge.verbs.lowering import ExportRequest, Lowered, LoweredArtifact

_LIMIT_S = 3600.0


@dataclass(frozen=True)
class Engines:
    """The engines of an export."""

    artifacts: tuple[Artifact, ...]
    pending: tuple[str, ...]
    """A sentence for each engine that this machine cannot build, with the command that builds it."""


def build_engines(request: ExportRequest, lowered: Lowered) -> Engines:
    """Builds an engine from every ONNX file that is for one, and checks that its kernels compute what was asked for.

    Raises:
        CheckFailed: it cannot be built, or fewer of its products and attentions than the profile wants are computed in
            the types that were asked for.
        UserError: the builder does not read the file.
    """
    artifacts: list[Artifact] = []
    pending: list[str] = []
    with ExitStack() as stack:
        session: Session | None = None
        for one in lowered.artifacts:
            if not one.target.engine:
                continue
            profile = named(one.target.recipe.profiles[0])
            if session is None and request.recipe.device != LOCAL and BUILDERS[profile.builder].hardware:
                session = stack.enter_context(connect(request.recipe.device))
            try:
                artifacts.append(_built(request, one, profile, session))
            except MissingBackend as missing:
                if session is not None:
                    raise
                pending.append(_pending(one, profile, missing))
    return Engines(tuple(artifacts), tuple(pending))


def _built(request: ExportRequest, one: LoweredArtifact, profile: Profile, session: Session | None) -> Artifact:
    """Builds one engine: on the device, where its builder needs the GPU, and else here.

    Args:
        request: of the export.
        one: the ONNX file.
        profile: that it is for.
        session: with the device; None builds on this machine.
    """
    kind = FORMATS[_format_from(one.artifact.format)]
    path = request.folder / one.artifact.path
    order = EngineRequest(
        path,
        path.with_suffix(kind.suffix),
        profile.gpus,
        shapes=shapes_of(one.artifact, one.target.recipe.engine_batch),
        newest_opset=profile.opset_max,
        limit_s=_LIMIT_S,
        progress=lambda phase: say(f"{kind.title}: {phase} …"),
    )
    if kind.building is None:
        raise ValueError(f"{kind.title} is not built from another format")
    try:
        module = registry.imported(kind.building)
        artifact: Artifact
        if session is not None and BUILDERS[profile.builder].hardware:
            artifact = module.as_artifact(one.artifact, order.out, *session.build(order))
        else:
            artifact = module.build(one.artifact, order, profile.builder)
    except (CheckFailed, UserError) as error:  # whose files lie in a folder that will be gone
        raise type(error)(str(error).replace(str(path), path.name)) from error
    short = shortfall(
        from_dict(EngineRecord, artifact.engine or {}),
        profile.minimum_share,
        half=one.target.recipe.is_half,
        kept=one.float32_modules,
    )
    if short:
        raise CheckFailed(
            f"{artifact.path} does not compute what was asked for: {short} Leave in float what the GPU has no kernels "
            "for, with --layer NAME=float or --layer conv=float, or choose another profile."
        )
    return artifact


def _format_from(name: str) -> str:
    """Returns the format that is made from another one."""
    return next(engine for engine, kind in FORMATS.items() if kind.made_from == name)


def _pending(one: LoweredArtifact, profile: Profile, missing: MissingBackend) -> str:
    """Returns why an engine was not built here, and the command that builds it where its GPU is."""
    recipe = one.target.recipe
    typed = command(
        one.artifact.path,
        profile.builder,
        profile.tensorrt,
        shapes_of(one.artifact, recipe.engine_batch),
        quantized=recipe.precision in SCHEMES,
        half=recipe.is_half,
    )
    if BUILDERS[profile.builder].hardware:
        return f"The engine is built on the device itself, {profile.title}: in the bundle's folder there type: {typed}"
    return f"{missing} Or in the bundle's folder on the device type: {typed}"
