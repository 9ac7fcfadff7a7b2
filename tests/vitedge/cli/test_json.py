# SPDX-License-Identifier: Apache-2.0
"""Documents that commands print with `--json` fit the schemas in ``docs/schema/``.

Those of ``doctor``, ``demo`` and ``kit import``, which take long or need another machine, are checked where these are
tested.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from typer.main import get_command
from typer.testing import CliRunner

from tests import schemas
from tests.bad_files import VIT
from tests.cli_docs import commands
from tests.schemas import misfits
from tests.vitedge.cli.command import Command
from vitedge.cli.main import app
from vitedge.demo.assets import images
from vitedge.files.bundle import MANIFEST, read_manifest
from vitedge.files.plain import to_dict
from vitedge.verbs.records import NOT_MADE, WITHIN

QUICK = ("-Qsmoothing=off", "-Qequalization=off", "-Qattention=none", "-Qbias_correction=off", "-Qranges=minmax")
EARLIER = Path(__file__).parents[2] / "earlier"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels, labels = images()
    path = tmp_path_factory.mktemp("photos") / "digits.npz"
    np.savez(path, images=pixels[:64], labels=labels[:64])
    return path


def printed(vitedge: Command, *arguments: object) -> Any:
    outcome = vitedge(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_every_command_that_prints_json_has_a_schema() -> None:
    group = get_command(app)
    known = {command for document in schemas.DOCUMENTS.values() for command in document.commands}
    assert {" ".join(words) for words in commands(group) if _prints_json(group, words)} == known


def _prints_json(command: Any, words: tuple[str, ...]) -> bool:
    for word in words:
        command = command.commands[word]
    return any("--json" in parameter.opts for parameter in command.params)


@pytest.mark.parametrize("name", schemas.DOCUMENTS)
def test_a_schema_is_that_of_the_records(name: str) -> None:
    text = (schemas.FOLDER / f"{name}.json").read_text(encoding="utf-8")
    # As objects, because older releases of pydantic sort their keys otherwise.
    assert json.loads(text) == json.loads(schemas.text(name)), "run make docs"
    Draft202012Validator.check_schema(json.loads(text))


def test_there_is_no_other_schema() -> None:
    assert {path.stem for path in schemas.FOLDER.iterdir()} == set(schemas.DOCUMENTS)


def test_what_is_read_and_measured(vitedge: Command, demo_bundle: Path, photos: Path, tmp_path: Path) -> None:
    assert misfits("cache", printed(vitedge, "cache")) == []
    assert misfits("profiles", printed(vitedge, "profiles")) == []
    assert misfits("inspect", printed(vitedge, "inspect", VIT)) == []
    assert misfits("validate", printed(vitedge, "validate", demo_bundle, "--overflow")) == []
    assert misfits("evaluate", printed(vitedge, "evaluate", VIT, "--images", photos)) == []
    assert misfits("kit-write", printed(vitedge, "kit", "write", demo_bundle, tmp_path / "kit")) == []
    assert misfits("bench", printed(vitedge, "bench", demo_bundle / "model.onnx")) == []


def test_what_is_compared(vitedge: Command, photos: Path) -> None:
    """Of a candidate that is made, counted and timed, and one that cannot be made."""
    few = ("--precision", "fp32", "--precision", "int8", "--eval", photos, "--threads", "1")
    document = printed(vitedge, "compare", VIT, *few)
    assert misfits("compare", document) == []
    assert [one["outcome"] for one in document["candidates"]] == [WITHIN, NOT_MADE]


@pytest.mark.parametrize(
    ("typed", "kind"), [("inspect nowhere.pth", "UnreadableCheckpoint"), ("bench --nothing", "UsageError")]
)
def test_what_fails(vitedge: Command, typed: str, kind: str) -> None:
    outcome = vitedge(*typed.split(), "--json")
    document = json.loads(outcome.out)
    assert misfits("error", document) == []
    assert (document["kind"], document["exit_code"]) == (kind, outcome.code)


@pytest.fixture(scope="module")
def written(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The documents of a model that is pruned, quantized and exported."""
    folder = tmp_path_factory.mktemp("written")
    small, program, bundle = folder / "small.safetensors", folder / "int8.pt2", folder / "bundle"
    seen = ("--images", photos, "--image-count", "32")
    typed = (
        ("prune", VIT, "-o", small, *seen, "--mlp", "0.75", "--sparsity", "2:4", "--merge", "1"),
        ("quantize", small, "-o", program, *seen, *QUICK),
        ("export", program, "-o", bundle),
    )
    documents = {}
    for command in typed:
        result = CliRunner().invoke(app, [*map(str, command), "--json"])
        assert result.exit_code == 0, result.output
        documents[str(command[0])] = json.loads(result.stdout)
    return {**documents, "manifest": json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prune", "quantize", "export", "manifest"])
def test_what_is_written(written: Mapping[str, Any], name: str) -> None:
    assert misfits(name, written[name]) == []


@pytest.fixture
def manifest(demo_bundle: Path) -> Any:
    return json.loads((demo_bundle / MANIFEST).read_text(encoding="utf-8"))


PLACES = {"itself": (), "its spec": ("spec",), "its recipe": ("recipe",), "an artifact": ("artifacts", 0)}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_key_that_a_manifest_does_not_have_is_refused(manifest: Any, place: tuple[str | int, ...]) -> None:
    assert misfits("manifest", manifest) == []
    check_refused(manifest, place)


@pytest.mark.slow
@pytest.mark.parametrize("place", [("quantization", "program"), ("steps", 0, "result")], ids=["quantized", "pruned"])
def test_a_key_that_a_step_does_not_have_is_refused(written: Mapping[str, Any], place: tuple[str | int, ...]) -> None:
    check_refused(copy.deepcopy(written["manifest"]), place)


def check_refused(manifest: Any, place: tuple[str | int, ...]) -> None:
    """Puts an unknown key into the record at a place of the manifest."""
    record = manifest
    for key in place:
        record = record[key]
    record["colour"] = "blue"
    (told,) = misfits("manifest", manifest)
    assert told.endswith("('colour' was unexpected)")


def test_a_key_that_is_missing_and_a_value_of_another_type_are_refused(manifest: Any) -> None:
    (told,) = misfits("manifest", {**manifest, "spec": 3})
    assert told == "$.spec: 3 is not of type 'object'"
    del manifest["seal"]
    assert misfits("manifest", manifest) == ["$: 'seal' is a required property"]


@pytest.mark.parametrize(
    "bundle", sorted(path.parent for path in EARLIER.glob("*/manifest.json")), ids=lambda path: path.name
)
def test_a_manifest_of_an_earlier_version_fits_once_it_is_read(bundle: Path) -> None:
    assert misfits("manifest", {**to_dict(read_manifest(bundle)), "seal": "0" * 64}) == []
