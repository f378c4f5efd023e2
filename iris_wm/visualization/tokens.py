"""Pictures of tokens: code grids, the codebook atlas, entropy maps, and attention over past frames."""

import math
from functools import lru_cache

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from iris_wm.visualization import drawing


@lru_cache(maxsize=8)
def code_colors(codebook_size: int) -> NDArray[np.uint8]:
    """A colour for every code, (V, 3) uint8: the same code has the same colour for every codebook size.

    Hues follow the golden ratio and lightness a second irrational step in OKLCH, so codes with near indices
    look different and all are equally readable.
    """
    if codebook_size < 1:
        raise ValueError(f"codebook_size: expected at least 1, got {codebook_size}")
    code = np.arange(codebook_size)
    hue = 2 * np.pi * ((code * 0.618033988749895) % 1)
    lightness = 0.58 + 0.27 * ((code * 0.754877666246693) % 1)
    chroma = 0.085 + 0.045 * ((code * 0.569840290998053) % 1)
    return _oklch_to_rgb(lightness, chroma, hue)


def token_grid(
    tokens: Tensor, codebook_size: int, *, cell: int = 64, rows: int | None = None, show_codes: bool = True
) -> Image.Image:
    """The tokens of one frame as coloured squares with their code numbers.

    tokens: (K,) integer codes below `codebook_size`, in reading order; the grid is square unless `rows` is
      given.
    cell: side of a square in pixels.
    """
    codes, rows, columns = _grid(tokens, codebook_size, rows)
    colors = code_colors(codebook_size)[codes].reshape(rows, columns, 3)
    image = drawing.upscale(colors, cell)
    if show_codes:
        _write_codes(image, codes.reshape(rows, columns))
    return image


def token_overlay(
    frame: Tensor,
    tokens: Tensor,
    codebook_size: int,
    *,
    scale: int = 4,
    opacity: float = 0.45,
    rows: int | None = None,
    show_codes: bool = True,
) -> Image.Image:
    """A frame (C, H, W) uint8, upscaled, under the colours of its tokens (K,): which code stands where."""
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity: expected 0 to 1, got {opacity}")
    codes, rows, columns = _grid(tokens, codebook_size, rows)
    base = drawing.frame_image(frame, scale)
    colors = Image.fromarray(code_colors(codebook_size)[codes].reshape(rows, columns, 3))
    image = Image.blend(base, colors.resize(base.size, Image.Resampling.NEAREST), opacity)
    if show_codes:
        _write_codes(image, codes.reshape(rows, columns))
    return image


def codebook_atlas(
    patches: Tensor,
    counts: Tensor,
    *,
    columns: int = 32,
    scale: int = 2,
    sort_by_usage: bool = True,
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
    order = np.argsort(-usage, kind="stable") if sort_by_usage else np.arange(len(array))
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


def entropy_map(
    frame: Tensor, entropy: Tensor, *, max_entropy: float, scale: int = 4, rows: int | None = None
) -> Image.Image:
    """A dreamed frame beside how unsure the world model was of each of its tokens.

    frame: (C, H, W) uint8. entropy: (K,) nats, reading order. max_entropy: nats of the scale's top, log V
    for the full range. The number in each square is the entropy in nats.
    """
    values = _check_values(entropy, "entropy")
    if not max_entropy > 0:
        raise ValueError(f"max_entropy: expected a number of nats above 0, got {max_entropy}")
    rows, columns = _grid_shape(len(values), rows)
    base = drawing.frame_image(frame, scale)
    grid = np.clip(values / max_entropy, 0, 1).reshape(rows, columns)
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
    cell_w, cell_h = base.width // columns, base.height // rows
    if cell_w >= 30:
        for i, value in enumerate(values):
            center = (left + i % columns * cell_w + cell_w // 2, top + i // columns * cell_h + cell_h // 2)
            pen.text(
                center,
                f"{value:.2f}",
                font=drawing.font(13, mono=True),
                fill=(255, 255, 255),
                anchor="mm",
                stroke_width=2,
                stroke_fill=(0, 0, 0),
            )
    _color_bar(image, left + base.width + gap, top, bar, base.height, max_entropy)
    return image


def attention_map(
    frames: Tensor,
    weights: Tensor,
    *,
    scale: int = 2,
    rows: int | None = None,
    steps: list[int] | None = None,
    title: str | None = None,
) -> Image.Image:
    """Where a prediction looks: past frames with the attention on each token, and the sum per frame.

    frames: (T, C, H, W) uint8, oldest first. weights: (T, K) at least 0 (attention on frame tokens; a further
    column K, if there is one, is the attention on the step's action token and is drawn as a strip below).
    Colours are relative to the largest weight; the number over a frame is its share of all attention.
    """
    array = drawing.check_frames(frames)
    values = weights.detach().cpu().float().numpy()
    if values.ndim != 2 or len(values) != len(array) or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            f"weights: expected numbers of at least 0 and shape ({len(array)}, K), got shape {values.shape}"
        )
    numbers = list(range(1 - len(array), 1)) if steps is None else steps
    if len(numbers) != len(array):
        raise ValueError(f"steps: expected {len(array)} numbers, one for each frame, got {len(numbers)}")
    has_action = rows is None and not _is_square(values.shape[1]) and _is_square(values.shape[1] - 1)
    actions = values[:, -1] if has_action else None
    tokens = values[:, :-1] if has_action else values
    rows, columns = _grid_shape(tokens.shape[1], rows)
    most = float(values.max()) or 1.0
    shares = values.sum(axis=1) / (float(values.sum()) or 1.0)

    height, width = array.shape[1] * scale, array.shape[2] * scale
    margin, gap, strip, bars = 14, 6, 10 if has_action else 0, 44
    top = margin + (30 if title else 0) + bars + 18
    image, pen = drawing.new_canvas(
        2 * margin + len(array) * (width + gap) - gap,
        top + height + (strip + 3 if strip else 0) + 20 + margin,
    )
    if title:
        pen.text((margin, margin), title, font=drawing.font(17, bold=True), fill=drawing.TEXT, anchor="lt")
    small = drawing.font(12)
    for i, frame in enumerate(array):
        x = margin + i * (width + gap)
        tall = round(bars * shares[i] / (shares.max() or 1.0))
        if tall:
            pen.rectangle((x, top - 4 - tall, x + width - 1, top - 5), fill=drawing.REAL)
        label = (x + width // 2, top - 8 - tall)
        pen.text(label, f"{100 * shares[i]:.0f}%", font=small, fill=drawing.TEXT, anchor="mb")
        gray = Image.fromarray(frame).convert("L").convert("RGB")
        base = drawing.upscale(np.asarray(gray), scale)
        heat = np.clip(tokens[i] / most, 0, 1).reshape(rows, columns)
        image.paste(_heat_overlay(base, np.sqrt(heat)), (x, top))
        if actions is not None:
            color = tuple(int(c) for c in _heat(np.sqrt(np.clip(actions[i : i + 1] / most, 0, 1)))[0])
            pen.rectangle((x, top + height + 3, x + width - 1, top + height + 2 + strip), fill=color)
        step_label = (x + width // 2, image.height - margin)
        pen.text(step_label, str(numbers[i]), font=small, fill=drawing.MUTED, anchor="mb")
    return image


def _grid(tokens: Tensor, codebook_size: int, rows: int | None) -> tuple[NDArray[np.int64], int, int]:
    if tokens.ndim != 1 or tokens.is_floating_point() or not len(tokens):
        raise ValueError(
            f"tokens: expected integers of shape (K,), got {tokens.dtype} of shape {tuple(tokens.shape)}"
        )
    codes = tokens.detach().cpu().long().numpy()
    if codes.min() < 0 or codes.max() >= codebook_size:
        raise ValueError(
            f"tokens: expected codes of 0 to {codebook_size - 1}, got {codes.min()} to {codes.max()}"
        )
    return codes, *_grid_shape(len(codes), rows)


def _grid_shape(num_tokens: int, rows: int | None) -> tuple[int, int]:
    """Rows and columns of the grid of K tokens."""
    if rows is None:
        if not _is_square(num_tokens):
            raise ValueError(f"rows: {num_tokens} tokens are no square; give the number of rows")
        rows = math.isqrt(num_tokens)
    if rows < 1 or num_tokens % rows:
        raise ValueError(f"rows: expected a divisor of {num_tokens} tokens, got {rows}")
    return rows, num_tokens // rows


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _check_values(values: Tensor, name: str) -> NDArray[np.float32]:
    array = values.detach().cpu().float().numpy()
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers of shape (K,), got shape {array.shape}")
    return array


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
        pen.text(
            center,
            str(code),
            font=drawing.font(size, mono=True, bold=True),
            fill=(255, 255, 255),
            anchor="mm",
            stroke_width=2,
            stroke_fill=(24, 26, 32),
        )


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
    return (matplotlib.colormaps["inferno"](values)[..., :3] * 255).round().astype(np.uint8)


def _perplexity(counts: NDArray[np.floating]) -> float:
    """exp of the entropy of the usage; 0 where nothing was counted."""
    if counts.sum() == 0:
        return 0.0
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _oklch_to_rgb(
    lightness: NDArray[np.floating], chroma: NDArray[np.floating], hue: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """OKLCH to sRGB (Ottosson, 2020, "A perceptual color space for image processing"), clipped."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=-1,
    ).clip(0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (curved * 255).round().astype(np.uint8)
