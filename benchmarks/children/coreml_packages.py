# SPDX-License-Identifier: Apache-2.0
"""Writes a seeded checkpoint of a timm model, and beside it an fp32 Core ML package for each deployment target.

``python -m benchmarks.children.coreml_packages NAME CHECKPOINT TARGET…`` calls the packages ``NAME-TARGET.mlpackage``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import vitedge
from benchmarks.children.seeded_checkpoint import write
from vitedge.export.to_coreml import lower
from vitedge.program.capture import capture
from vitedge.recipe import ResolvedRecipe


def lower_all(name: str, checkpoint: Path, targets: Sequence[str]) -> None:
    write(name, checkpoint)
    reference = vitedge.load(str(checkpoint))
    program = capture(reference.module, reference.spec, reference.blocks)
    for target in targets:
        recipe = ResolvedRecipe(formats=("coreml",), coreml_target=target)
        lower(program, recipe, checkpoint.with_name(f"{name}-{target}.mlpackage"), ())


if __name__ == "__main__":
    lower_all(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
