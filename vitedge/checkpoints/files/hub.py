# SPDX-License-Identifier: Apache-2.0
"""Fetching ``timm:NAME`` and ``hf:NAME`` from the Hugging Face hub into its local cache."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vitedge.checkpoints.files import folders
from vitedge.errors import HubUnreachable

SCHEMES = ("timm:", "hf:")
_CONFIGURATION = (folders.CONFIG, folders.PREPROCESSOR, folders.OPEN_CLIP_CONFIG)
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")


class Fetched(NamedTuple):
    """A folder of the hub's cache, and timm's own configuration of the weights in it."""

    folder: Path
    config: Mapping[str, Any]


def is_hub(source: str) -> bool:
    """Returns whether a source names something on the hub."""
    return source.startswith(SCHEMES)


def fetch(source: str) -> Fetched:
    """Downloads the weights and the configuration of ``timm:NAME``, ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION``.

    Raises:
        HubUnreachable: no such model, no access, or no network; the message says what to type next.
    """
    scheme, _, name = source.partition(":")
    if scheme == "timm":
        config = _timm_config(name)
        return Fetched(_snapshot(source, str(config["hf_hub_id"]), None), config)
    repository, _, revision = name.partition("@")
    return Fetched(_snapshot(source, repository, revision or None), {})


def _timm_config(name: str) -> dict[str, Any]:
    import timm  # noqa: PLC0415 - takes seconds to import, and only the hub asks it for names

    known = timm.list_models(pretrained=True)
    config = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    if config is None or not config.hf_hub_id:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        advice = f"near are {', '.join(near)}" if near else "timm.list_models(pretrained=True) lists all"
        raise HubUnreachable(f"timm has no pretrained weights on the hub under {name!r}; {advice}.")
    found: Any = config
    return dict(found.to_dict())


def _snapshot(source: str, repository: str, revision: str | None) -> Path:
    """Downloads safetensors, or pickles where there are none: a repository may hold the weights in both formats."""
    folder = _download(source, repository, revision, (*_CONFIGURATION, *_SAFETENSORS))
    if any((folder / name).exists() for name in _SAFETENSORS[:2]):
        return folder
    folder = _download(source, repository, revision, (*_CONFIGURATION, *_PICKLES))
    if any((folder / name).exists() for name in _PICKLES[:2]) or not (folder / folders.OPEN_CLIP_CONFIG).exists():
        return folder
    return _download(source, repository, revision, (*_CONFIGURATION, *folders.OPEN_CLIP))


def _download(source: str, repository: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    import huggingface_hub  # noqa: PLC0415 - brings an HTTP client along that a local file does not need
    from huggingface_hub import errors  # noqa: PLC0415 - as above

    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise HubUnreachable(
            f"{source} cannot be fetched: the hub has no {repository!r}{f' at {revision!r}' if revision else ''}, "
            "or you have no access; check the name, or run hf auth login."
        ) from error
    except Exception as error:
        # Without network the client raises its HTTP library's errors, which are not ours to enumerate.
        raise HubUnreachable(
            f"{source} cannot be fetched: the hub cannot be reached ({type(error).__name__}); download "
            f"https://huggingface.co/{repository} where there is a network and pass the folder."
        ) from error
