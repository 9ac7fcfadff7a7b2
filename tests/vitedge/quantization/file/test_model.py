# SPDX-License-Identifier: Apache-2.0
"""Tests of `model` and of the `archive` that it reads."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.export import tiny
from tests.vitedge.quantization import small_models as small
from tests.vitedge.quantization.plans import block_weight, channel_weights, whole
from vitedge.errors import RefusedPickle, UnreadableArtifact, UserError
from vitedge.files.bundle import ReferenceData
from vitedge.program.canonical import canonicalize
from vitedge.program.structure import find_structure
from vitedge.quantization.file.header import FORMAT_VERSION
from vitedge.quantization.file.model import Model, read_model, write_model
from vitedge.quantization.insert import insert
from vitedge.quantization.plan import Plan
from vitedge.quantization.records import LayerChoice, QuantizationRecord
from vitedge.records import CheckpointIdentity

Entries = dict[str, bytes]
IMAGES = np.arange(2 * 3 * 32 * 32, dtype=np.uint8).reshape(2, 3, 32, 32)
RECORD = QuantizationRecord("int8", 4, "synthetic, seed 0", "0" * 64, {"bad.png": "damaged"},
    layers=(LayerChoice("left", "linear", "int8", low=-1.5, high=float("inf")),))  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Model:
    program = canonicalize(small.captured(small.Mixture))
    weights = channel_weights(find_structure(program))
    weights["right"] = block_weight(small.built(small.Mixture).right.weight.detach(), 16)
    qparams = whole("uint8", 0.02, 20)
    quantized = insert(program, Plan(weights=weights, inputs={"left": qparams, "right": qparams}, dynamic={"head"}))
    identity = CheckpointIdentity("vit.pth", "1" * 64, 1234, "model")
    reference_outputs = ReferenceData(IMAGES, {"logits": np.float32([[1, np.pi], [3, -4e-30]])})
    return Model(quantized, RECORD, identity, reference_outputs)


@pytest.fixture(scope="module")
def written(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "model.pt2"
    write_model(path, model)
    return path


def test_a_file_gives_back_what_was_written(model: Model, written: Path) -> None:
    found = read_model(written)
    assert (found.record, found.checkpoint) == (model.record, model.checkpoint)
    assert (found.program.spec, found.program.blocks) == (model.program.spec, model.program.blocks)
    assert (found.program.inputs, found.program.outputs) == (model.program.inputs, model.program.outputs)
    assert np.array_equal(found.reference_outputs.images, IMAGES)
    assert {name: values.tolist() for name, values in found.reference_outputs.outputs.items()} == {
        name: values.tolist() for name, values in model.reference_outputs.outputs.items()
    }
    images = tiny.images(3)
    assert torch.equal(small.run(found.program, images), small.run(model.program, images))


def changed(written: Path, path: Path, change: Callable[[Entries], object]) -> Path:
    """The file with other entries in its archive."""
    with zipfile.ZipFile(written) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def edit(entries: Entries, name: str, old: str, new: str) -> None:
    (found,) = (entry for entry in entries if entry.endswith(name))
    assert old.encode() in entries[found]
    entries[found] = entries[found].replace(old.encode(), new.encode(), 1)


def drop(entries: Entries, name: str) -> None:
    del entries[next(entry for entry in entries if entry.endswith(name))]


def refused(path: Path, kind: type[UserError] = UnreadableArtifact) -> str:
    """The sentence."""
    with pytest.raises(kind) as caught:
        read_model(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 600
    return text


def test_what_is_no_such_file_is_refused_in_a_sentence(written: Path, tmp_path: Path) -> None:
    assert "There is no" in refused(tmp_path / "none.pt2")
    path = tmp_path / "model.pt2"
    for content in (b"", b"not a zip archive", np.random.default_rng(0).bytes(5000)):
        path.write_bytes(content)
        assert "is not a .pt2 file, or is cut short" in refused(path)
    content = written.read_bytes()
    for length in (200, len(content) // 2, len(content) - 2000, len(content) - 10):
        path.write_bytes(content[:length])
        refused(path, UserError)


def test_a_program_that_vitedge_did_not_write_is_refused(model: Model, tmp_path: Path) -> None:
    torch.export.save(model.program.exported, tmp_path / "foreign.pt2")
    assert "was not written by vitedge quantize" in refused(tmp_path / "foreign.pt2")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "checkpoint.pt2")
    refused(tmp_path / "checkpoint.pt2", UserError)


def test_another_format_is_refused_with_both_numbers(written: Path, tmp_path: Path) -> None:
    def newer(entries: Entries) -> None:
        edit(entries, "vitedge.json", f'"format_version": {FORMAT_VERSION}', '"format_version": 99')

    assert f"has format 99; this vitedge reads {FORMAT_VERSION}" in refused(changed(written, tmp_path / "n.pt2", newer))


DAMAGE: dict[str, Callable[[Entries], object]] = {
    "no weights": lambda entries: drop(entries, "data/weights/weight_0"),
    "no program": lambda entries: drop(entries, "models/model.json"),
    "a program that is no JSON": lambda entries: edit(entries, "models/model.json", "{", "["),
    "an operator that does not exist": lambda entries: edit(entries, "models/model.json", "aten.gelu", "aten.glue"),
    "weights that are said to be larger": lambda entries: edit(
        entries, "model_weights_config.json", '"as_int": 48', '"as_int": 4800'
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_program_is_refused_in_a_sentence(kind: str, written: Path, tmp_path: Path) -> None:
    refused(changed(written, tmp_path / "damaged.pt2", DAMAGE[kind]))


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.proof),)


def pickled(proof: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Bomb(proof), buffer)
    return buffer.getvalue()


def of_a_weight(entries: Entries, bomb: bytes) -> None:
    (name,) = (entry for entry in entries if entry.endswith("model_weights_config.json"))
    config = json.loads(entries[name])
    payload = next(iter(config["config"].values()))
    payload["use_pickle"] = True
    entries[name] = json.dumps(config).encode()
    entries["archive/data/weights/" + payload["path_name"]] = bomb


def of_an_object(entries: Entries, bomb: bytes) -> None:
    (name,) = (entry for entry in entries if entry.endswith("model_constants_config.json"))
    config = json.loads(entries[name])
    config["config"]["bomb"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    entries[name] = json.dumps(config).encode()
    entries["archive/data/constants/opaque_obj_0"] = bomb


def of_the_inputs(entries: Entries, bomb: bytes) -> None:
    entries[next(entry for entry in entries if "sample_inputs" in entry)] = bomb


def of_older_files(entries: Entries, bomb: bytes) -> None:
    entries["archive/data/weights/model.pt"] = bomb


def of_compiled_code(entries: Entries, bomb: bytes) -> None:
    entries["archive/data/aotinductor/model/model.so"] = bomb


@pytest.mark.parametrize("put", [of_a_weight, of_an_object, of_the_inputs, of_older_files, of_compiled_code])
def test_a_bomb_is_refused_and_does_not_go_off(
    put: Callable[[Entries, bytes], None], written: Path, tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    path = changed(written, tmp_path / "bomb.pt2", lambda entries: put(entries, pickled(proof)))
    assert "was not read" in refused(path, RefusedPickle)
    assert not proof.exists()


def with_expression(content: bytes, code: str) -> bytes:
    """A serialized program, one edge of a shape of which is an expression."""
    program = json.loads(content)
    values = next(iter(program["graph_module"]["graph"]["tensor_values"].values()))
    values["sizes"][0] = {"as_expr": {"expr_str": code, "hint": {"as_int": 3}}}
    return json.dumps(program).encode()


CODE = ("__import__('os').mkdir('{}')", "exec(\"import os; os.mkdir('{}')\")", "s0.mkdir('{}')")


@pytest.mark.parametrize("code", CODE)
def test_code_in_a_shape_is_refused_and_does_not_run(code: str, written: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"

    def put(entries: Entries) -> None:
        name = next(entry for entry in entries if entry.endswith("models/model.json"))
        entries[name] = with_expression(entries[name], code.format(proof))

    path = changed(written, tmp_path / "bomb.pt2", put)
    assert "which could run code; it was not read" in refused(path, RefusedPickle)
    assert not proof.exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("first", ["harmless", "hostile"])
def test_of_two_entries_of_one_name_none_hides_the_other(first: str, written: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    path = tmp_path / "twice.pt2"
    with zipfile.ZipFile(written) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (program,) = (name for name in entries if name.endswith("models/model.json"))
    hostile = with_expression(entries[program], f"__import__('os').mkdir('{proof}')")
    twice = [entries[program], hostile] if first == "harmless" else [hostile, entries[program]]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            for one in twice if name == program else [content]:
                archive.writestr(name, one)
    refused(path, RefusedPickle)
    assert not proof.exists()
