# SPDX-License-Identifier: Apache-2.0
"""Lets a pruned model learn from the dense one, on images without labels (knowledge distillation).

The loss is the Kullback-Leibler divergence of the classes' probabilities (Hinton et al., 2015, arXiv:1503.02531, at
temperature 1) plus the squared error of the logits, each image's mean removed, over the variance of the dense model's
(Ba and Caruana, 2014, arXiv:1312.6184). On images held out of the demo's training split, the sum leaves half of the
divergence that the divergence alone leaves. An encoder without classes learns tokens and pooled features.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vitedge.images.preprocess import normalize
from vitedge.images.stream import ImageStream
from vitedge.models.reference import BUILDERS
from vitedge.progress import Stage, stage
from vitedge.pruning.draft import Draft
from vitedge.pruning.recipe import PruningRecipe
from vitedge.pruning.records import Recovery
from vitedge.pruning.recovery_images import RecoveryImages, TrainingBatch
from vitedge.pruning.recovery_state import State, StateFile, key_of
from vitedge.records import ModelSpec
from vitedge.stopping import keep

BATCH = 32
LEARNING_RATE = 1e-3
"""Highest learning rate of a model whose tokens have `_WIDTH` channels or fewer; a wider model's is lower in the same
ratio, as Adam's steps change its outputs more (Yang et al., 2022, arXiv:2203.03466). Measured at 64 channels, 1e-3 is
best of 5e-4 to 4e-3; at 384, 1.7e-4 is within 5 % of the loss of the best, 5e-4, and 1e-3 is a third worse."""
_WIDTH = 64
WARM_UP = 0.05
"""Share of the steps in which the learning rate rises; then it falls to zero along a cosine."""
LARGEST_GRADIENT = 1.0
"""Norm of the gradient of all weights to which a larger one is scaled down."""
SPARSE = 0.4
"""Share of zeros in a weight from which its zeros stay zeros: a 2:4 pattern has half."""
CURVE = 200
"""Most points of the loss curve."""
TARGETS_IN_MEMORY = 2**30
"""Bytes of the dense model's outputs that are computed once and kept."""

Outputs = tuple[Tensor, ...]
"""Logits; or tokens and pooled features."""


def recover(
    draft: Draft,
    images: ImageStream,
    recipe: PruningRecipe,
    *,
    state_path: Path | None = None,
    learning_rate: float | None = None,
) -> Recovery:
    """Trains the draft's module in place, and leaves the best weights in it: those before, if none are better.

    On a processor the result depends on the recipe, the images and the number of threads alone, whether the recovery
    was interrupted or not. Runs on the GPU where PyTorch has CUDA.

    Args:
        draft: a pruned model, made outside of ``torch.inference_mode``; zeros of its sparse layers stay zeros, and
            statistics of batch norms stay as they are.
        images: prepared for it.
        recipe: gives the number of epochs and the seed.
        state_path: a file that is written about every 30 seconds, and from which a later call with the same recipe,
            images and models goes on; the caller removes it.
        learning_rate: the highest; None for `default_learning_rate`.

    Raises:
        BadImages: there are too few, or as `ImageStream.batches`.
        OutputRefused: the state cannot be written.
    """
    rate = default_learning_rate(draft.spec) if learning_rate is None else learning_rate
    settings = {"batch": BATCH, "learning_rate": rate}
    file = StateFile(state_path, key_of(draft, images, recipe, settings) if state_path else "")
    with _trainable(draft) as (student, teacher), torch.enable_grad():
        with stage(f"computing the dense model's outputs for {images.count} images"):
            learning = _Learning(student, teacher, RecoveryImages(images, BATCH, recipe.seed), recipe.epochs, rate)
        learning.restore(file.read())
        with stage("learning") as here:
            for loss in learning.steps(here):
                here.remark = f"loss {loss:.4f}"
                if file.is_due():
                    file.write(learning.state())
                    keep("recovery", f"the recovery up to step {here.done + 1}; the same command goes on from there.")
        file.write(learning.state())
        learning.finish()
    return learning.record(images.describe())


def default_learning_rate(spec: ModelSpec) -> float:
    """Returns the learning rate for a model's width."""
    return LEARNING_RATE * min(1.0, _WIDTH / max(spec.widths))


class Network:
    """A module on its device, with the outputs that are learned.

    Args:
        module: the module itself; it is moved to the device.
        spec: of the model, with ``classes`` 0 where tokens and pooled features are learned.
        device: where it computes.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec, device: torch.device) -> None:
        self.module, self.device = module.to(device), device
        self._preprocessing = spec.preprocessing
        self._features = None if spec.classes else BUILDERS[spec.family].features

    def __call__(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Returns the outputs for images ``(images, channels, height, width)``, RGB, 0 to 255."""
        batch = torch.from_numpy(normalize(pixels, self._preprocessing)).to(self.device)
        if self._features is not None:
            return tuple(self._features(self.module, batch))
        logits: Tensor = self.module(batch)
        return (logits - logits.mean(dim=1, keepdim=True),)

    @torch.no_grad()
    def all(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Returns the outputs for any number of images, without gradients."""
        parts = [self(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))


class Loss:
    """The loss against a dense model's outputs.

    Args:
        expected: the dense model's outputs for some images, whose variance is the unit.
    """

    def __init__(self, expected: Outputs) -> None:
        variances = [(values - values.mean(dim=0)).square().mean().item() for values in expected]
        self._units = [variance or 1.0 for variance in variances]
        self._has_logits = len(expected) == 1

    def __call__(self, found: Outputs, expected: Outputs) -> Tensor:
        """Returns the mean over the images, a scalar; merged tokens, which have no counterpart, are not compared."""
        total = found[-1].new_zeros(())
        for ours, theirs, unit in zip(found, expected, self._units, strict=True):
            if ours.shape == theirs.shape:
                total = total + (ours - theirs).square().mean() / unit
        if self._has_logits:
            logits, wanted = found[0].log_softmax(dim=1), expected[0].log_softmax(dim=1)
            total = total + functional.kl_div(logits, wanted, reduction="batchmean", log_target=True)
        return total


class _Learning:
    """The training of one module: its steps, and how far they are."""

    def __init__(self, student: Network, teacher: Network, images: RecoveryImages, epochs: int, rate: float) -> None:
        self._student, self._teacher, self._images = student, teacher, images
        self._epochs, self._rate = epochs, rate
        self._total = epochs * images.batches
        self._points = min(CURVE, self._total)
        parameters = list(student.module.parameters())
        self._optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.0, fused=True)
        self._wanted = teacher.all(images.held_out)
        self._loss = Loss(self._wanted)
        self._targets = self._kept_targets()
        self._masks = masks(student.module)
        self._begun = time.monotonic()
        before = self._held_out_loss()
        self._state = State({}, copied(student.module), {}, before, before, sums=((0.0, 0),) * self._points)

    def restore(self, state: State | None) -> None:
        """Goes on from a state."""
        if state is None:
            return
        self._state = state
        self._student.module.load_state_dict(state.weights)
        if state.optimizer:
            self._optimizer.load_state_dict(state.optimizer)
        self._masks = masks(self._student.module)
        self._begun = time.monotonic() - state.seconds

    def state(self) -> State:
        """Returns the state with everything in it."""
        self._state.weights = copied(self._student.module)
        self._state.optimizer = self._optimizer.state_dict()
        self._state.seconds = time.monotonic() - self._begun
        return self._state

    def steps(self, here: Stage) -> Iterator[float]:
        """Takes one step after the other, and counts them; yields the loss of each."""
        state = self._state
        here.count(max(self._total, state.step), state.step, unit="step")
        while state.epoch < self._epochs and not state.note:
            for batch in self._images.epoch(state.epoch, skip=state.batch):
                loss = self._step(batch)
                if not math.isfinite(loss):
                    state.note = f"The loss was {loss} at step {state.step + 1}, where learning ended."
                    break
                self._note(loss)
                yield loss
                here.advance()
            self._keep_best()
            state.epoch, state.batch = state.epoch + 1, 0

    def finish(self) -> None:
        """Leaves the best weights in the module."""
        self._student.module.load_state_dict(self._state.best)

    def record(self, source: str) -> Recovery:
        """Returns what was done."""
        state, device = self._state, self._student.device
        return Recovery(
            images=self._images.count,
            image_source=source,
            held_out=len(self._images.held_out),
            epochs=self._epochs,
            steps=state.step,
            learning_rate=self._rate,
            losses=tuple(total / count for total, count in state.sums if count),
            before=state.before,
            after=state.after,
            best_step=state.best_step,
            masked=len(self._masks),
            seconds=state.seconds,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            note=state.note,
        )

    def _step(self, batch: TrainingBatch) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * _schedule(self._state.step, self._total)
        loss = self._loss(self._student(batch.pixels), self._expected(batch))
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for weight, mask in self._masks:
            if weight.grad is not None:
                weight.grad.mul_(mask)
        nn.utils.clip_grad_norm_(self._student.module.parameters(), LARGEST_GRADIENT)
        value = float(loss.detach())
        if math.isfinite(value):
            self._optimizer.step()
        return value

    def _note(self, loss: float) -> None:
        state = self._state
        place = min(self._points - 1, state.step * self._points // self._total)
        total, count = state.sums[place]
        state.sums = (*state.sums[:place], (total + loss, count + 1), *state.sums[place + 1 :])
        state.step, state.batch = state.step + 1, state.batch + 1

    def _keep_best(self) -> None:
        loss = self._held_out_loss()
        if loss < self._state.after:
            self._state.best, self._state.after = copied(self._student.module), loss
            self._state.best_step = self._state.step

    def _held_out_loss(self) -> float:
        with torch.no_grad():
            return float(self._loss(self._student.all(self._images.held_out), self._wanted))

    def _kept_targets(self) -> Outputs | None:
        """Returns the dense model's outputs for all images of the window, where they fit into memory."""
        bytes_each = sum(values[0].numel() * values.element_size() for values in self._wanted)
        if not self._images.in_memory or bytes_each * len(self._images.window) > TARGETS_IN_MEMORY:
            return None
        return self._teacher.all(self._images.window)

    def _expected(self, batch: TrainingBatch) -> Outputs:
        if self._targets is None:
            return self._teacher.all(batch.pixels)
        return tuple(values[torch.from_numpy(batch.places)] for values in self._targets)


def masks(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Returns the weights of sparse layers, each with a mask of the elements that are not zero."""
    layers = (part for part in module.modules() if isinstance(part, (nn.Linear, nn.Conv2d)))
    found = ((layer.weight, layer.weight.detach() != 0) for layer in layers)
    return [(weight, mask) for weight, mask in found if mask.float().mean().item() <= 1 - SPARSE]


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Returns copies of a module's weights and buffers, on the processor."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}


def _schedule(step: int, steps: int) -> float:
    """Returns the part of the highest learning rate that a step has."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm)))


@contextmanager
def _trainable(draft: Draft) -> Iterator[tuple[Network, Network]]:
    """Yields the draft's module, which needs gradients within the block, and the dense one, which does not."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    needed = {name: value.requires_grad for name, value in draft.module.named_parameters()}
    training = draft.module.training
    dense = draft.dense.module if device.type == "cpu" else copy.deepcopy(draft.dense.module).to(device)
    # In evaluation mode batch norms use and keep their statistics, and nothing is dropped at random.
    student = Network(draft.module.eval().requires_grad_(requires_grad=True), draft.spec, device)
    try:
        yield student, Network(dense, draft.dense.spec, device)
    finally:
        draft.module.to("cpu").train(training)
        for name, value in draft.module.named_parameters():
            value.requires_grad_(needed[name])
            value.grad = None
