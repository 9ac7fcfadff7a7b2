# SPDX-License-Identifier: Apache-2.0
"""Alters checkpoints at random, and looks for tracebacks and for changes of the logits that pass in silence.

    python -m benchmarks.fuzz_checkpoints                   ten minutes; writes benchmarks/results/fuzz_checkpoints.json
    python -m benchmarks.fuzz_checkpoints --minutes 1 --seed 7

Every subject is a tiny model of timm or transformers with seeded weights, saved as its library saves it. A change of
the weights (a key dropped, renamed, wrapped or added, a tensor reshaped or of another type) must end in a refusal, in
the logits of the source library, or in a note. A change of the configuration is put to the source library too: where
its logits move, ours move with them, or there is a refusal or a note. A fault is written down with its seed and ends
the script with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from timm.models._hub import save_for_hf
from torch import Tensor, nn

import vitedge
from benchmarks.quantization_models import provenance
from tests.seeding import seeded
from vitedge.errors import VitedgeError

RESULTS = Path(__file__).parent / "results" / "fuzz_checkpoints.json"
SIDE = 64
"""Edge of the images in pixels."""
LIMIT = 1e-3
"""Largest change of a logit, relative to the largest logit, that may pass without a note."""
State = dict[str, Tensor]


@dataclass(frozen=True)
class Subject:
    """A model as its library saves it."""

    name: str
    module: nn.Module
    configuration: dict[str, Any] = field(default_factory=dict)
    """Its ``config.json``; empty where it is a file of weights alone."""
    rebuild: Callable[[Mapping[str, Any]], nn.Module] | None = None
    """Builds the module of another configuration."""


def timm_subject(name: str, folder: Path | None = None, **settings: Any) -> Subject:
    """Returns a seeded model of timm: a file of weights, or a folder with a configuration."""
    settings = {"num_classes": 9, **settings}
    module = seeded(timm.create_model(name, **settings))
    if folder is None:
        return Subject(name, module)
    save_for_hf(module, folder, model_args=settings)
    configuration = json.loads((folder / "config.json").read_text())

    def rebuild(changed: Mapping[str, Any]) -> nn.Module:
        arguments = {"num_classes": changed.get("num_classes", 9), **(changed.get("model_args") or {})}
        return timm.create_model(changed["architecture"], **arguments)

    return Subject(f"{name} in a folder", module, configuration, rebuild)


def hugging_face_subject(model: str, configuration: str, **settings: Any) -> Subject:
    """Returns a seeded model of transformers by the names of its classes."""
    kind, configured = getattr(transformers, model), getattr(transformers, configuration)
    config = configured(num_labels=9, **settings)
    return Subject(model, seeded(kind(config)), config.to_dict(), lambda new: kind(configured.from_dict(dict(new))))


def subjects(folder: Path) -> list[Subject]:
    """Returns the models of all families."""
    columnar = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    patches = {"image_size": 64, "patch_size": 16}
    return [
        timm_subject("vit_tiny_patch16_224", depth=2, img_size=64),
        timm_subject("vit_tiny_patch16_224", folder / "timm", depth=2, img_size=64, num_heads=6),
        timm_subject("deit_tiny_distilled_patch16_224", depth=2, img_size=64),
        timm_subject("pit_ti_224", img_size=64),
        timm_subject("beit_base_patch16_224", depth=2, embed_dim=96, num_heads=3, img_size=64),
        hugging_face_subject("ViTForImageClassification", "ViTConfig", **columnar, **patches),
        hugging_face_subject("DeiTForImageClassification", "DeiTConfig", **columnar, **patches),
        hugging_face_subject("BeitForImageClassification", "BeitConfig", **columnar, **patches),
        hugging_face_subject(
            "Dinov2ForImageClassification", "Dinov2Config", image_size=64, patch_size=16, hidden_size=48,
            num_hidden_layers=2, num_attention_heads=3, mlp_ratio=2,
        ),
        hugging_face_subject(
            "SwinForImageClassification", "SwinConfig", image_size=64, patch_size=4, embed_dim=24, depths=[2, 2],
            num_heads=[2, 4], window_size=4,
        ),
    ]  # fmt: skip


Change = Callable[[random.Random, State], str]
"""Alters a state in place and says what it did."""


def drop(draw: random.Random, state: State) -> str:
    """Leaves a weight out."""
    name = draw.choice(sorted(state))
    del state[name]
    return f"without {name}"


def rename(draw: random.Random, state: State) -> str:
    """Gives a weight a name with one letter, or one part, more or less."""
    name = draw.choice(sorted(state))
    parts = name.split(".")
    place = draw.randrange(len(parts))
    parts[place] = draw.choice((parts[place] + "x", "module", parts[place][:-1] or "y", parts[place].upper()))
    state[".".join(parts)] = state.pop(name)
    return f"{name} as {'.'.join(parts)}"


def wrap(draw: random.Random, state: State) -> str:
    """Puts a prefix before all names."""
    prefix = draw.choice(("module.", "model.", "_orig_mod.", "net.0.", "my_encoder.", "teacher.", "a.b.c.", "vit."))
    renamed = {prefix + name: tensor for name, tensor in state.items()}
    state.clear()
    state.update(renamed)
    return f"behind {prefix}"


def add(draw: random.Random, state: State) -> str:
    """Adds a weight that the model does not have."""
    like = draw.choice(sorted(state))
    name = draw.choice(
        (f"{like}_extra", f"{like.rpartition('.')[0]}.gate", "projector.0.weight", "loss.weight", "fc.weight")
    )
    state[name] = torch.randn(state[like].shape)
    return f"with {name} {tuple(state[like].shape)}"


def reshape(draw: random.Random, state: State) -> str:
    """Gives a weight another shape."""
    name = draw.choice(sorted(name for name, tensor in state.items() if tensor.ndim))
    tensor = state[name]
    forms = (tensor.flatten(), tensor.unsqueeze(0), tensor[:-1], tensor.transpose(0, -1))
    # A transposed square is weights of another training for all that a file shows.
    state[name] = draw.choice([form for form in forms if form.shape != tensor.shape]).contiguous()
    return f"{name} {tuple(tensor.shape)} as {tuple(state[name].shape)}"


def retype(draw: random.Random, state: State) -> str:
    """Stores one weight, or all, in another type."""
    kind = draw.choice((torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int32, torch.bool))
    names = sorted(state) if draw.random() < 0.5 else [draw.choice(sorted(state))]
    state.update({name: state[name].to(kind) for name in names})
    return f"{len(names)} of type {kind}"


def poison(draw: random.Random, state: State) -> str:
    """Puts a NaN into a weight."""
    name = draw.choice(sorted(name for name, tensor in state.items() if tensor.is_floating_point()))
    state[name] = state[name].clone()
    state[name].view(-1)[0] = float("nan")
    return f"NaN in {name}"


def nothing(_draw: random.Random, _state: State) -> str:
    """Leaves the weights as they are."""
    return "as it is"


CHANGES: tuple[Change, ...] = (drop, rename, wrap, add, reshape, retype, poison, nothing)
VALUES = (
    0, 1, 2, 3, 7, 12, 48, -1, 1e-3, 1e-12, 0.5, 10**12, True, False, None, "relu", "gelu_new", "avg", "max", "token",
    "map", "bilinear", "", [], [1, 2], {}, "8",
)  # fmt: skip


def reconfigure(draw: random.Random, configuration: dict[str, Any]) -> str:
    """Changes, adds or drops an entry of a configuration."""
    places = [configuration, *(value for value in configuration.values() if isinstance(value, dict) and value)]
    place = draw.choice(places)
    key = draw.choice([*sorted(place, key=str), "num_heads", "surprise"])
    if draw.random() < 0.15:
        place.pop(key, None)
        return f"without {key}"
    old = place.get(key)
    place[key] = draw.choice([value for value in VALUES if value != old])
    return f"{key} = {place[key]!r} instead of {old!r}"


@dataclass(frozen=True)
class Outcome:
    """The end of one trial."""

    kind: str
    """``refused``, ``equal``, ``noted``, ``as the library``, ``silent`` or ``traceback``; the last two are faults."""
    told: str = ""


def run_trial(seed: int, made: list[tuple[Subject, frozenset[str]]], folder: Path) -> tuple[str, str, Outcome]:
    """Runs one trial; the seed alone decides what it does.

    Args:
        seed: of the choices.
        made: the subjects, each with what is told of it unaltered, which tells nothing of a change.
        folder: for the files.

    Returns:
        Subject, change and outcome.
    """
    draw = random.Random(seed)
    torch.manual_seed(seed)
    subject, usual = draw.choice(made)
    state = dict(subject.module.state_dict())
    configuration = json.loads(json.dumps(subject.configuration))
    in_folder = bool(configuration)
    if in_folder and draw.random() < 0.6:
        what, expected = reconfigure(draw, configuration), None
    else:
        what, expected = draw.choice(CHANGES)(draw, state), subject.module
    images = torch.randn(2, 3, SIDE, SIDE)
    path = _save(folder, state, configuration)
    return subject.name, what, _judge(subject, usual, path, images, expected)


def _save(folder: Path, state: State, configuration: Mapping[str, Any]) -> Path:
    for file in folder.glob("*"):
        file.unlink()
    if not configuration:
        torch.save({"state_dict": state}, folder / "weights.pth")
        return folder / "weights.pth"
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(configuration))
    return folder


def _judge(subject: Subject, usual: frozenset[str], path: Path, images: Tensor, expected: nn.Module | None) -> Outcome:
    try:
        reference = vitedge.load(path)
        images = _at(images, reference.spec.image_size)
        ours = reference.module(images)
        told = _told(path) - usual
    except VitedgeError as error:
        return Outcome("refused", str(error))
    except Exception as error:  # whatever a user would see as a traceback; its files' places are no result
        return Outcome("traceback", "".join(traceback.format_exception_only(error)))
    if expected is not None and _close(ours, _logits(expected, images)):
        return Outcome("equal")
    if expected is None:
        theirs = _by_library(subject, path, images)
        if theirs is not None and _close(ours, theirs):
            return Outcome("as the library")
        if theirs is None and _close(ours, _logits(subject.module, images)):
            return Outcome("equal", "the library refuses this configuration")
    return Outcome("noted", "; ".join(sorted(told))) if told else Outcome("silent", "another function, and no note")


def _at(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns the images at the size of the model: a configuration without one has its library's default."""
    return images if images.shape[-2:] == size else nn.functional.interpolate(images, size=size)


def _told(path: Path) -> frozenset[str]:
    found = vitedge.inspect(path)
    return frozenset((*found.spec.notes, *(f"{name}: {reason}" for name, reason in found.dropped.items())))


def _by_library(subject: Subject, folder: Path, images: Tensor) -> Tensor | None:
    """Returns the logits of the source library; None where it refuses the configuration."""
    if subject.rebuild is None:
        return None
    try:
        module = subject.rebuild(json.loads((folder / "config.json").read_text()))
        module.load_state_dict(subject.module.state_dict())
        return _logits(module.eval(), images)
    except Exception:  # each library has its own errors
        return None


@torch.no_grad()
def _logits(module: nn.Module, images: Tensor) -> Tensor:
    result = module(images)
    return result if isinstance(result, Tensor) else result.logits


def _close(ours: Any, theirs: Tensor) -> bool:
    if not isinstance(ours, Tensor) or ours.shape != theirs.shape:
        return False
    return bool((ours - theirs).abs().max() <= LIMIT * theirs.abs().max())


def trials(seed: int, minutes: float) -> Iterator[tuple[int, str, str, Outcome]]:
    """Yields the trials of consecutive seeds until the time is over."""
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "trial"
        place.mkdir()
        made = []
        for subject in subjects(Path(folder)):
            path = _save(place, dict(subject.module.state_dict()), subject.configuration)
            made.append((subject, _told(path)))
        while time.monotonic() < end:
            yield (seed, *run_trial(seed, made, place))
            seed += 1


def main() -> None:
    """Runs trials and writes how they ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_grad_enabled(False)
    counts: Counter[str] = Counter()
    faults = []
    for seed, subject, what, outcome in trials(asked.seed, asked.minutes):
        counts[outcome.kind] += 1
        if outcome.kind in ("silent", "traceback"):
            faults.append(
                {"seed": seed, "subject": subject, "change": what, "kind": outcome.kind, "told": outcome.told}
            )
            print(f"{seed}: {subject}: {what}: {outcome.kind}: {outcome.told.strip().splitlines()[-1]}", flush=True)
    record = {"provenance": {**provenance(), "seed": asked.seed, "minutes": asked.minutes}, "ended": counts}
    RESULTS.write_text(
        json.dumps({**record, "faults": faults, "missed": [fault["seed"] for fault in faults]}, indent=1) + "\n"
    )
    print(dict(counts))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
