# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/ and the README are typed as they stand: every command and every statement of them succeeds."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from tests.bad_files import VIT, vit_state
from tests.page_blocks import LANGUAGES, PAGES, ROOT, Block, blocks
from tests.vitedge.checkpoints.families.vit.test_encoder import PlainViT, saved
from tests.vitedge.cli.command import Command
from vitedge.demo import assets

FIRST = ROOT / "docs" / "first-ten-minutes.md"
RUN = [page for page in PAGES if any(block.language != "text" and not block.reason for block in blocks(page))]
PER_CLASS = 6
NAMES = ("mystery.pth", "vit.pth", "model.pth")
"""Names that the pages give to a checkpoint."""
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages name: checkpoints, ``photos``, ``val`` with a folder a class, a picture, classes."""
    for name in NAMES:
        shutil.copy(VIT, tmp_path / name)
    torch.manual_seed(0)
    Path(saved(PlainViT(norm_first=True, activation="gelu"), tmp_path)).rename(tmp_path / "encoder.pth")
    images, labels = assets.images()
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        seen = int((labels[:index] == label).sum())
        place = tmp_path / ("val" if seen < PER_CLASS else "photos") / str(label)
        if seen < 4 * PER_CLASS:
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(image)).save(place / f"{index:03}.png")
    Image.fromarray(np.asarray(images[0])).save(tmp_path / "digit.png")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_memory() -> dict[str, object]:
    """What the README's example has in memory: a module, images and classes, and a loader of them."""
    module = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=4, num_heads=2, mlp_ratio=2, num_classes=10
    )
    module.load_state_dict(vit_state())
    images, classes = assets.images()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    loader = DataLoader(TensorDataset(pixels[:64], torch.from_numpy(classes[:64])), batch_size=32)
    return {"module": module, "images": images[64:164], "classes": classes[64:164], "loader": loader}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_is_run_or_says_why_not(page: Path) -> None:
    assert page.read_text(encoding="utf-8").count("\n```") == 2 * len(blocks(page))
    for block in blocks(page):
        assert block.language in LANGUAGES, f"a block of {page.name} is no {', '.join(LANGUAGES)}:\n{block.text}"
        hidden = re.search(r"^\$|^(vitedge|python|pip) ", block.text, re.MULTILINE)
        assert block.language != "text" or not hidden, f"a command that nothing runs:\n{block.text}"


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_a_page_runs_from_top_to_bottom(page: Path, folder: Path, vitedge: Command) -> None:
    del folder
    followed: set[str] = set()
    names = in_memory() if page.name == "README.md" else {}
    for block in blocks(page):
        if block.reason or block.language == "text":
            continue
        if block.language == "python":
            exec(compile(block.text, page.name, "exec"), names)
            continue
        for hint in _typed(block, vitedge):
            if page == FIRST and hint not in followed:
                followed.add(hint)
                done = vitedge(*shlex.split(hint)[1:])
                assert done.code == 0, f"{hint}: {done.err}"
    assert bool(followed) == (page == FIRST)


def _typed(block: Block, vitedge: Command) -> list[str]:
    """Types the lines of a console; returns the commands that they say to type next."""
    hints: list[str] = []
    for line in block.commands():
        if line.words[0] == "vitedge":
            done = vitedge(*line.words[1:])
            assert done.code == line.code, f"{shlex.join(line.words)}: {done.err}"
            hints += re.findall(r"^next: (vitedge .+)$", done.out, re.MULTILINE)
        else:
            assert line.words[0] == "python", f"no command that a test can type: {shlex.join(line.words)}"
            run = subprocess.run([sys.executable, *line.words[1:]], capture_output=True, text=True, check=False)
            assert run.returncode == line.code, run.stderr
    return hints
