# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes of a package change: it computes, or an error of ours says why not."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from vitedge.errors import VitedgeError
from vitedge.mlprogram.package import MANIFEST, MODEL, WEIGHTS
from vitedge.runtimes.mlprogram import Runtime

ROUNDS = 200


@pytest.fixture(scope="module")
def sound(demo_bundle: Path) -> Path:
    return demo_bundle / "model.mlpackage"


def mutated(content: bytes, rng: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place, other = rng.randrange(len(found)), rng.randrange(len(found))
        change = rng.randrange(5)
        if change == 0:
            found[place] ^= 1 << rng.randrange(8)
        elif change == 1:
            found[place] = rng.choice((0, 1, 127, 128, 255))
        elif change == 2:
            del found[place : place + rng.randrange(1, 9)]
        elif change == 3:
            found[place:place] = rng.randbytes(rng.randrange(1, 9))
        else:
            found[place : place + 8] = found[other : other + 8]
    return bytes(found)


@pytest.mark.parametrize("seed", [1, 2])
def test_changed_bytes_compute_or_are_refused(sound: Path, tmp_path: Path, seed: int) -> None:
    path = tmp_path / "model.mlpackage"
    shutil.copytree(sound, path)
    rng = random.Random(seed)
    computed, said = 0, []
    for _ in range(ROUNDS):
        name = rng.choices((MANIFEST, MODEL, WEIGHTS), (1, 8, 2))[0]
        content = (path / name).read_bytes()
        (path / name).write_bytes(mutated(content, rng))
        try:
            with Runtime(path) as runtime:
                runtime.run({spec.name: np.zeros(spec.shape, spec.dtype) for spec in runtime.inputs})
            computed += 1
        except VitedgeError as error:
            said.append(str(error))
        (path / name).write_bytes(content)
    assert computed > ROUNDS / 50
    assert len(said) > ROUNDS / 2
    assert all(sentence.isprintable() for sentence in said)
