"""Pictures of tokens: codes over a frame, the codebook atlas, entropy maps."""

import math
from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import hsv_to_rgb
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from iris_wm.visualization import drawing

_OPACITY = 0.45


@lru_cache(maxsize=8)
def code_colors(codebook_size: int) -> NDArray[np.uint8]:
    """A colour for every code, (V, 3) uint8: the same code has the same colour for every codebook size.

    Hue, saturation and brightness each take irrational steps, so codes with near indices look different.
    """
    if codebook_size < 1:
        raise ValueError(f"codebook_size: expected at least 1, got {codebook_size}")
    hue, saturation, brightness = (
        low + share * ((np.arange(codebook_size) * step) % 1)
        for low, share, step in (
            (0, 1, 0.618033988749895), (0.45, 0.3, 0.569840290998053), (0.6, 0.35, 0.754877666246693)
        )
    )  # fmt: skip
    return _bytes(hsv_to_rgb(np.stack([hue, saturation, brightness], axis=-1)))


def token_overlay(frame: Tensor, tokens: Tensor, codebook_size: int, *, scale: int = 4) -> Image.Image:
    """A frame (C, H, W) uint8, upscaled, under the colours and codes of its tokens: which code stands where.

    tokens: (K,) integer codes below `codebook_size`, in reading order; K is a square.
    """
    if tokens.ndim != 1 or tokens.is_floating_point() or not len(tokens):
        raise ValueError(
            f"tokens: expected integers of shape (K,), got {tokens.dtype} of shape {tuple(tokens.shape)}"
        )
    codes = _square(tokens.detach().cpu().long().numpy())
    if codes.min() < 0 or codes.max() >= codebook_size:
        raise ValueError(
            f"tokens: expected codes of 0 to {codebook_size - 1}, got {codes.min()} to {codes.max()}"
        )
    base = drawing.frame_image(frame, scale)
    colors = Image.fromarray(code_colors(codebook_size)[codes])
    image = Image.blend(base, colors.resize(base.size, Image.Resampling.NEAREST), _OPACITY)
    _write_codes(image, codes)
    return image


def codebook_atlas(
    patches: Tensor,
    counts: Tensor,
    *,
    columns: int = 32,
    scale: int = 2,
    title: str | None = None,
) -> Image.Image:
    """What every code draws and how often it is used.

    patches: (V, C, h, w) uint8, the decoded patch of each code. counts: (V,) how often each code occurred.
    The bar under a patch is its share of the most used code on a logarithmic scale; unused codes are dimmed.
    """
    array = drawing.check_frames(patches, "patches")
    usage = counts.detach().cpu().double().numpy()
    if usage.shape != (len(array),) or not np.isfinite(usage).all() or (usage < 0).any():
        raise ValueError(
            f"counts: expected {len(array)} numbers of at least 0, one a patch, got shape {usage.shape}"
        )
    if columns < 1:
        raise ValueError(f"columns: expected at least 1, got {columns}")
    order = np.argsort(-usage, kind="stable")
    num_rows = math.ceil(len(order) / columns)
    columns = min(columns, len(order))
    height, width = array.shape[1] * scale, array.shape[2] * scale
    gap, bar, margin = 4, 4, 14
    label_height = 13 if width >= 24 else 0
    pitch_x, pitch_y = width + gap, height + bar + label_height + gap + 3
    used = int((usage > 0).sum())
    top = margin + (28 if title else 0) + 24
    canvas_width = max(2 * margin + columns * pitch_x - gap, 480)
    image, pen = drawing.new_canvas(canvas_width, top + num_rows * pitch_y - gap + margin)
    if title:
        pen.text((margin, margin), title, font=drawing.font(17, bold=True), fill=drawing.TEXT, anchor="lt")
    note = f"{used} of {len(usage)} codes used · perplexity {_perplexity(usage):.1f}"
    pen.text((margin, top - 22), note, font=drawing.font(13), fill=drawing.MUTED, anchor="lt")
    most = math.log1p(usage.max()) or 1.0
    small = drawing.font(10)
    for place, code in enumerate(order):
        x, y = margin + place % columns * pitch_x, top + place // columns * pitch_y
        patch = drawing.upscale(array[code], scale)
        if usage[code] == 0:
            patch = Image.blend(patch, Image.new("RGB", patch.size, drawing.BACKGROUND), 0.75)
        image.paste(patch, (x, y))
        pen.rectangle((x, y + height + 1, x + width - 1, y + height + bar), fill=drawing.PANEL)
        if usage[code] > 0:
            length = max(1, round(width * math.log1p(usage[code]) / most))
            pen.rectangle((x, y + height + 1, x + length - 1, y + height + bar), fill=drawing.REAL)
        if label_height:
            color = drawing.MUTED if usage[code] > 0 else drawing.PANEL
            pen.text((x + width // 2, y + height + bar + 3), str(code), font=small, fill=color, anchor="mt")
    return image


def entropy_map(frame: Tensor, entropy: Tensor, *, max_entropy: float, scale: int = 4) -> Image.Image:
    """A dreamed frame beside how unsure the world model was of each of its tokens.

    frame: (C, H, W) uint8. entropy: (K,) nats, reading order, K a square. max_entropy: nats of the scale's top, log V
    for the full range. The number in each square is the entropy in nats.
    """
    values = entropy.detach().cpu().float().numpy()
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"entropy: expected finite numbers of shape (K,), got shape {values.shape}")
    if not max_entropy > 0:
        raise ValueError(f"max_entropy: expected a number of nats above 0, got {max_entropy}")
    grid = _square(np.clip(values / max_entropy, 0, 1))
    base = drawing.frame_image(frame, scale)
    margin, gap, bar = 12, 12, 14
    image, pen = drawing.new_canvas(
        2 * margin + 2 * base.width + 2 * gap + bar + 34, base.height + 2 * margin + 20
    )
    top = margin + 20
    label = drawing.font(13, bold=True)
    pen.text((margin, margin), "dream", font=label, fill=drawing.DREAM, anchor="lt")
    image.paste(base, (margin, top))
    left = margin + base.width + gap
    pen.text((left, margin), "token entropy (nats)", font=label, fill=drawing.TEXT, anchor="lt")
    image.paste(_heat_overlay(base, grid), (left, top))
    side = base.width // len(grid)
    if side >= 30:
        for (row, column), value in np.ndenumerate(_square(values)):
            center = (left + column * side + side // 2, top + row * side + side // 2)
            _write(pen, center, f"{value:.2f}", drawing.font(13, mono=True))
    _color_bar(image, left + base.width + gap, top, bar, base.height, max_entropy)
    return image


def _square(values: NDArray[Any]) -> NDArray[Any]:
    """(K,) in reading order as a square of rows and columns."""
    side = math.isqrt(len(values))
    if side**2 != len(values):
        raise ValueError(f"tokens: got {len(values)}, expected the number of a square grid")
    return values.reshape(side, side)


def _write_codes(image: Image.Image, codes: NDArray[np.int64]) -> None:
    """Code numbers in the middle of their squares, where there is room to read them."""
    rows, columns = codes.shape
    width, height = image.width / columns, image.height / rows
    size = min(16, int(width / 2.6), int(height / 1.6))
    if size < 8:
        return
    pen = ImageDraw.Draw(image)
    for (row, column), code in np.ndenumerate(codes):
        center = ((column + 0.5) * width, (row + 0.5) * height)
        _write(pen, center, str(code), drawing.font(size, mono=True, bold=True))


def _write(
    pen: ImageDraw.ImageDraw, center: tuple[float, float], text: str, font: ImageFont.FreeTypeFont
) -> None:
    """White with a dark edge, to be read on any colour."""
    pen.text(center, text, (255, 255, 255), font, "mm", stroke_width=2, stroke_fill=(12, 13, 16))


def _color_bar(image: Image.Image, x: int, y: int, width: int, height: int, highest: float) -> None:
    ramp = _heat(np.linspace(1, 0, height)[:, None])
    image.paste(Image.fromarray(ramp).resize((width, height), Image.Resampling.NEAREST), (x, y))
    pen, small = ImageDraw.Draw(image), drawing.font(11)
    pen.text((x + width + 4, y), f"{highest:.1f}", font=small, fill=drawing.MUTED, anchor="lt")
    pen.text((x + width + 4, y + height - 1), "0", font=small, fill=drawing.MUTED, anchor="lb")


def _heat_overlay(base: Image.Image, values: NDArray[np.floating]) -> Image.Image:
    """The picture under the heat colours of (rows, columns) numbers in [0, 1], cold squares see-through."""
    colors = Image.fromarray(_heat(values)).resize(base.size, Image.Resampling.NEAREST)
    opacity = Image.fromarray((255 * (0.3 + 0.5 * values)).astype(np.uint8))
    return Image.composite(colors, base, opacity.resize(base.size, Image.Resampling.NEAREST))


def _heat(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Numbers in [0, 1] as colours of a perceptually even map, with three channels last."""
    return _bytes(matplotlib.colormaps["inferno"](values)[..., :3])


def _perplexity(counts: NDArray[np.floating]) -> float:
    """exp of the entropy of the usage; 0 where nothing was counted."""
    if counts.sum() == 0:
        return 0.0
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _bytes(colors: NDArray[np.floating]) -> NDArray[np.uint8]:
    return (colors * 255).round().astype(np.uint8)
