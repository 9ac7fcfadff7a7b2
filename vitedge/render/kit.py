# SPDX-License-Identifier: Apache-2.0
"""Renders a verify kit that was written, and the results of a Mac that were imported."""

from __future__ import annotations

import shlex

from rich import filesize

from vitedge import registry
from vitedge.records import Validation
from vitedge.render.parity import report_table
from vitedge.render.screen import document, lines, next_command
from vitedge.verbs.records import WrittenKit


def render_written(result: WrittenKit, *, as_json: bool) -> None:
    """Prints where a kit was written, and how it is run: here on a Mac, and elsewhere after it was copied to one."""
    if as_json:
        return document(result)
    lines(
        f"{result.kit}: {filesize.decimal(result.size)}; every file of {result.bundle} is as its manifest describes it"
    )
    if registry.works_here(registry.RUNTIMES, "coreml"):
        lines(next_command(f"python {shlex.quote(result.kit)}/runner.pyz"))
    else:
        back = shlex.join(["vitedge", "kit", "import", result.bundle, "result.npz"])
        lines(
            f"{result.kit}: copy it to a Mac, type there: python runner.pyz, copy result.npz back, and type: {back}",
            next_command(f"vitedge validate {shlex.quote(result.bundle)}"),
        )
    return None


def render_imported(result: Validation, *, as_json: bool) -> None:
    """Prints the comparison of a Mac's outputs with the bundle's reference outputs."""
    if as_json:
        return document(result)
    report_table(result.parity, result.structure)
    checked = "passed" if result.passed else "did NOT pass"
    bundle = shlex.quote(result.subject)
    lines(
        f"{result.subject}: {filesize.decimal(result.size or 0)}, {result.files} files as the manifest describes them; "
        f"the outputs of the Mac {checked}, and their report is sealed into the manifest",
        # If they did not pass, half precision's range is the first thing to look at.
        next_command(f"vitedge validate {bundle}" if result.passed else f"vitedge validate {bundle} --overflow"),
    )
    return None
