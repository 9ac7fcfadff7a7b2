# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.vitedge.cli.command import Command, check_refusal


@pytest.mark.parametrize(("options", "sentence"), [([], "is not there"), (["--max-error", "1"], "--against")])
def test_a_mistake_is_one_sentence_and_exit_2(options: list[str], sentence: str, vitedge: Command) -> None:
    check_refusal(vitedge("validate", "nowhere", *options), sentence)
