# SPDX-License-Identifier: Apache-2.0
"""The hub, as far as it can be told without a network: a local server that is not there, and a filled cache."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest

from vitedge.checkpoints.files import hub
from vitedge.errors import HubUnreachable


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def cached(cache: Path, repository: str, files: dict[str, str]) -> Path:
    root = cache / f"models--{repository.replace('/', '--')}"
    folder = root / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("source", "repository"),
    [
        ("hf:facebook/deit-tiny-patch16-224", "facebook/deit-tiny-patch16-224"),
        ("timm:vit_tiny_patch16_224", "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
    ],
)
@pytest.mark.usefixtures("offline")
def test_without_network_the_message_says_what_to_fetch_by_hand(source: str, repository: str) -> None:
    with pytest.raises(HubUnreachable, match=f"https://huggingface.co/{repository} .* pass the folder") as caught:
        hub.fetch(source)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_unknown_timm_name_gets_near_ones_without_asking_the_hub() -> None:
    with pytest.raises(HubUnreachable, match=r"'mobilevit_xxxs'; near are mobilevit_xxs"):
        hub.fetch("timm:mobilevit_xxxs")


@pytest.mark.parametrize("name", ["", "a/b/c", "../etc", "a b"])
@pytest.mark.usefixtures("offline")
def test_names_that_the_hub_cannot_have(name: str) -> None:
    with pytest.raises(HubUnreachable, match="check the name"):
        hub.fetch(f"hf:{name}")


def test_cached_folder_is_used(offline: Path) -> None:
    folder = cached(offline, "owner/name", {"model.safetensors": "", "config.json": json.dumps({})})
    assert hub.fetch("hf:owner/name") == (folder, {})


def test_timm_brings_its_preprocessing(offline: Path) -> None:
    folder = cached(offline, "timm/deit_tiny_patch16_224.fb_in1k", {"model.safetensors": ""})
    found, config = hub.fetch("timm:deit_tiny_patch16_224.fb_in1k")
    assert found == folder
    assert config["mean"] == (0.485, 0.456, 0.406)
    assert config["crop_pct"] == 0.9


def test_only_schemes_are_taken_for_the_hub() -> None:
    assert hub.is_hub("timm:vit_tiny")
    assert hub.is_hub("hf:a/b")
    assert not hub.is_hub("timm_vit.pth")
    assert not hub.is_hub("C:/weights.pth")
