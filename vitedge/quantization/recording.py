# SPDX-License-Identifier: Apache-2.0
"""Turns a finished quantization into its record."""

from __future__ import annotations

from vitedge.images.alike import tell_alike
from vitedge.program.structure import Layer
from vitedge.quantization.applied import notes, share
from vitedge.quantization.effort import EXTENTS
from vitedge.quantization.records import LayerChoice, QuantizationRecord
from vitedge.quantization.run import Quantization


def record(job: Quantization) -> QuantizationRecord:
    """Returns the record of a finished quantization."""
    stream, observed = job.stream, job.observed
    alike = () if not len(job.images) or not tell_alike(job.images.numpy()) else (tell_alike(job.images.numpy()),)
    scores = job.outputs[0] if job.outputs else None
    return QuantizationRecord(
        scheme=job.recipe.scheme,
        images=0 if observed is None else observed.images,
        image_source="" if stream is None else stream.describe(),
        image_sha256="" if observed is None else observed.sha256,
        skipped={} if observed is None else dict(observed.skipped),
        effort=job.recipe.effort,
        left_out=() if stream is None else EXTENTS[job.recipe.effort].skipped(job.recipe.image_count),
        layers=tuple(_layer_record(job, layer) for layer in job.structure.layers),
        attention_choices={
            name: f"{decision.precision}: {decision.reason}" for name, decision in job.attentions.items()
        },
        steps=job.steps,
        diagnoses=job.diagnoses,
        attentions=job.attention_diagnoses,
        shares=job.mixed_precision.shares,
        frontier=job.mixed_precision.search.frontier,
        missed=job.mixed_precision.search.shortfall,
        sqnr_db=None if scores is None else scores.centred_sqnr_db,
        agreement=None if scores is None else scores.agreement,
        seconds=dict(job.seconds),
        notes=(
            *(() if stream is None or not stream.shortage else (stream.shortage,)),
            *alike,
            *notes(job.structure, job.choices, job.recipe),
            *job.mixed_precision.notes,
        ),
        share=share(job.structure, job.choices, job.recipe),
    )


def _layer_record(job: Quantization, layer: Layer) -> LayerChoice:
    choice, rounding = job.choices[layer.name], job.roundings.get(layer.name)
    found, qparams = job.ranges.get(layer.name), job.plan.inputs.get(layer.name)
    block = None if rounding is None else rounding.qparams.block
    return LayerChoice(
        layer=layer.name,
        kind=layer.kind,
        scheme=choice.scheme,
        reason=choice.reason,
        activation="dynamic" if layer.name in job.plan.dynamic else None if qparams is None else qparams.dtype,
        range_method=None if found is None else found.estimator,
        low=None if found is None else found.covered.low,
        high=None if found is None else found.covered.high,
        weight_dtype=None if rounding is None else rounding.qparams.dtype,
        granularity=None if rounding is None else "channel" if block is None else f"block of {block}",
        rounding=None if rounding is None else rounding.method,
    )
