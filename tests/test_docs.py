# SPDX-License-Identifier: Apache-2.0
"""The pages say what is so: tables come from committed results, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import readme_table

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def test_the_table_in_the_readme_is_that_of_the_committed_result() -> None:
    text = readme_table.README.read_text(encoding="utf-8")
    assert readme_table.PLACE.search(text)
    assert readme_table.filled(text) == text, "run make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
