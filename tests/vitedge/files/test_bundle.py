# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vitedge.errors import BundleDamaged, UnreadableArtifact
from vitedge.files.bundle import (
    FORMAT_VERSION,
    MANIFEST,
    REFERENCE,
    ReferenceData,
    check_files,
    read_manifest,
    read_reference,
    remarks,
    write_manifest,
    write_reference,
)
from vitedge.files.digest import hash_file
from vitedge.files.plain import from_dict
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.records import (
    Artifact,
    BenchReport,
    CheckpointIdentity,
    Manifest,
    ModelSpec,
    Origin,
    OutputParity,
    ParityReport,
    Preprocessing,
    SpeedComparison,
    TensorSpec,
    Tolerance,
)

SPEC = ModelSpec(
    family="vit",
    variant="custom",
    naming="timm",
    image_size=(8, 8),
    in_channels=3,
    classes=4,
    widths=(8,),
    depths=(1,),
    heads=(1,),
    mlp_ratios=(4.0,),
    patch=4,
    tokens=("class",),
    norm_eps=1e-6,
    activation="gelu",
    preprocessing=Preprocessing((0.5,) * 3, (0.5,) * 3),
    labels=("café", "b", "c", "d"),
    options={"qkv_bias": True},
    origins={"patch": Origin.SHAPE},
)
DATA = ReferenceData(
    np.arange(2 * 3 * 8 * 8, dtype=np.uint8).reshape(2, 3, 8, 8), {"logits": np.ones((2, 4), np.float32)}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_reference(tmp_path, DATA)
    (tmp_path / "model.onnx").write_bytes(b"graph")
    digest = hash_file(tmp_path / "model.onnx")
    image = TensorSpec("image", ("batch", 3, 8, 8), "float32")
    artifact = Artifact(
        "onnx", "model.onnx", digest, 5, "fp32", "opset 18", (image,), (image,), files={"model.onnx": digest}
    )
    nothing = OutputParity("logits", 0.0, float("inf"), float("inf"), 1.0, 1.0, 0.0)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        checkpoint=CheckpointIdentity("a.pth", "0" * 64, 7, "model"),
        spec=SPEC,
        recipe={"formats": ["onnx"]},
        artifacts=(artifact,),
        parity=(ParityReport("model.onnx", "onnxruntime", 2, "synthetic", Tolerance(1e-5), (nothing,), passed=True),),
        structure=(),
        latency=None,
        files={REFERENCE: hash_file(tmp_path / REFERENCE)},
        versions={"python": "3"},
    )
    write_manifest(tmp_path, manifest)
    return tmp_path


def test_what_is_written_is_read_back(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest.spec == SPEC
    assert manifest.parity[0].outputs[0].sqnr_db == float("inf")
    assert manifest.artifacts[0].inputs[0].shape == ("batch", 3, 8, 8)
    assert check_files(folder, manifest) == 2
    found = read_reference(folder)
    np.testing.assert_array_equal(found.images, DATA.images)
    np.testing.assert_array_equal(found.outputs["logits"], DATA.outputs["logits"])


def test_the_same_content_gives_the_same_bytes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write_reference(other, DATA)
    write_manifest(other, read_manifest(folder))
    for name in (REFERENCE, "manifest.json"):
        assert (other / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("name", ["model.onnx", REFERENCE])
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_damaged_file_is_named(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(BundleDamaged, match=name):
        check_files(folder, read_manifest(folder))


def test_a_file_that_the_manifest_does_not_know_is_named(folder: Path) -> None:
    (folder / "extra.bin").write_bytes(b"")
    with pytest.raises(BundleDamaged, match=r"extra\.bin"):
        check_files(folder, read_manifest(folder))


@pytest.mark.parametrize("damage", ["cut", "value", "no seal", "list", "deep"])
def test_a_damaged_manifest_is_named(folder: Path, damage: str) -> None:
    path = folder / "manifest.json"
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    content["spec"]["classes"] = 5
    damaged = {
        "cut": text[: len(text) // 2],
        "value": json.dumps(content),
        "no seal": json.dumps({key: value for key, value in json.loads(text).items() if key != "seal"}),
        "list": "[]",
        "deep": "[" * 100_000,
    }
    path.write_text(damaged[damage], encoding="utf-8")
    with pytest.raises(BundleDamaged, match=r"manifest\.json"):
        read_manifest(folder)


def test_a_file_outside_the_bundle_is_refused(folder: Path) -> None:
    outside = folder.parent / "outside.bin"
    outside.write_bytes(b"secret")
    manifest = read_manifest(folder)
    with pytest.raises(BundleDamaged, match="leads out of the bundle"):
        check_files(folder, replace(manifest, files={"../outside.bin": hash_file(outside)}))


def test_a_folder_without_a_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(UnreadableArtifact, match="not a bundle"):
        read_manifest(tmp_path)


def test_a_bundle_of_another_format_is_refused(folder: Path) -> None:
    write_manifest(folder, replace(read_manifest(folder), format_version=99))
    with pytest.raises(UnreadableArtifact, match="format 99"):
        read_manifest(folder)


def test_a_bundle_of_the_first_format_is_read_as_one_of_this(folder: Path) -> None:
    """What it says of timing was a setting of quantization then, and part of what quantization had done."""
    found = {"text": "int8 is faster", "ratios": [], "milliseconds": {"int8": 0.5}, "unfused": ["head: Gemm in float"]}
    settings = {"scheme": "int8", "images": "synthetic", "verdict": "on"}
    earlier = replace(
        read_manifest(folder),
        format_version=1,
        recipe={
            "precision": "int8",
            "profile": "cpu-x86",
            "quantization": settings,
        },
        quantization={"scheme": "int8", "verdict": found},
    )
    write_manifest(folder, earlier)
    manifest = read_manifest(folder)
    assert manifest.format_version == FORMAT_VERSION
    recipe = from_dict(ExportRecipe, manifest.recipe)
    assert recipe.quantization == QuantizationRecipe("int8", images="synthetic")
    assert recipe.profiles == ("cpu-x86",)
    assert manifest.quantization == {"program": {"scheme": "int8"}}
    assert manifest.speed == SpeedComparison("int8 is faster", (), {"int8": 0.5}, ("head: Gemm in float",))
    write_manifest(folder, manifest)
    written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    assert written["format_version"] == FORMAT_VERSION
    assert "verdict" not in written["quantization"]["program"]
    assert read_manifest(folder).speed == manifest.speed


@pytest.mark.parametrize("recipe", [{"quantization": None}, {"quantization": "int8"}, {}])
def test_a_bundle_of_the_first_format_that_quantized_nothing_is_read(folder: Path, recipe: dict[str, object]) -> None:
    write_manifest(folder, replace(read_manifest(folder), format_version=1, recipe=recipe))
    manifest = read_manifest(folder)
    assert (manifest.format_version, manifest.recipe, manifest.speed) == (FORMAT_VERSION, recipe, None)


def test_a_measurement_goes_into_the_manifest_under_a_new_seal(folder: Path) -> None:
    write_manifest(folder, replace(read_manifest(folder), latency=BenchReport(reports=())))
    assert read_manifest(folder).latency == BenchReport(reports=())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_a_damaged_reference_is_named(folder: Path, content: bytes) -> None:
    (folder / REFERENCE).write_bytes(content)
    with pytest.raises(BundleDamaged, match=REFERENCE):
        read_reference(folder)


def resealed(folder: Path, **changed: object) -> None:
    write_manifest(folder, replace(read_manifest(folder), **changed))  # type: ignore[arg-type]


def test_a_bundle_in_a_hubs_cache_is_hashed_through_its_links(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    snapshot = tmp_path_factory.mktemp("snapshot")
    for file in folder.iterdir():
        (snapshot / file.name).symlink_to(file)
    manifest = read_manifest(snapshot)
    assert check_files(snapshot, manifest) == 2
    assert remarks(folder, manifest) == ()
    (told,) = remarks(snapshot, manifest)
    assert "links to files outside the bundle" in told
    assert "model.onnx" in told
    (folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleDamaged, match=r"model\.onnx is not the file"):
        check_files(snapshot, manifest)
    (folder / "model.onnx").unlink()
    with pytest.raises(BundleDamaged, match=r"model\.onnx is missing from the bundle: it is a link to"):
        check_files(snapshot, manifest)


def test_what_systems_leave_behind_is_no_damage(folder: Path) -> None:
    names = [
        ".DS_Store",
        "._model.onnx",
        "Thumbs.db",
        "desktop.ini",
        "__MACOSX/._model.onnx",
        "__MACOSX/a/b.onnx",
        ".cache/huggingface/download/model.onnx.lock",
        "model.mlpackage/.DS_Store",
    ]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    manifest = read_manifest(folder)
    assert check_files(folder, manifest) == 2
    (told,) = remarks(folder, manifest)
    assert f"and {len(names) - 3} more" in told
    (folder / "DS_Store").write_bytes(b"")
    with pytest.raises(BundleDamaged, match="DS_Store is in the bundle"):
        check_files(folder, manifest)


@pytest.mark.parametrize("name", ["../a.onnx", "/etc/passwd", "a/../../b", "C:\\a", "..\\a", ""])
@pytest.mark.parametrize("place", ["files", "path", "unsealed"])
def test_a_path_that_leads_out_of_the_bundle_is_named(folder: Path, name: str, place: str) -> None:
    manifest = read_manifest(folder)
    if place == "path":
        resealed(folder, artifacts=(replace(manifest.artifacts[0], path=name),))
    elif place == "files":
        resealed(folder, files={name: "0" * 64})
    else:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        content["files"] = {name: "0" * 64}
        (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BundleDamaged) as caught:
        read_manifest(folder)
    assert f"names {name}, which leads out of the bundle" in str(caught.value)


def test_an_altered_hash_and_a_format_of_the_future_are_named_though_the_seal_is_broken(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    content["artifacts"][0]["files"]["model.onnx"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BundleDamaged, match=r"model\.onnx is not the file that it describes"):
        read_manifest(folder)
    (folder / MANIFEST).write_text(json.dumps({**content, "format_version": 99}), encoding="utf-8")
    with pytest.raises(UnreadableArtifact, match="format 99"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "content", [b'{"format_version": NaN}', b'{"seal": 1e999}', b"[" * 900 + b"]" * 900, b'"\\ud800"']
)
def test_a_manifest_that_is_json_and_no_manifest_is_named(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(BundleDamaged, match=r"manifest\.json"):
        read_manifest(folder)


def test_a_manifest_of_gigabytes_is_not_read(folder: Path) -> None:
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(BundleDamaged, match="are not read"):
        read_manifest(folder)


def test_a_reference_that_claims_more_than_it_holds_is_named(folder: Path) -> None:
    header = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
    shape = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1048576, 1048576), }"
    with zipfile.ZipFile(folder / REFERENCE, "w") as archive:
        archive.writestr("images.npy", header + shape.ljust(117) + b"\n")
    with pytest.raises(BundleDamaged, match="does not have the bytes"):
        read_reference(folder)
