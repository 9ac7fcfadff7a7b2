# SPDX-License-Identifier: Apache-2.0
"""Prepares images for a model with Pillow and NumPy alone, so that a bundle can be checked without PyTorch.

The result equals timm's evaluation transform (``create_transform(..., is_training=False)``) bit for bit, and what
transformers' image processors resize and crop to within one level of 255. PyTorch is needed where it resized for the
model's processor, and nowhere else.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vitedge.errors import BadImages, BadRecipe
from vitedge.records import ModelSpec, Preprocessing

INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}

RESIZERS = ("pillow", "torch")

MAX_PIXELS = 89_478_485
"""An image of more pixels is refused as a decompression bomb; Pillow's own limit, 256 MB of 24-bit pixels."""


def prepare_image(image: Image.Image | NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.uint8]:
    """Opens, resizes and crops an image as `vitedge.records.Preprocessing` says.

    The resized side becomes ``floor(image_size / crop)``, as in timm; for ``center`` and a target that is not square
    the image keeps its aspect ratio and covers the enlarged target. 16-bit grey is scaled to 8 bits.

    Args:
        image: an image of any mode with a known range; or its pixels, ``(height, width)`` or ``(height, width,
            channels)``, which a model of neither 1 nor 3 channels needs: each channel is resized and cropped alone.
        spec: gives the image size, the number of channels, and the preprocessing.

    Returns:
        ``(channels, height, width)``, 0 to 255; RGB where there are three, whatever order the model wants.

    Raises:
        BadImages: a mode whose range is not known, a strip that would become gigabytes, or a picture for a model of
            neither 1 nor 3 channels.
        BadRecipe: an interpolation, a crop, a crop mode or a resizer that does not exist.
    """
    if not takes_pictures(spec.in_channels):
        return _prepare_channels(image, spec)
    if not isinstance(image, Image.Image):
        image = as_image(image)
    preprocessing = spec.preprocessing
    upright = ImageOps.exif_transpose(image) if preprocessing.exif else image
    opened = _eight_bits(upright)
    if preprocessing.transparency == "white":
        opened = _opaque(opened)
    image = opened.convert("RGB" if spec.in_channels == 3 else "L")
    image = _centre_crop(_resize(image, spec), spec, padding(spec))
    pixels = np.asarray(image, dtype=np.uint8).reshape(*spec.image_size, spec.in_channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def geometry(spec: ModelSpec) -> str:
    """Returns a sentence that says how a picture gets the model's size, for whoever prepares it without vitedge.

    Where a way to scale of Apple's Vision (``VNImageCropAndScaleOption``) does the same, it names it.
    """
    preprocessing = spec.preprocessing
    crop, mode = preprocessing.crop, preprocessing.crop_mode
    height, width = (math.floor(side / crop) for side in spec.image_size)
    how = {
        "squash": f"to {width} x {height} pixels whatever its aspect",
        "border": f"by its long side to fit into {width} x {height} pixels, with the mean around it",
    }.get(mode, f"by its short side to cover {width} x {height} pixels")
    then = "" if crop == 1 and mode != "center" else ", and cut to the centre"
    then += ", with black around it" if crop > 1 else ""
    scaling = {"center": "centerCrop", "squash": "scaleFill"}.get(mode) if crop == 1 else None
    vision = f"; Vision: {scaling}" if scaling else ""
    return f"A picture is resized {how} ({preprocessing.interpolation}){then}{vision}."


def takes_pictures(channels: int) -> bool:
    """Returns whether pictures fit a model of that many channels: 3 (colour) or 1 (grey)."""
    return channels in (1, 3)


def picture_refusal(spec: ModelSpec) -> BadImages:
    """Returns the error that says why a model of neither 1 nor 3 channels takes no pictures."""
    return BadImages(
        f"{spec.variant} takes {spec.in_channels} channels, and pictures have 3 (colour) or 1 (grey): give arrays "
        f"(.npy) of {spec.in_channels} channels, or synthetic."
    )


def _prepare_channels(image: Image.Image | NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.uint8]:
    """Resizes and crops every channel of an array ``(height, width, channels)`` as a grey image."""
    if isinstance(image, Image.Image) or image.shape[2:] != (spec.in_channels,):
        raise picture_refusal(spec)
    planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in image.transpose(2, 0, 1))
    fills = padding(spec)
    return np.stack(
        [
            np.asarray(_centre_crop(_resize(plane, spec), spec, (fill,)), np.uint8)
            for plane, fill in zip(planes, fills, strict=True)
        ]
    )


def normalize(batch: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Converts pixels to the model's input: ``(pixels / 255 - mean) / std``, each step in float32 and in this order.

    For ``bgr`` the channels are reversed first; mean and std are already in the model's order. A graph or a module that
    takes uint8 has to do the same steps in the same order to give the same bits.

    Args:
        batch: ``(images, channels, height, width)``, 0 to 255, RGB.
        preprocessing: mean, std and channel order.

    Returns:
        ``(images, channels, height, width)`` float32.

    Raises:
        BadRecipe: mean or std do not have one entry per channel, or a std is not positive.
    """
    channels = batch.shape[1]
    mean, std = (np.asarray(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    if mean.shape != (channels,) or std.shape != (channels,) or not (std > 0).all():
        raise BadRecipe(
            f"mean {preprocessing.mean} and std {preprocessing.std} do not fit images of {channels} channels."
        )
    ordered = batch[:, ::-1] if preprocessing.channel_order == "bgr" else batch
    scaled = np.divide(ordered, np.float32(255), dtype=np.float32)
    scaled -= mean[:, None, None]
    scaled /= std[:, None, None]
    return np.ascontiguousarray(scaled)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Returns the image with 8 bits a channel."""
    if image.mode.startswith("I;16"):
        wide = np.asarray(image, dtype=np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImages(f"Pixels of mode {image.mode} (32 bits) have no known range; save the image with 8 or 16 bits.")
    return image


def _opaque(image: Image.Image) -> Image.Image:
    """Returns the image laid over white."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image


def _resize(image: Image.Image, spec: ModelSpec) -> Image.Image:
    preprocessing = spec.preprocessing
    if preprocessing.interpolation not in INTERPOLATIONS:
        choices = ", ".join(INTERPOLATIONS)
        raise BadRecipe(f"There is no interpolation {preprocessing.interpolation!r}; choose from {choices}.")
    if not (preprocessing.crop > 0 and math.isfinite(preprocessing.crop)):
        raise BadRecipe(f"The crop is a share of the image above 0; got {preprocessing.crop}.")
    height, width = (math.floor(side / preprocessing.crop) for side in spec.image_size)
    size = _scaled_size(image.size, (width, height), preprocessing.crop_mode)
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:  # a strip of 1 x 100000 pixels would become gigabytes
        raise BadImages(f"An image of {image.width} x {image.height} pixels is too long to be resized by one side.")
    if preprocessing.resizer not in RESIZERS:
        raise BadRecipe(f"There is no resizer {preprocessing.resizer!r}; choose from {', '.join(RESIZERS)}.")
    if preprocessing.resizer == "torch" and preprocessing.interpolation != "nearest":
        return _resize_by_torch(image, size, preprocessing.interpolation)
    return image.resize(size, INTERPOLATIONS[preprocessing.interpolation])


def _resize_by_torch(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """Resizes to ``(width, height)`` with the kernel for uint8 that torchvision uses on tensors.

    It filters along the width first, Pillow along the edge first that leaves less to do; each rounds and clips in
    between, so that a kernel that overshoots (bicubic, lanczos) gives other pixels. Its weights have 16 bits.
    """
    import torch  # noqa: PLC0415 - only images that it resized for the model's processor need it

    pixels = torch.from_numpy(np.array(image, np.uint8)).reshape(1, image.height, image.width, -1).permute(0, 3, 1, 2)
    try:
        resized = torch.nn.functional.interpolate(pixels, size=size[::-1], mode=interpolation, antialias=True)
    except (ValueError, NotImplementedError) as error:
        raise BadRecipe(
            f"PyTorch {torch.__version__} cannot resize with {interpolation}: install torch>=2.12, "
            "or pass --set resizer=pillow."
        ) from error
    return as_image(resized[0].permute(1, 2, 0).numpy())


def _scaled_size(size: tuple[int, int], target: tuple[int, int], mode: str) -> tuple[int, int]:
    """Returns the resized width and height, rounded as timm's transforms do.

    Raises:
        BadRecipe: a mode that does not exist.
    """
    if mode == "squash":
        return target
    if mode not in ("center", "border"):
        raise BadRecipe(f"There is no crop_mode {mode!r}; choose from center, squash, border.")
    width, height = size
    if mode == "center" and target[0] == target[1]:
        short, long = min(size), max(size)
        scaled = int(target[0] * long / short)
        return (target[0], scaled) if width <= height else (scaled, target[0])
    ratios = (height / target[1], width / target[0])
    ratio = max(ratios) if mode == "border" else min(ratios)
    return round(width / ratio), round(height / ratio)


def _centre_crop(image: Image.Image, spec: ModelSpec, fill: tuple[int, ...]) -> Image.Image:
    """Returns the centre, padded where the image is smaller: with black, or for ``border`` with the mean."""
    (height, width), offset = spec.image_size, spec.preprocessing.crop_offset
    if image.width < width or image.height < height:
        padded = Image.new(image.mode, (max(width, image.width), max(height, image.height)), fill)
        missing = padded.width - image.width, padded.height - image.height
        left, top = (math.ceil(pixels / 2) if offset == "ceil" else pixels // 2 for pixels in missing)
        padded.paste(image, (left, top))
        image = padded
    margins = image.width - width, image.height - height
    left, top = (round(margin / 2) if offset == "round" else margin // 2 for margin in margins)
    return image.crop((left, top, left + width, top + height))


def padding(spec: ModelSpec) -> tuple[int, ...]:
    """Returns the value of each channel, RGB, with which a picture is padded that is smaller than the crop."""
    if spec.preprocessing.crop_mode != "border":
        return (0,) * spec.in_channels
    step = -1 if spec.preprocessing.channel_order == "bgr" else 1
    return tuple(min(255, max(0, round(255 * value))) for value in spec.preprocessing.mean[::step])


def as_image(pixels: NDArray[Any]) -> Image.Image:
    """Returns the image of a uint8 array ``(height, width)`` or ``(height, width, 1, 3 or 4 channels)``."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))
