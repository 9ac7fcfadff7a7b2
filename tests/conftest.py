# SPDX-License-Identifier: Apache-2.0
"""Fixtures of several test modules: an export takes seconds, and one of them is enough."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import repeated_work
from tests.bad_files import VIT
from vitedge import progress
from vitedge.recipe import ExportRecipe


def pytest_collection_finish() -> None:
    """Keeps the libraries and tests, millions of objects that stay, out of every pass of the garbage collector."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


# What `nohup` or a shell's `&` has the tests ignore, the processes would ignore that they start and interrupt.
for _name, _usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    _signal = getattr(signal, _name, None)  # Windows has no SIGHUP
    if _signal is not None and signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, _usual)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps calibrations of tests out of the user's cache; fixtures of a module name a cache of their own."""
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True, scope="session")
def _repeated_work() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        repeated_work.do_once(patch)
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread of PyTorch, and no word of transformers: for modules that run hundreds of tiny models."""
    from tests.family_files import quiet  # noqa: PLC0415 - it imports transformers, which takes seconds

    quiet()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded ViT as ONNX and as Core ML, with six images. Not to be changed."""
    from vitedge.verbs.export import export  # noqa: PLC0415 - most test modules need no PyTorch

    folder = tmp_path_factory.mktemp("demo") / "vit"
    export(str(VIT), folder, ExportRecipe(formats=("onnx", "coreml"), image_count=6))
    return folder


@pytest.fixture(autouse=True)
def no_stage_is_left() -> Iterator[None]:
    """A test leaves no stage of the work open: the next one's would be a part of it."""
    yield
    left = progress._stage.get()
    progress._stage.set(None)
    assert left is None, left.path
