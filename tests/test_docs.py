# SPDX-License-Identifier: Apache-2.0
"""The pages say what is so: tables come from committed results, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import vitedge
from tests import api_docs, page_blocks, page_tables, readme_table
from tests.api_source import Source, anchor, types
from vitedge.cli.main import app

ROOT = Path(__file__).parent.parent
STRUCTURE = ROOT / "docs" / "structure.md"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def test_the_table_in_the_readme_is_that_of_the_committed_result() -> None:
    text = readme_table.README.read_text(encoding="utf-8")
    assert readme_table.PLACE.search(text)
    assert readme_table.filled(text) == text, "run make docs"


@pytest.mark.parametrize("page", page_tables.PAGES, ids=lambda page: page.name)
def test_the_tables_in_the_pages_are_those_of_the_committed_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert page_tables.filled(text) == text, "run make docs"


def test_a_table_has_a_column_a_model_and_stays_empty_without_its_result(tmp_path: Path) -> None:
    place = "before\n<!-- table: pruning_demo -->\n<!-- /table -->\nafter\n"
    assert page_tables.filled(place, tmp_path) == place
    rows = [
        {"model": "A", "recipe": "dense", "right": 9},
        {"model": "B", "recipe": "merge 1", "failed": "Swin cannot"},
        {"model": "A", "recipe": "merge 1", "macs": 0.6, "lost": 2, "sqnr_db": 20.04},
    ]
    (tmp_path / "pruning_demo.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    drawn = page_tables.filled(page_tables.filled(place, tmp_path), tmp_path).splitlines()
    assert drawn[3] == "|  | A | B |"
    assert drawn[5:7] == ["| dense | 9 right |  |", "| merge 1 | 2 (20.0 dB, 0.60 of the MACs) | not possible |"]
    assert drawn[-2:] == ["<!-- /table -->", "after"]


def test_the_page_of_the_api_is_that_of_the_docstrings(caplog: pytest.LogCaptureFixture) -> None:
    assert api_docs.page() == api_docs.PAGE.read_text(encoding="utf-8"), "run make docs"
    assert caplog.messages == []  # such as an argument that is explained and does not exist


def test_every_verb_is_on_the_page_of_the_api_with_all_records_that_it_takes_and_returns() -> None:
    source = Source(api_docs.ROOT)
    shown = {entry.path: entry for _, found in api_docs.sections(source) for entry in found}
    assert {f"vitedge.{name}" for name in vitedge.__all__ if name.islower()} == {
        path for path in shown if path.count(".") == 1
    }
    named = {name for entry in shown.values() for name in types(entry.object) if name.startswith("vitedge.")}
    found = [source.find(name) for name in sorted(named)]
    assert [entry.path for entry in found if entry.is_class and entry.path not in shown] == []


def test_every_error_is_in_the_tree_of_errors() -> None:
    source = Source(api_docs.ROOT)
    tree = source.docstring("vitedge.errors").split()
    assert [entry.heading for entry in source.entries("vitedge.errors") if entry.heading not in tree] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_a_heading_lead_to_one(page: Path) -> None:
    for name, fragment in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        target = page.parent / name if name else page
        headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert fragment in {anchor(heading) for heading in headings}


def test_every_page_is_one_click_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert linked == {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("page", page_blocks.PAGES, ids=lambda page: page.name)
def test_every_command_within_a_sentence_has_only_options_that_there_are(page: Path) -> None:
    for typed in re.findall(r"`(vitedge [^`]+)`", page.read_text(encoding="utf-8")):
        command: Any = typer.main.get_command(app)
        words = shlex.split(typed.replace("\n", " ").replace("[", "").replace("]", ""))[1:]
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, typed
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known | {"-h", "--help"}, typed


def drawn() -> Iterator[tuple[str, str]]:
    """Yields every folder in the picture of the house, and the text that stands beside it."""
    picture = STRUCTURE.read_text(encoding="utf-8").split("```")[1].removeprefix("text")
    above: list[str] = []
    for line in picture.strip().splitlines():
        entry = re.fullmatch(r"((?:  )*)([\w.]+/) +(.+)", line)
        assert entry, f"no folder and its text: {line}"
        above[len(entry[1]) // 2 :] = [entry[2]]
        yield "".join(above), entry[3]


def test_every_path_that_the_structure_names_exists() -> None:
    text = STRUCTURE.read_text(encoding="utf-8")
    prose = "".join(text.split("```")[::2])
    named = [path for path in re.findall(r"`([\w./-]+)`", prose) if "/" in path or path.endswith(".toml")]
    named += [folder for folder, _ in drawn()]
    named += [folder + file for folder, told in drawn() for file in re.findall(r"(?<![\w./])\w+\.(?:py|toml)\b", told)]
    assert len(named) > 80
    assert [path for path in named if "NAME" not in path and not (ROOT / path).exists()] == []


def test_every_folder_of_the_package_is_in_the_picture() -> None:
    folders = {folder for folder, _ in drawn()}
    packages = [
        path.parent for top in ("vitedge", "export", "calibration") for path in (ROOT / top).rglob("__init__.py")
    ]
    real = {f"{path.relative_to(ROOT).as_posix()}/" for path in packages}
    links = ("vitedge/export/", "vitedge/calibration/")
    assert sorted(path for path in real - folders if not path.startswith(links)) == []
