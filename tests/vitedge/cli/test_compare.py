# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.vitedge.cli.command import Command, check_refusal
from tests.vitedge.render.test_compare import RESULT
from vitedge.recipe import QuantizationRecipe
from vitedge.records import Tolerance
from vitedge.verbs import compare as verb
from vitedge.verbs.candidates import CompareOptions
from vitedge.verbs.keeping import Keeping
from vitedge.verbs.records import Comparison


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--precision", "int3"], "There is no precision 'int3'"),
        (["--format", "tflite"], "choose from onnx, coreml, tensorrt"),
        (["--for", "toaster"], "choose from cpu-x86"),
        (["--max-drop", "1"], "--max-drop counts labelled images: add --eval"),
        (["--keep-all"], "--keep-all is about what is kept: add -o BUNDLE"),
        (["--force"], "--force is about what is kept: add -o BUNDLE"),
        (["--device", "toaster"], "There is no device 'toaster'"),
        (["--precision", "int8"], "add --images DIR"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(options: list[str], sentence: str, vitedge: Command) -> None:
    check_refusal(vitedge("compare", "nowhere.pth", *options), sentence)


def asked(monkeypatch: pytest.MonkeyPatch, result: Comparison = RESULT) -> dict[str, Any]:
    """Has the verb return a result; what it was asked for is put into the mapping."""
    found: dict[str, Any] = {}

    def run(source: str, options: CompareOptions, keeping: Keeping | None, *_progress: object) -> Comparison:
        found.update(source=source, options=options, keeping=keeping)
        return result

    monkeypatch.setattr(verb, "compare", run)
    return found


def test_options_become_what_the_verb_takes(vitedge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch)
    words = "--images photos --eval labelled --max-drop 0.5 --precision w4 --precision fp32 --for mac --threads 2"
    more = "-o out --keep-all --force --layer head=float --min-sqnr 25 --set heads=3"
    assert vitedge("compare", "a.pth", *words.split(), *more.split()).code == 0
    options: CompareOptions = found["options"]
    assert (options.precisions, options.eval_images, options.max_drop) == (("w4", "fp32"), "labelled", 0.5)
    assert (options.threads, options.recipe.profiles, options.recipe.images) == (2, ("mac",), "photos")
    assert options.recipe.quantization == QuantizationRecipe(images="photos", layers={"head": "float"})  # type: ignore[dict-item]
    assert options.recipe.tolerance == Tolerance(centred_sqnr_db=25.0)
    assert options.recipe.overrides == {"heads": 3}
    assert found["keeping"] == Keeping(Path("out"), force=True, everything=True)


def test_exit_codes_say_what_became_of_it(vitedge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(monkeypatch)
    assert vitedge("compare", "a.pth").code == 0
    asked(monkeypatch, replace(RESULT, candidates=RESULT.candidates[2:], recommended="", command=""))
    assert vitedge("compare", "a.pth").code == 4
    asked(monkeypatch, replace(RESULT, failed="It is gone."))
    assert vitedge("compare", "a.pth").code == 5
