# SPDX-License-Identifier: Apache-2.0
"""Records as long as they get, for a screen of 80 columns."""

from __future__ import annotations

from dataclasses import replace

from vitedge.demo.records import DemoPruning, DemoResult, DemoRow
from vitedge.models.records import Cost
from vitedge.records import (
    Artifact,
    BenchReport,
    CheckpointIdentity,
    Finding,
    LatencyRatio,
    LatencyReport,
    Manifest,
    Mode,
    ModelSpec,
    Origin,
    OutputParity,
    OverflowReport,
    ParityReport,
    Preprocessing,
    Quantiles,
    SpeedComparison,
    StructureReport,
    TensorSpec,
    Tolerance,
    ValueRange,
)
from vitedge.verbs.records import Inspection

INF = float("inf")
SPEC = ModelSpec(
    family="swin",
    variant="custom Swin of 4 stages, distilled",
    naming="huggingface",
    image_size=(1024, 768),
    in_channels=3,
    classes=21841,
    widths=(192, 384, 768, 1536),
    depths=(2, 2, 18, 2),
    heads=(6, 12, 24, 48),
    mlp_ratios=(4.0, 4.0, 4.0, 4.0),
    patch=4,
    tokens=("class", "distillation", "register"),
    norm_eps=1e-12,
    activation="gelu_tanh",
    preprocessing=Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    labels=("tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark"),
    options={"window": (12, 12, 12, 6), "qkv_bias": True, "expansions": tuple((576, 768) for _ in range(9))},
    origins={"heads": Origin.ASSUMED, "patch": Origin.SHAPE, "preprocessing.mean": Origin.TABLE},
    notes=("The file does not tell heads: 6 12 24 48 is what such widths have; correct it with --set heads=…",),
)
PARITY = OutputParity("pooled", 1.234e-05, 101.2, 99.96, 0.9999, 1.0, 1e-9)
GOOD = ParityReport("model.onnx", "onnxruntime", 16, "synthetic", Tolerance(2e-5), (PARITY, PARITY), passed=True)
BAD = ParityReport(
    "model.onnx",
    "onnxruntime",
    16,
    "synthetic",
    Tolerance(2e-5),
    (OutputParity("logits", INF, -12.5, float("nan"), 0.1, 0.0, 3.0),),
    passed=False,
    reason="logits is off by 0.5 relative; the tolerance is 2e-05; the first to depart is layers.2.blocks.17",
    first_departure="layers.2.blocks.17",
    layers=(PARITY, OutputParity("layers.2.blocks.17", 0.5, 6.0, 6.0, 0.9, None, None)),
)
ON_A_MAC = replace(
    GOOD,
    artifact="model.mlpackage",
    runtime="coreml",
    machine={"model": "MacBookPro18,3", "macOS": "15.1", "coremltools": "9.0", "numpy": "2.3.5"},
)
PROGRAM = replace(
    GOOD, artifact="model.mlpackage", runtime="mlprogram-fp32", note="its meaning, not a bit model of the Neural Engine"
)
OVERFLOW = OverflowReport(
    "model.mlpackage",
    4,
    65504.0,
    (
        ValueRange(
            "real_div",
            "stages_4_1_transformer_8_norm1_group_norm_real_div_cast_fp16",
            "stages.4.1.transformer.8.norm1",
            "float16",
            None,
            "NaN",
        ),
        *(
            ValueRange("linear", f"blocks_{n}_mlp_fc2_linear", f"blocks.{n}.mlp.fc2", "float16", 71234.5, "overflow")
            for n in range(12)
        ),
    ),
    ("stages.4.1.transformer.8.norm1", "blocks.1.mlp.fc2"),
    passed=False,
)
FINDING = Finding(
    "model.mlpackage", "input", "image", "a float32 array is converted on the processor", "export with --input uint8"
)
UNSOUND = StructureReport("model.mlpackage", (), passed=False, reason="constant head_weight is not finite")
ARTIFACTS = tuple(
    Artifact(
        kind,
        f"model.{suffix}",
        "0" * 64,
        1_234_567_890,
        "fp16",
        target,
        (TensorSpec("image", ("batch", 3, 1024, 768), "float16"),),
        (TensorSpec("logits", ("batch", 21841), "float32"),),
        notes=("Softmax stays in float32.",),
    )
    for kind, suffix, target in (("onnx", "onnx", "opset 18"), ("coreml", "mlpackage", "macOS15"))
)
MANIFEST = Manifest(
    1,
    CheckpointIdentity("a.pth", "0" * 64, 7, "model"),
    SPEC,
    {},
    ARTIFACTS,
    (GOOD,),
    (StructureReport("model.onnx", ("valid",), passed=True), StructureReport("model.mlpackage", (), passed=True)),
    None,
    {"README.md": "0" * 64},
    {},
    speed=SpeedComparison("fp16 takes 1.00 ms here: 0.50 x fp32 (0.40 to 0.60); it is faster"),
)
TIMES = Quantiles(
    *(1234.5, 1300.25, 1301.0, 1400.5, 1500.75, 1600.25, 0.1234, -0.0567),
    std=160.54,
    maximum=9876.5,
    outliers=12,
    modes=(Mode(1234.5, 0.6), Mode(1456.7, 0.4)),
    resolution_ms=15.625,
)


def latency(subject: str, runtime: str, *, stable: bool, times: Quantiles = TIMES) -> LatencyReport:
    return LatencyReport(subject, runtime, {}, 1, 200, 12345.0, 2000.0, 12345.6, 10**9, times, stable, (1.0,))


BENCH = BenchReport(
    (
        latency("swin-large-384-fp16/model.onnx", "onnxruntime", stable=False),
        latency("swin_large_patch4_window12_384.safetensors", "torch", stable=True),
    ),
    (LatencyRatio("b", "a", 1.5, 1.4, 1.6, "slower"),),
)
DEMO = DemoResult(
    "demo out",
    540,
    (
        DemoRow("MobileViT", "onnx", "fp32", 637_000, PARITY, 0.987, 0.985, 12.345, 1.234),
        DemoRow("MobileViT", "coreml", "fp32", 712_000, PARITY, 0.987, 0.985, 12.345, None),
        DemoRow(
            "MobileViT", "onnx", "int8", 212_000, PARITY, 0.987, 0.985, 12.345, 0.9, SpeedComparison("int8 is fast")
        ),
        DemoRow(
            "MobileViT",
            "onnx",
            "fp32",
            439_000,
            PARITY,
            0.987,
            0.981,
            12.345,
            0.8,
            pruning=DemoPruning(0.695, 24.6, 64),
        ),
    ),
    58.2,
)
INSPECTION = Inspection(
    "/a/very/long/path/to/the/models/of/somebody/swin_large_patch4_window12_384.safetensors",
    "huggingface folder",
    1_234_567_890,
    "model_ema",
    ("model_ema", "model", "student"),
    SPEC,
    Cost(1_234_567_890, 1234.567, 12345.6),
    {f"decoder.{index}.weight": "reconstruction is for training" for index in range(9)},
)
