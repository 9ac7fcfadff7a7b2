# SPDX-License-Identifier: Apache-2.0
"""Writes ``docs/schema/``, a JSON schema of every document, from the records: ``make docs``.

Pydantic reads the dataclasses with the docstrings of their fields. What it cannot know is added here: the strings that
stand for infinity and NaN, the records behind fields that records of lower floors hold as plain values, and the seal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from pydantic import ConfigDict, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from vitedge.accuracy.records import Evaluation
from vitedge.cli.failures import Failure
from vitedge.demo.records import DemoResult
from vitedge.devices.health.records import Checkup
from vitedge.devices.profiles import Profile
from vitedge.export.tensorrt.records import EngineRecord
from vitedge.files.cache import CacheUsage
from vitedge.pruning.recipe import PruningRecipe
from vitedge.pruning.records import PruningRecord, PruningResult
from vitedge.quantization.records import QuantizationRecord, QuantizationResult
from vitedge.recipe import ResolvedRecipe
from vitedge.records import BenchReport, Manifest, Validation
from vitedge.verbs.records import Comparison, ExportResult, Inspection, WrittenKit

FOLDER = Path(__file__).parent.parent / "docs" / "schema"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Document:
    """One kind of JSON document that vitedge writes or prints."""

    title: str
    record: Any
    """Its type."""
    commands: tuple[str, ...]
    """The commands that print it with ``--json``."""
    further: Mapping[str, Any]
    """Properties that are no fields of the record; all of them are required."""


def _document(title: str, record: Any, *commands: str, **further: Any) -> Document:
    return Document(title, record, commands, further)


_SEAL = {
    "type": "string",
    "pattern": "^[0-9a-f]{64}$",
    "description": "SHA-256 of all other entries as JSON with sorted keys, without spaces and in pure ASCII.",
}

DOCUMENTS: Mapping[str, Document] = {
    "manifest": _document("manifest.json of a bundle", Manifest, seal=_SEAL),
    "inspect": _document("vitedge inspect --json", Inspection, "inspect"),
    "export": _document("vitedge export --json", ExportResult, "export"),
    "quantize": _document("vitedge quantize --json", QuantizationResult, "quantize"),
    "prune": _document("vitedge prune --json", PruningResult, "prune"),
    "validate": _document(
        "vitedge validate --json, and vitedge kit import --json", Validation, "validate", "kit import"
    ),
    "evaluate": _document("vitedge evaluate --json", Evaluation, "evaluate"),
    "bench": _document("vitedge bench --json, and the file of vitedge bench --save", BenchReport, "bench"),
    "compare": _document("vitedge compare --json", Comparison, "compare"),
    "kit-write": _document("vitedge kit write --json", WrittenKit, "kit write"),
    "doctor": _document("vitedge doctor --json", Checkup, "doctor"),
    "profiles": _document("vitedge profiles --json", Mapping[str, Profile], "profiles"),
    "cache": _document(
        "vitedge cache --json",
        CacheUsage,
        "cache",
        size={"type": "integer", "description": "Bytes of all entries."},
    ),
    "demo": _document("vitedge demo --json", DemoResult, "demo"),
    "error": _document("any command that fails, with --json", Failure),
}

BEHIND: Mapping[tuple[str, str], Any] = {
    ("Manifest", "recipe"): ResolvedRecipe,
    ("Manifest", "quantization"): Mapping[str, QuantizationRecord],
    ("Artifact", "engine"): EngineRecord | None,
    ("Validation", "engines"): Mapping[str, EngineRecord],
    ("Step", "recipe"): PruningRecipe,
    ("Step", "result"): PruningRecord,
}
"""Record and field that holds plain values, to the type that they are of."""


class _Schema(GenerateJsonSchema):
    """The schema of what `vitedge.files.plain.to_dict` makes of a record."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Leaves a field without a title: its name and its description are told already."""
        return False

    def float_schema(self, schema: Any) -> dict[str, Any]:
        """Returns a number, or a string for one that JSON does not have."""
        return {"anyOf": [super().float_schema(schema), {"enum": ["inf", "-inf", "nan"]}]}


def misfits(name: str, document: Any) -> list[str]:
    """Returns a line for everything in a document that does not fit its schema in ``docs/schema/``."""
    known = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return [f"{error.json_path}: {error.message[-200:]}" for error in Draft202012Validator(known).iter_errors(document)]


def schema(name: str) -> dict[str, Any]:
    """Returns the JSON schema of a document, a key of `DOCUMENTS`."""
    document = DOCUMENTS[name]
    definitions: dict[str, Any] = {}
    body = _described(document.record, definitions)
    if "$ref" in body:
        body = definitions.pop(body["$ref"].rpartition("/")[2])
    if document.further:
        body["properties"] |= document.further
        body["required"] = [*body["required"], *document.further]
    whole = {"$schema": DIALECT, **body, "title": document.title}
    return {**whole, "$defs": dict(sorted(definitions.items()))} if definitions else whole


def text(name: str) -> str:
    """Returns the content of a schema's file."""
    return json.dumps(schema(name), indent=1, ensure_ascii=False) + "\n"


def _described(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of a type, and adds those of all records that it names to the definitions."""
    settings = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    # Pydantic takes settings beside a dataclass from the dataclass alone, and beside a list from here.
    found = TypeAdapter(list[kind], config=settings).json_schema(schema_generator=_Schema)
    for record, body in found.get("$defs", {}).items():
        if record in definitions:
            continue
        definitions[record] = body
        _joined(body)
        for field, entry in body.get("properties", {}).items():
            _joined(entry)
            if (record, field) in BEHIND:
                told = {key: entry[key] for key in ("description", "default") if key in entry}
                body["properties"][field] = {**_described(BEHIND[record, field], definitions), **told}
    return dict(found["items"])


def _joined(entry: dict[str, Any]) -> None:
    """Puts the lines of a docstring's paragraphs into one line each."""
    if "description" in entry:
        paragraphs = entry["description"].split("\n\n")
        entry["description"] = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.glob("*.json"):
        stale.unlink()
    for one in DOCUMENTS:
        (FOLDER / f"{one}.json").write_text(text(one), encoding="utf-8")
