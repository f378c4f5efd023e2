"""Film strips: real, reconstructed and dreamed frames of the same steps, one row above the other."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from iris_wm.visualization import drawing

_ROW_COLORS = {
    "real": drawing.REAL,
    "reconstructed": drawing.RECONSTRUCTED,
    "dreamed": drawing.DREAM,
    "difference": drawing.DIFFERENCE,
}


def film_strip(
    rows: Mapping[str, Tensor],
    *,
    scale: int = 2,
    num_frames: int | None = None,
    difference: tuple[str, str] | None = None,
    dream_starts_at: int | None = None,
    title: str | None = None,
) -> Image.Image:
    """Frames of the same steps in labelled rows, each pixel a sharp square.

    rows: label -> frames (T, C, H, W) uint8. A row may be shorter than the longest (a dream that terminated
      early): its missing frames stay empty. All rows share H and W.
    scale: screen pixels per frame pixel.
    num_frames: show this many columns, evenly spaced from the first step to the last; None shows all.
    difference: two labels; a row with the mean absolute difference of their frames is added.
    dream_starts_at: index of the first frame that the dream made up; a line is drawn before it.

    Raises ValueError for frames of another dtype or shape, unequal sizes, or an unknown label.
    """
    if not rows:
        raise ValueError("rows: expected at least one label with its frames, got none")
    arrays = {label: drawing.check_frames(frames, f"rows[{label!r}]") for label, frames in rows.items()}
    sizes = {label: array.shape[1:3] for label, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"rows: expected frames of one size, got (H, W) = {sizes}")
    if difference is not None:
        arrays["difference"] = _difference(arrays, difference)

    total = max(len(array) for array in arrays.values())
    if scale < 1:
        raise ValueError(f"scale: expected a whole number of at least 1, got {scale}")
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames: expected at least 1, got {num_frames}")
    shown = total if num_frames is None else min(num_frames, total)
    columns = np.unique(np.linspace(0, total - 1, shown).round().astype(int)) if shown > 1 else np.array([0])

    height, width = next(iter(sizes.values()))
    cell_width, cell_height = width * scale, height * scale
    gap, margin, split = 4, 14, 12
    label_font, step_font = drawing.font(14, bold=True), drawing.font(12)
    label_width = max(drawing.text_width(label, label_font) for label in arrays) + 26
    boundary = None
    if dream_starts_at is not None:
        boundary = next((i for i, column in enumerate(columns) if column >= dream_starts_at > 0), None)
    top = margin + (30 if title else 0) + (18 if boundary is not None else 0) + 20

    def left(i: int) -> int:
        shift = split if boundary is not None and i >= boundary else 0
        return margin + label_width + i * (cell_width + gap) + shift

    image, pen = drawing.new_canvas(
        left(len(columns)) - gap + margin, top + len(arrays) * (cell_height + gap) - gap + margin
    )
    if title:
        pen.text((margin, margin), title, font=drawing.font(17, bold=True), fill=drawing.TEXT, anchor="lt")
    for i, column in enumerate(columns):
        center = left(i) + cell_width // 2
        pen.text((center, top - 6), str(column), font=step_font, fill=drawing.MUTED, anchor="ms")
    pen.text((margin, top - 6), "step", font=step_font, fill=drawing.MUTED, anchor="ls")
    for j, (label, array) in enumerate(arrays.items()):
        y = top + j * (cell_height + gap)
        color = _ROW_COLORS.get(label, drawing.TEXT)
        pen.rectangle((margin, y, margin + 4, y + cell_height - 1), fill=color)
        pen.text((margin + 13, y + cell_height // 2), label, font=label_font, fill=color, anchor="lm")
        for i, column in enumerate(columns):
            if column < len(array):
                image.paste(drawing.upscale(array[column], scale), (left(i), y))
            else:
                pen.rectangle((left(i), y, left(i) + cell_width - 1, y + cell_height - 1), fill=drawing.PANEL)
                center_point = (left(i) + cell_width // 2, y + cell_height // 2)
                pen.text(center_point, "ended", font=step_font, fill=drawing.MUTED, anchor="mm")
    if boundary is not None:
        x = left(boundary) - (gap + split) // 2
        pen.line((x, top - 36, x, image.height - margin), fill=drawing.DREAM, width=3)
        pen.text((x + 8, top - 36), "the dream begins ▸", font=step_font, fill=drawing.DREAM, anchor="lt")
    return image


def _difference(arrays: dict[str, NDArray[np.uint8]], labels: tuple[str, str]) -> NDArray[np.uint8]:
    """Mean absolute difference over channels, (T, H, W, 3) uint8, doubled so that it can be seen."""
    unknown = [label for label in labels if label not in arrays]
    if unknown:
        raise ValueError(f"difference: expected two labels of {sorted(arrays)}, got {unknown[0]!r}")
    first, second = arrays[labels[0]], arrays[labels[1]]
    length = min(len(first), len(second))
    gap = np.abs(first[:length].astype(np.int16) - second[:length].astype(np.int16)).mean(
        axis=-1, keepdims=True
    )
    return np.repeat(np.clip(gap * 2, 0, 255).astype(np.uint8), 3, axis=-1)
