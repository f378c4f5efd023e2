"""Frames as crisp Pillow images, and the fonts and colours that all pictures share."""

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

BACKGROUND = (33, 37, 47)
PANEL = (47, 53, 66)
TEXT = (232, 235, 241)
MUTED = (160, 168, 184)

REAL = (86, 180, 233)
RECONSTRUCTED = (230, 176, 55)
DREAM = (214, 122, 224)
DIFFERENCE = (240, 112, 96)
REWARD = (104, 211, 145)
DANGER = (240, 92, 92)

Color = tuple[int, int, int]


def check_frames(frames: Tensor, name: str = "frames") -> NDArray[np.uint8]:
    """Frames (T, C, H, W) uint8 with C = 1 or 3 as a (T, H, W, 3) uint8 array; ValueError for others."""
    shape = tuple(getattr(frames, "shape", ()))
    dtype = str(getattr(frames, "dtype", type(frames).__name__)).removeprefix("torch.")
    if not isinstance(frames, Tensor) or dtype != "uint8" or len(shape) != 4 or shape[1] not in (1, 3):
        raise ValueError(
            f"{name}: expected a uint8 tensor of shape (T, C, H, W), C = 1 or 3, got {dtype} of shape {shape}"
        )
    if 0 in shape:
        raise ValueError(f"{name}: expected at least one frame of at least one pixel, got shape {shape}")
    array = frames.detach().cpu().permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:3], 3)))


def upscale(array: NDArray[np.uint8], scale: int) -> Image.Image:
    """An (H, W, 3) uint8 array as an image scale times larger, each pixel a sharp square."""
    if scale < 1:
        raise ValueError(f"scale: expected a whole number of at least 1, got {scale}")
    image = Image.fromarray(array)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def frame_image(frame: Tensor, scale: int = 4) -> Image.Image:
    """One frame (C, H, W) uint8 as an image of (H * scale, W * scale) pixels."""
    if getattr(frame, "ndim", 0) != 3:
        raise ValueError(f"frame: expected shape (C, H, W), got {tuple(getattr(frame, 'shape', ()))}")
    return upscale(check_frames(frame[None], "frame")[0], scale)


@lru_cache(maxsize=64)
def font(size: int, *, bold: bool = False, mono: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans from Matplotlib's own files, so that pictures are the same on every machine."""
    stem = "DejaVuSansMono" if mono else "DejaVuSans"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{stem}{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(str(path), size)


def text_width(text: str, text_font: ImageFont.FreeTypeFont) -> int:
    """Width of one line of text in pixels, rounded up."""
    return int(np.ceil(text_font.getlength(text)))


def fit_text(text: str, text_font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, shortened with an ellipsis where it is wider than `width` pixels."""
    if text_width(text, text_font) <= width:
        return text
    while text and text_width(text + "…", text_font) > width:
        text = text[:-1]
    return text + "…" if text else ""


def new_canvas(width: int, height: int, color: Color = BACKGROUND) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An RGB image of one colour, and the pen to draw on it."""
    image = Image.new("RGB", (width, height), color)
    return image, ImageDraw.Draw(image)
