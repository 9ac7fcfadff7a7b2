# SPDX-License-Identifier: Apache-2.0
"""Compares what files compute on an Arm computer in software, over ssh, with what they compute on this x86 machine.

``python -m benchmarks.arm_board --board FOLDER`` from the root of the repository writes
``benchmarks/results/arm_board.json``. The board is a folder whose ``bin/python3`` is an aarch64 CPython with ONNX
Runtime under qemu's user emulation, on the processor that the environment variable ``CPU`` names; ``--make`` is the
program that makes it where it is not there, called with the folder. A real ssh server on a loopback port stands before
it, so that everything goes the way that it goes to a real board. ``--python FOLDER`` adds other CPythons of this
machine, which the runner serves over the same ssh. Each row is written at once, and ``--missing`` goes on where a run
was interrupted.

The emulation shows what is computed, and nothing about how long it takes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.quantization_models import UNCHECKED, provenance
from benchmarks.sheet import Sheet, parser
from tests.family_matrix import CASES, WHOLE
from tests.vitedge.devices.ssh_server import Server, serving
from vitedge.checkpoints.families.table import FAMILIES
from vitedge.demo.assets import IMAGES, MODELS
from vitedge.devices.checking import check_there
from vitedge.devices.interpreter import VARIABLE
from vitedge.devices.session import Session, connect
from vitedge.errors import UnreadableArtifact, UserError, VitedgeError
from vitedge.files.bundle import read_manifest
from vitedge.parity.artifact import ReferenceOutputs, check_parity, sealed_outputs
from vitedge.parity.metrics import default_tolerance, exceeded
from vitedge.recipe import SCHEMES, ExportRecipe, Precision, QuantizationRecipe
from vitedge.records import Artifact, OutputParity, ParityReport
from vitedge.verbs.export import export

RESULTS = Path(__file__).with_name("results") / "arm_board.json"
PROFILE = "cpu-arm"
PROCESSORS = {"cortex-a53": "cortex-a53", "cortex-a76": "cortex-a76", "max": "max,sme=off"}
"""Name to qemu's processor: without dot products, with them, and with all that it knows (int8 matrix products, SVE) but
SME: its SMOPA is wrong in qemu 7.2 (48 of the 64 elements of a tile, tried with the instruction alone), and ONNX
Runtime's kernels for int8-dynamic are made of it. Neither shows anything about a processor with SME."""
PRECISIONS = (Precision.FP32, Precision.FP16, Precision.INT8, Precision.INT8_DYNAMIC, Precision.W8, Precision.W4)
TINY = {
    family.NAME: next(name for name in WHOLE if CASES[name].family == family.NAME and CASES[name].classes)
    for family in FAMILIES
}
"""Family to a classifier of it in the tests' matrix, tiny and with seeded weights."""
DEMO = {f"demo {model.name}": model for model in MODELS}
SUBJECTS = (*TINY, *DEMO)
DIFFERENCE_DB = 0.2
LIMITS = {
    "fp32_relative_error": default_tolerance("fp32", "vit").relative_error,
    "fp32_relative_error_mobilevitv2": default_tolerance("fp32", "mobilevitv2").relative_error,
    "fp16_centred_sqnr_db": default_tolerance("fp16", "vit").centred_sqnr_db,
    "difference_db": DIFFERENCE_DB,
}
"""Float files are held to the default tolerances of parity, quantized ones to what they compute here."""
RUNTIME = "onnxruntime"
IMAGE_COUNT = 64
DYNAMIC_COUNT = 256
"""For int8-dynamic: with 32, the rounding of ranges that are found at run time moves it by 0.3 dB."""
CALIBRATION = 64
AT_ONCE = 3
"""Places that run a file at the same time: starting Python is what most of it waits for."""


@dataclass(frozen=True)
class Row:
    """One file at one place."""

    model: str
    precision: str
    place: str
    """Processor of the board, or the CPython of this machine."""
    outcome: str
    """``within`` the limits or ``beyond`` them, ``refused`` by the profile or the runtime, or ``failed``."""
    images: int
    relative_error: float | None = None
    centred_sqnr_db: float | None = None
    relative_error_here: float | None = None
    centred_sqnr_db_here: float | None = None
    """In the ONNX Runtime of this environment."""
    difference_db: float | None = None
    """There less here."""
    agreement: float | None = None
    runtime: str = ""
    """Version of ONNX Runtime there."""
    python: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Exported:
    """One model in one precision, and what it computes here."""

    model: str
    precision: str
    path: Path
    artifact: Artifact
    reference_outputs: ReferenceOutputs
    here: OutputParity
    family: str


def exported(subject: str, precision: str, folder: Path) -> Exported:
    """Exports a model for the board.

    Raises:
        UserError: the profile refuses the precision.
    """
    checkpoint, settings = _checkpoint(subject, folder)
    quantization = None
    if precision in SCHEMES:
        quantization = QuantizationRecipe(Precision(precision), images=settings["images"], image_count=CALIBRATION)
    recipe = ExportRecipe(
        profiles=(PROFILE,),
        precision=Precision(precision),
        quantization=quantization,
        image_count=DYNAMIC_COUNT if precision == Precision.INT8_DYNAMIC else IMAGE_COUNT,
        accept_assumptions=True,
        tolerance=UNCHECKED,
        **settings,
    )
    bundle = folder / f"{subject}-{precision}".replace(" ", "-")
    export(checkpoint, bundle, recipe, force=True)
    manifest = read_manifest(bundle)
    (artifact,) = manifest.artifacts
    outputs = sealed_outputs(bundle, manifest)
    here = next(one for one in check_parity(bundle / artifact.path, artifact, outputs) if one.runtime == RUNTIME)
    family = manifest.spec.family
    return Exported(subject, precision, bundle / artifact.path, artifact, outputs, here.outputs[0], family)


def _checkpoint(subject: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Returns a model's checkpoint, and the entries of a recipe that it needs."""
    if subject in DEMO:
        model = DEMO[subject]
        return str(model.path), {"images": str(IMAGES), "overrides": dict(model.overrides)}
    case = CASES[TINY[subject]]
    place = folder / subject
    path = case.write(case.source(), place) if not place.exists() else str(next(place.iterdir()))
    return path, {"images": "synthetic", "overrides": case.given}


def measure(file: Exported, place: str, session: Session) -> Row:
    """Runs one file at one place."""
    told = session.identity()
    try:
        reports = check_there(session, file.path, file.artifact, file.reference_outputs)
    except VitedgeError as error:
        # Where the file lies there is a folder of its own each time.
        reason = re.sub(r"\S*/(\S+)", r"\1", str(error))
        outcome = "refused" if isinstance(error, UnreadableArtifact) else "failed"
        version = str(told.get("versions", {}).get(RUNTIME, ""))
        count = len(file.reference_outputs.data.images)
        return Row(
            file.model, file.precision, place, outcome, count, runtime=version, python=told["python"], reason=reason
        )
    return _row(file, place, next(one for one in reports if one.runtime == RUNTIME), told["python"])


def _row(file: Exported, place: str, report: ParityReport, python: str) -> Row:
    there, here = report.outputs[0], file.here
    difference = there.centred_sqnr_db - here.centred_sqnr_db
    if file.precision in SCHEMES:
        near = abs(difference) <= DIFFERENCE_DB
        reason = "" if near else f"{difference:+.2f} dB from here, and the limit is {DIFFERENCE_DB:g}"
    else:
        reason = exceeded((there,), default_tolerance(file.precision, file.family))
    return Row(
        file.model,
        file.precision,
        place,
        "beyond" if reason else "within",
        report.images,
        relative_error=float(f"{there.relative_error:.3g}"),
        centred_sqnr_db=round(there.centred_sqnr_db, 2),
        relative_error_here=float(f"{here.relative_error:.3g}"),
        centred_sqnr_db_here=round(here.centred_sqnr_db, 2),
        difference_db=round(difference, 3),
        agreement=there.agreement,
        runtime=report.machine["version"],
        python=python,
        reason=reason,
    )


@contextlib.contextmanager
def sessions(server: Server, places: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, Session]]:
    """Connects to every place: name to the variables of the far end. The first Python in its PATH is taken."""
    os.environ["PATH"] = f"{server.bin}:{os.environ['PATH']}"
    os.environ[VARIABLE] = "python3"
    with contextlib.ExitStack() as stack:
        opened = {}
        for number, (place, environment) in enumerate(places.items()):
            server.add_host(f"place{number}", **environment)
            opened[place] = stack.enter_context(connect(f"ssh:place{number}"))
            print(place, opened[place].identity().get("python"), flush=True)
        yield opened


def board(folder: Path, make: str) -> Path:
    """Returns the folder of the board's programs; makes the board where it is not there."""
    if not (folder / "bin" / "python3").exists():
        if not make:
            raise SystemExit(f"there is no board in {folder}: name the program that makes one with --make")
        subprocess.run([make, str(folder)], check=True)
    return folder.resolve() / "bin"


def _version(folder: Path) -> str:
    return _said([str(folder / "python3"), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])


def _said(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def missed(rows: Sequence[Row]) -> list[str]:
    """Returns what is beyond the limits, or failed, each as a sentence."""
    return [
        f"{row.model} {row.precision} on {row.place}: {row.reason}"
        for row in rows
        if row.outcome in ("beyond", "failed")
    ]


def options() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    result = parser(__doc__, "MODEL", SUBJECTS, RESULTS)
    result.add_argument("--board", type=Path, required=True, help="folder of the Arm computer in software")
    result.add_argument("--make", default="", help="program that makes the board, called with the folder")
    result.add_argument("--python", type=Path, action="append", default=[], help="bin folder of a CPython here")
    result.add_argument("--precisions", nargs="+", choices=[str(name) for name in Precision], default=PRECISIONS)
    result.add_argument("--processors", nargs="*", choices=PROCESSORS, default=tuple(PROCESSORS))
    result.add_argument("--missing", action="store_true", help="only rows that the file does not have")
    return result


def main() -> None:
    asked = options().parse_args()
    programs = board(asked.board, asked.make)
    places = {name: {"FAR_BIN": str(programs), "CPU": PROCESSORS[name]} for name in asked.processors}
    places.update({f"CPython {_version(one)}": {"FAR_BIN": str(one.resolve())} for one in asked.python})
    told = provenance(
        board="Debian arm64 under qemu's user emulation, reached through OpenSSH on a loopback port",
        qemu=_said(["qemu-aarch64-static", "--version"]).split()[2],
        processors=PROCESSORS,
        weights="tiny models: seeded; demo: trained",
        images="tiny models: synthetic; demo: digits",
        calibration_images=CALIBRATION,
        profile=PROFILE,
    )
    sheet = Sheet(asked.output, Row, _place, missed, {"provenance": told, "limits": LIMITS})
    there = sheet.places() if asked.missing else set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            serving(folder / "ssh", "$FAR_BIN", "AcceptEnv CPU FAR_BIN\n") as server,
            sessions(server, places) as opened,
        ):
            for subject, precision in itertools.product(asked.chosen, asked.precisions):
                wanted = [place for place in opened if _key(subject, precision, place) not in there]
                for row in _rows(subject, precision, folder, {place: opened[place] for place in wanted}):
                    print(*asdict(row).values(), flush=True)
                    sheet.put(row)
    sheet.finish()


def _rows(subject: str, precision: str, folder: Path, opened: Mapping[str, Session]) -> Iterator[Row]:
    """Yields the rows of one file, which is exported only where there is a place to run it."""
    if not opened:
        return
    try:
        file = exported(subject, precision, folder)
    except UserError as refused:
        yield from (Row(subject, precision, place, "refused", 0, reason=str(refused)) for place in opened)
        return
    # All places have one cache: what the first sends, the others have.
    next(iter(opened.values())).push(file.path)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(lambda place: measure(file, place, opened[place]), opened)


def _key(model: str, precision: str, place: str) -> tuple[int, int, int, str]:
    processor = list(PROCESSORS).index(place) if place in PROCESSORS else len(PROCESSORS)
    return SUBJECTS.index(model), list(Precision).index(Precision(precision)), processor, place


def _place(row: Row) -> tuple[int, int, int, str]:
    return _key(row.model, row.precision, row.place)


if __name__ == "__main__":
    main()
