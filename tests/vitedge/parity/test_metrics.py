# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tests.seeding import seeded
from vitedge.parity.metrics import agrees, compare, default_tolerance, degeneracy, exceeded
from vitedge.records import OutputParity, Tolerance

FP32 = default_tolerance("fp32", "vit")


def logits(images: int = 8, classes: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((images, classes)).astype(np.float32)


def parity(reference: np.ndarray, candidate: np.ndarray) -> OutputParity:
    (result,) = compare({"logits": reference}, {"logits": candidate})
    return result


@pytest.mark.parametrize("classes", [1, 2])
def test_a_top_1_that_nothing_decides_is_none(classes: int) -> None:
    scores = np.repeat(logits(classes=1), classes, axis=1)
    found = parity(scores, scores)
    assert (found.agreement, found.degenerate) == (None, "")
    assert exceeded((found,), FP32) == ""
    assert "there is no top-1" in exceeded((found,), Tolerance(agreement=0.5))


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (logits(), ""),
        (logits()[:1], "one image"),
        (np.zeros((4, 3), np.float32), "zero"),
        (logits()[[0, 0, 0]], "same for every image"),
        (np.full((2, 3), np.nan, np.float32), "NaN"),
    ],
)
def test_a_reference_alone_tells_whether_it_is_degenerate(scores: np.ndarray, words: str) -> None:
    found = degeneracy({"logits": scores})
    assert words in found
    assert found.startswith("logits cannot be checked: the reference is degenerate (") == bool(words)


def test_equal_outputs_pass_with_infinite_ratio() -> None:
    found = parity(logits(), logits())
    assert found.relative_error == 0
    assert found.sqnr_db == found.centred_sqnr_db == float("inf")
    assert found.agreement == 1
    assert found.kl == pytest.approx(0, abs=1e-12)
    assert exceeded((found,), FP32) == ""


def test_the_metrics_equal_their_definitions() -> None:
    reference = logits()
    candidate = reference + np.float32(0.01) * logits(seed=1)
    found = parity(reference, candidate)
    error = candidate.astype(float) - reference
    centred = reference - reference.mean(axis=0).astype(float)
    assert found.relative_error == pytest.approx(np.abs(error).max() / np.abs(reference).max())
    assert found.sqnr_db == pytest.approx(10 * np.log10((reference**2.0).sum() / (error**2).sum()), rel=1e-4)
    assert found.centred_sqnr_db == pytest.approx(10 * np.log10((centred**2).sum() / (error**2).sum()), rel=1e-4)
    assert found.centred_sqnr_db == pytest.approx(40, abs=2)
    p, q = (
        np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (reference.astype(float), candidate.astype(float))
    )
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-6)


def test_a_constant_part_hides_the_error_from_the_plain_ratio_only() -> None:
    reference = logits()
    noise = 0.1 * logits(seed=1)
    plain, shifted = parity(reference, reference + noise), parity(reference + 100, reference + noise + 100)
    assert shifted.sqnr_db > plain.sqnr_db + 30
    assert shifted.centred_sqnr_db == pytest.approx(plain.centred_sqnr_db, abs=0.1)


def test_a_constant_error_is_not_removed_with_the_mean() -> None:
    assert parity(logits(), logits() + 0.5).centred_sqnr_db < 10


@pytest.mark.parametrize(
    ("reference", "word"),
    [
        (np.zeros((4, 3)), "zero"),
        (np.full((4, 3), 1e-41), "zero"),
        (np.full((4, 3), 7.0), "same for every image"),
        (np.full((4, 3), np.nan), "NaN"),
        (logits(1), "one image"),
    ],
)
def test_a_degenerate_reference_never_passes(reference: np.ndarray, word: str) -> None:
    found = parity(reference, reference)
    assert word in found.degenerate
    assert "degenerate" in exceeded((found,), Tolerance())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_candidate_with_nan_or_infinity_fails_every_tolerance(value: float) -> None:
    candidate = logits()
    candidate[0, 0] = value
    for tolerance in (FP32, default_tolerance("fp16", "vit"), Tolerance()):
        assert "NaN" in exceeded((parity(logits(), candidate),), tolerance)


def test_a_missing_or_misshapen_output_fails() -> None:
    for candidate in ({}, {"logits": logits(classes=9)}):
        assert "missing" in exceeded(compare({"logits": logits()}, candidate), Tolerance())


def test_each_bar_is_named_when_it_is_missed() -> None:
    found = OutputParity("logits", 1e-6, 60, 60, 1, 1.0, 0)
    tolerance = Tolerance(relative_error=1e-5, centred_sqnr_db=40, agreement=1)
    assert exceeded((found,), tolerance) == ""
    assert "relative" in exceeded((replace(found, relative_error=1e-4),), tolerance)
    assert "dB" in exceeded((replace(found, centred_sqnr_db=30),), tolerance)
    assert "agrees on 50.0%" in exceeded((replace(found, agreement=0.5),), tolerance)


def test_a_tie_of_the_reference_counts_for_either_class() -> None:
    reference = logits()
    order = reference.argsort(axis=1)
    reference[np.arange(8), order[:, -2]] = reference[np.arange(8), order[:, -1]]
    candidate = reference.copy()
    candidate[np.arange(8), order[:, -2]] += 1e-6
    assert parity(reference, candidate).agreement == 1
    candidate[np.arange(8), order[:, 0]] += 100
    assert parity(reference, candidate).agreement == 0


def test_agreement_takes_either_side_of_the_references_own_tie_but_nothing_that_is_not_finite() -> None:
    reference = np.array([[1.0, 2.0], [2.0, 2.0], [1.0, 2.0], [1.0, np.nan], [1.0, 2.0]])
    scores = np.array([[0.0, 9.0], [0.0, 9.0], [9.0, 0.0], [0.0, 9.0], [np.nan, 9.0]])
    assert agrees(reference, scores).tolist() == [True, True, False, False, False]


def test_a_tie_is_one_of_its_own_image_whatever_the_scores_of_the_others() -> None:
    reference = np.array([[1.0, 1.001], [0.0, 1e6]])
    scores = np.array([[1.001, 1.0], [0.0, 1e6]])
    assert agrees(reference, scores).tolist() == [False, True]
    assert parity(reference, scores).agreement == 0.5
    assert agrees(reference[:1], scores[:1]).tolist() == [False]


def test_tokens_have_no_agreement() -> None:
    tokens = np.random.default_rng(0).standard_normal((4, 5, 6))
    (found,) = compare({"tokens": tokens}, {"tokens": tokens})
    assert found.agreement is None
    assert found.kl is None


def test_a_tanh_gelu_in_place_of_the_exact_one_is_caught() -> None:
    model = seeded(VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=4, num_heads=2, num_classes=10))
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = model(images).numpy()
        for block in model.blocks:
            block.mlp.act = torch.nn.GELU(approximate="tanh")
        approximate = model(images).numpy()
    assert exceeded((parity(exact, exact),), FP32) == ""
    assert "relative" in exceeded((parity(exact, approximate),), FP32)
