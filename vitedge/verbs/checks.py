# SPDX-License-Identifier: Apache-2.0
"""The checks of an export: every artifact against the reference, here and on the device."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vitedge.devices.checking import check_there, refusal_there
from vitedge.devices.session import connect
from vitedge.errors import MissingBackend, ToleranceExceeded
from vitedge.parity.artifact import ReferenceOutputs
from vitedge.parity.check import CheckOptions, Original, check_artifact
from vitedge.parity.metrics import compare, exceeded
from vitedge.parity.simulation import simulate
from vitedge.progress import note
from vitedge.quantization.run import Quantization
from vitedge.recipe import SCHEMES, ResolvedRecipe
from vitedge.records import Artifact, ParityReport, StructureReport, Tolerance
from vitedge.registry import LOCAL
from vitedge.verbs.engines import Engines
from vitedge.verbs.lowering import Built, ExportRequest, Lowered, Quantized
from vitedge.verbs.remedies import remedies

_SIMULATED_DB = 1.0
"""By so much a runtime's outputs may be nearer to the reference than the simulation's, or farther."""


@dataclass(frozen=True)
class Checked:
    """All artifacts, and the reports on them."""

    artifacts: tuple[Artifact, ...]
    parity: tuple[ParityReport, ...]
    structure: tuple[StructureReport, ...]

    @property
    def failed(self) -> tuple[ParityReport | StructureReport, ...]:
        """The reports on artifacts that do not compute what the checkpoint computes."""
        reports: tuple[ParityReport | StructureReport, ...] = (*self.parity, *self.structure)
        return tuple(report for report in reports if not report.passed)


def refuse_far(request: ExportRequest, reference_outputs: ReferenceOutputs, plan: Quantization) -> None:
    """Refuses a quantization whose simulation shows that no file of it can be within the tolerance.

    That is known before anything is lowered, built, checked or timed. It goes on where failed artifacts are to be kept.

    Raises:
        ToleranceExceeded: says by how much, and what to try.
    """
    least = reference_outputs.tolerance.centred_sqnr_db
    if least is None or request.options.keep_failed:
        return
    program = plan.program(request.recipe.batch, request.recipe.input)
    found = compare(reference_outputs.data.outputs, simulate(program, reference_outputs.data.images))
    if not exceeded(found, Tolerance(centred_sqnr_db=least - _SIMULATED_DB)):
        return
    reason = exceeded(found, reference_outputs.tolerance)
    raise ToleranceExceeded(
        f"Quantized so, the model does not compute what the checkpoint computes: {reason} in its simulation, and no "
        f"file was made.{remedies(str(request.source), request.recipe, found, plan.diagnoses, _SIMULATED_DB)}"
    )


def check(
    request: ExportRequest, built: Built, reference_outputs: ReferenceOutputs, lowered: Lowered, engines: Engines
) -> Checked:
    """Compares every artifact with the reference, where it can be run."""
    recipe = request.recipe
    parity: list[ParityReport] = []
    structure: list[StructureReport] = []
    is_quantized = recipe.precision in SCHEMES
    for one in lowered.artifacts:
        simulated = simulate(one.program, reference_outputs.data.images) if is_quantized else None
        options = CheckOptions(simulated=simulated, form=one.target.form, half=one.target.recipe.is_half)
        original = Original(built.reference, one.program)
        found = check_artifact(request.folder / one.artifact.path, one.artifact, reference_outputs, original, options)
        parity.extend(found.parity)
        structure.extend(found.structure)
    for artifact in engines.artifacts:
        path, original = request.folder / artifact.path, Original(built.reference)
        found = check_artifact(path, artifact, reference_outputs, original, CheckOptions())
        parity.extend(found.parity)
        structure.extend(found.structure)
    artifacts = (*(one.artifact for one in lowered.artifacts), *engines.artifacts)
    return Checked(artifacts, tuple(parity), tuple(structure))


def check_on_device(request: ExportRequest, reference_outputs: ReferenceOutputs, checked: Checked) -> Checked:
    """Compares the artifacts with the reference on the device, where they run there.

    Raises:
        MissingBackend: none runs there.
    """
    if request.recipe.device == LOCAL or checked.failed:
        return checked
    with connect(request.recipe.device) as session:
        refusals = {artifact.path: refusal_there(session, artifact.format) for artifact in checked.artifacts}
        if all(refusals.values()):
            raise MissingBackend(" ".join(dict.fromkeys(refusals.values())))
        for path, refused in refusals.items():
            if refused:
                note(f"{path} was not run on {request.recipe.device}: {refused}")
        parity = tuple(
            report
            for artifact in checked.artifacts
            for report in check_there(session, request.folder / artifact.path, artifact, reference_outputs)
        )
    return replace(checked, parity=(*checked.parity, *parity))


def accept(request: ExportRequest, quantized: Quantized, checked: Checked) -> Checked:
    """Refuses artifacts that do not compute what the checkpoint computes.

    Raises:
        ToleranceExceeded: names the artifact, the tolerance that it exceeds, and the first layer that departs.
    """
    for report in checked.failed:
        said = f"{report.artifact} does not compute what the checkpoint computes: {report.reason}."
        raise ToleranceExceeded(f"{said}{_remedy(str(request.source), request.recipe, report, quantized)}")
    return checked


def _remedy(source: str, recipe: ResolvedRecipe, report: ParityReport | StructureReport, quantized: Quantized) -> str:
    """Returns what can be done about outputs that exceed their tolerance; of anything else, nothing."""
    if not isinstance(report, ParityReport) or not exceeded(report.outputs, report.tolerance):
        return ""
    diagnoses = [one for plan in quantized.plans.values() for one in plan.diagnoses]
    return remedies(source, recipe, report.outputs, diagnoses)
