# SPDX-License-Identifier: Apache-2.0
"""The published ViTs: sizes, heads, names and preprocessing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitedge.checkpoints.families.family import Hints
from vitedge.checkpoints.families.heads import told_heads
from vitedge.checkpoints.families.vit.bodies import DINO, Shape, published_heads
from vitedge.checkpoints.families.vit.encoder import NAME as PYTORCH
from vitedge.checkpoints.families.vit.encoder import notes_of
from vitedge.checkpoints.families.vit.siglip import NAME as SIGLIP
from vitedge.errors import UnknownArchitecture
from vitedge.records import Origin, Preprocessing


@dataclass(frozen=True)
class Recipe:
    """Facts that no checkpoint holds."""

    preprocessing: Preprocessing
    norm_eps: float
    ambiguous: str = ""
    """Reason why mean and std are a guess, or empty."""
    notes: tuple[str, ...] = ()


_SIZES = {
    (192, 12, 3, 768): "Ti",
    (384, 12, 6, 1536): "S",
    (512, 12, 8, 2048): "M",
    (768, 12, 12, 3072): "B",
    (1024, 24, 16, 4096): "L",
    (1152, 27, 16, 4304): "So400m",
    (1280, 32, 16, 5120): "H",
    (1408, 40, 16, 6144): "g",
    (1536, 40, 24, 8192): "g",
    (1664, 48, 16, 8192): "G",
}
"""Width, depth, heads and MLP channels to the letter."""

_HEAD_WIDTHS = (64, 32, 80, 96, 48, 128, 72, 40, 24, 16, 8)
"""Channels per head of a custom width, the likeliest first."""

_IMAGENET: Mapping[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_HALF: Mapping[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_CLIP: Mapping[str, Any] = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_CROPS = {
    "DeiT": None,
    "DeiT-III": 1.0,
    "DINOv2 ViT": 1.0,
    "MAE ViT": 0.875,
    "HPM ViT": 0.875,
    "DINO ViT": 0.875,
}
"""Brands trained with ImageNet's mean and std to their crop: timm's, and for MAE, HPM and DINO that of their own
evaluation (256 to 224). None: by the image size."""
_MODEL_TYPES = {"vit_mae": "MAE ViT", "dinov2": "DINOv2 ViT", "dinov2_with_registers": "DINOv2 ViT"}
_NAMINGS = {
    "mae": "MAE ViT",
    "hpm": "HPM ViT",
    "dino": "DINO ViT",
    "dinov2": "DINOv2 ViT",
    "deit3": "DeiT-III",
    SIGLIP: "SigLIP ViT",
}


_CLASSIFIER_DOUBT = (
    "ViT (mean and std 0.5) and DeiT (mean and std of ImageNet) are published with the same weight names and shapes; "
    "0.5 is assumed, --set mean=… and --set std=… mend it."
)
_ENCODER_DOUBT = (
    "No file says how this encoder's images were normalized: ImageNet's mean and std are assumed (--set mean=…)."
)
_CLIP_DOUBT = "The norm before the blocks is CLIP's; its mean, std and exact GELU are assumed."
_GOOGLE_NOTE = (
    "Exact GELU, as timm and transformers rebuild Google's weights; Google's own code computes its tanh form "
    "(--set activation=gelu_tanh)."
)
CLIP_ACTIVATIONS = {"clip": "gelu", "huggingface-clip": "quick_gelu"}
"""Namings of CLIP to the activation taken where no file names one: open_clip's default, and transformers'."""
ACTIVATION_DOUBT = (
    "CLIP is published with quick_gelu (OpenAI) and with gelu (most of open_clip), and no shape tells them apart: "
    "{assumed} is assumed (--set activation=gelu or quick_gelu)."
)
_POOL_DOUBT = (
    "open_clip's pool_type and final_ln_after_pool leave no weight: the {pool} is assumed to be the image's embedding "
    "(--set pool=class or mean, or open_clip_config.json beside the file)."
)
_PUBLISHED_POOL = (
    "No file says what open_clip makes the image's embedding of: the class token is taken, as in all its published "
    "models of this body; one that was trained with another pool_type needs --set pool=mean."
)
_CLIPA_DOUBT = "A tower without the norm before its blocks is CLIPA's: its mean and std are assumed."
_SWAG_DOUBT = (
    "torchvision publishes this model twice: trained on ImageNet (assumed here: the short side resized to {edge}, "
    "bilinear) and SWAG's with a linear head (resized to 224, bicubic: --set interpolation=bicubic --set crop=1)."
)
_TRANSFORMS_DOUBT = (
    "torchvision publishes no model of this body, and its weights do not say how images are resized: the transforms of "
    "its published ones are taken (--set crop=…, --set interpolation=…)."
)
_TORCHVISION_BODIES = ((768, 12, 3072), (1024, 24, 4096), (1280, 32, 5120))
_EMBEDDING_NOTE = "The projection is exported as the head: the outputs are the image's embedding, not normalized."


def find_heads(shape: Shape, naming: str, hints: Hints) -> tuple[int, Origin, tuple[str, ...]]:
    """Returns the number of attention heads, its origin, and notes.

    Raises:
        UnknownArchitecture: a given number does not divide the width, or no likely one does.
    """
    told = told_heads(hints, (shape.width,))
    if told is not None:
        (heads,), origin = told
        return heads, Origin.SHAPE if naming == "google" and origin is Origin.CONFIG else origin, ()
    method = DINO if naming == "dino" else str(hints.config.get("pretraining", ""))
    heads, origin, note = published_heads(shape, str(hints.config.get("architecture", "")), method)
    if heads:
        return heads, origin, (note,) if note else ()
    for channels in _HEAD_WIDTHS:
        if shape.width % channels == 0 and shape.width // channels > 1:
            heads = shape.width // channels
            note = f"No file says how many heads share the width of {shape.width}: {heads} is a guess (--set heads=N)."
            return heads, Origin.ASSUMED, (note,)
    raise UnknownArchitecture(
        f"No usual number of heads divides the width of {shape.width}; give it with --set heads=N."
    )


def find_pool_origin(
    naming: str, options: Mapping[str, Any], heads_origin: Origin, hints: Hints
) -> tuple[Origin, tuple[str, ...]]:
    """Returns where the pooling is known from, and notes.

    torchvision's and transformers' classes have no choice, and mmpretrain's mean has a norm of its own; open_clip's
    ``pool_type`` leaves no weight, so that of a body that nobody published is a guess, and that of a published one the
    published.
    """
    told = (Origin.CONFIG, ()) if hints.config.get("global_pool") else None
    if naming == PYTORCH:
        return (told or (Origin.ASSUMED, ()))[0], notes_of(hints)
    if told:
        return told
    if naming == "clip":
        is_published = heads_origin is Origin.TABLE and options["pre_norm"]
        note = _POOL_DOUBT.format(pool="class token" if options["pool"] == "class" else "mean of the patches")
        notes = () if "pool" in hints.overrides else (_PUBLISHED_POOL if is_published else note,)
        return Origin.TABLE if is_published else Origin.ASSUMED, notes
    # A mean behind the same norm would have the weights of a class token that is pooled.
    is_open = (options["pool"] == "class" and naming != "mmpretrain") or naming in ("torchvision", "huggingface-clip")
    return (Origin.TABLE if is_open else Origin.SHAPE), ()


def find_brand(shape: Shape, options: Mapping[str, Any], naming: str, hints: Hints) -> str:
    """Returns the name of the method that trained the ViT: ``DeiT``, ``MAE ViT`` and so on."""
    configured = _MODEL_TYPES.get(str(hints.config.get("model_type"))) or _NAMINGS.get(naming)
    if configured is None and naming == "huggingface" and options["layer_scale"]:
        configured = "DINOv2 ViT"  # the only one of transformers' ViTs that scales its layers
    if "distillation" in shape.tokens:
        return "DeiT"
    if shape.stem is not None:
        return f"R{3 * sum(shape.stem) + 2 if shape.stem else ''}+ViT"
    return configured or _brand_of_classifier(shape, options)


def _brand_of_classifier(shape: Shape, options: Mapping[str, Any]) -> str:
    if "class" not in shape.tokens:
        return "ViT"
    if options["final_norm"] == "pooled":
        return "MAE ViT"
    is_joined = options["pool"] == "class+mean"  # the head that DINOv2 publishes
    if options["layer_scale"] and (options["registers"] or (shape.patch == 14 and (is_joined or not shape.classes))):
        return "DINOv2 ViT"
    return "DeiT-III" if options["layer_scale"] and not options["position_prefix"] else "ViT"


def find_variant(shape: Shape, heads: int, brand: str, options: Mapping[str, Any]) -> str:
    """Returns the published name, such as ``ViT-B/16``, or ``custom ViT (width 96, depth 4, heads 3)/8``."""
    suffix = " distilled" if "distillation" in shape.tokens else ""
    if shape.registers:
        suffix += f" ({shape.registers} registers)"
    elif not shape.classes and brand != "DINOv2 ViT":
        suffix += " encoder"
    elif shape.classes and options["pool"] == "mean":
        suffix += " with mean pooling"
    # The one hybrid without stages is called after the stride of its first convolution alone: R+ViT-Ti/16.
    patch = 2 * shape.stem_patch if shape.stem == () else shape.patch
    letter = _SIZES.get((shape.width, shape.depth, heads, shape.hidden))
    if letter is None:
        return f"custom {brand} (width {shape.width}, depth {shape.depth}, heads {heads})/{patch}{suffix}"
    return f"{brand}-{letter}/{patch}{suffix}"


def find_recipe(
    shape: Shape, brand: str, naming: str, image_size: tuple[int, int], options: Mapping[str, Any], hints: Hints
) -> Recipe:
    """Returns preprocessing and LayerNorm epsilon of the published models of a brand."""
    if naming == SIGLIP:
        return Recipe(Preprocessing(**_HALF, crop=1.0, crop_mode="squash"), 1e-6)
    if naming in CLIP_ACTIVATIONS:
        notes = (_EMBEDDING_NOTE,) if shape.classes else ()
        if options["pre_norm"]:
            return Recipe(Preprocessing(**_CLIP, crop=1.0), 1e-5, notes=notes)
        clipa = Preprocessing(**_IMAGENET, interpolation="bilinear", crop=1.0, crop_mode="squash")
        return Recipe(clipa, 1e-5, _CLIPA_DOUBT, notes)
    if naming == "torchvision":
        recipe = _torchvision_recipe(shape, image_size)
        is_published = (shape.width, shape.depth, shape.hidden) in _TORCHVISION_BODIES
        is_told = "crop" in hints.overrides or "crop_pct" in hints.config
        return recipe if is_published or is_told else dataclasses.replace(recipe, notes=(_TRANSFORMS_DOUBT,))
    if naming == PYTORCH:
        crop = 1.0 if min(image_size) >= 384 else 0.9
        return Recipe(Preprocessing(**_IMAGENET, crop=crop), 1e-5, _ENCODER_DOUBT.replace("encoder", "model"))
    return _recipe_of_brand(shape, brand, naming, image_size, options)


def _torchvision_recipe(shape: Shape, image_size: tuple[int, int]) -> Recipe:
    """Returns the transforms that torchvision publishes with its weights: SWAG's are bicubic and crop nothing."""
    letter = {768: "B", 1024: "L", 1280: "H"}.get(shape.width)
    if min(image_size) >= 384 or letter == "H":
        return Recipe(Preprocessing(**_IMAGENET, crop=1.0), 1e-6)
    edge = 242 if (letter, shape.patch) == ("L", 16) else 256
    notes = (_SWAG_DOUBT.format(edge=edge),) if shape.patch == 16 and letter else ()
    return Recipe(Preprocessing(**_IMAGENET, interpolation="bilinear", crop=224 / edge), 1e-6, notes=notes)


def _recipe_of_brand(
    shape: Shape, brand: str, naming: str, image_size: tuple[int, int], options: Mapping[str, Any]
) -> Recipe:
    eps = 1e-12 if naming == "huggingface" and brand != "DINOv2 ViT" else 1e-6
    crop = 1.0 if min(image_size) >= 384 else 0.9
    if brand in _CROPS:
        return Recipe(Preprocessing(**_IMAGENET, crop=_CROPS[brand] or crop), eps)
    if naming == "huggingface":
        return Recipe(Preprocessing(**_HALF, interpolation="bilinear", crop=1.0), eps)
    if options["pre_norm"]:
        return Recipe(Preprocessing(**_CLIP, crop=crop), 1e-5, _CLIP_DOUBT)
    if naming == "google":
        return Recipe(Preprocessing(**_HALF, crop=crop), eps, notes=(_GOOGLE_NOTE,))
    certain = shape.stem is not None or options["pre_logits"]
    if not shape.classes and not certain:
        return Recipe(Preprocessing(**_IMAGENET, crop=crop), eps, _ENCODER_DOUBT)
    return Recipe(Preprocessing(**_HALF, crop=crop), eps, "" if certain else _CLASSIFIER_DOUBT)
