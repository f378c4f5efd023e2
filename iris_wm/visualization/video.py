"""A dream as moving pictures: the frames with their captions, GIF through Pillow, MP4 through PyAV."""

import io
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from iris_wm.data.episode import Episode
from iris_wm.visualization import drawing

_BORDER = 4
_PALETTE_SIZE = 255  # one of GIF's 256 entries is left for the transparent pixels between equal frames


def dream_frames(
    dream: Episode,
    *,
    real: Episode | None = None,
    burn_in: int = 1,
    action_names: Sequence[str] | None = None,
    termination_probabilities: Tensor | None = None,
    scale: int = 4,
    title: str | None = None,
) -> list[Image.Image]:
    """One captioned picture a step: the dream, and at its left the real episode where there is one.

    dream: T steps, of which the first `burn_in` show real frames given to the world model; from there
      on the picture has the dream's border and says so.
    real: the same steps as they went in the game; it may be shorter or longer, the pictures are T either way.
    action_names: indexed by action, where actions have one axis; None shows the numbers.
    termination_probabilities: (T,) in [0, 1], as the world model predicts them; None shows no bar.
    Captions of row t: the step, the action taken in it, its reward and the return so far.
    """
    if len(dream) == 0:
        raise ValueError("dream: expected an episode of at least one step, got none")
    if not 0 <= burn_in <= len(dream):
        raise ValueError(f"burn_in: expected 0 to {len(dream)}, the dream's steps, got {burn_in}")
    if termination_probabilities is not None and len(termination_probabilities) != len(dream):
        raise ValueError(
            f"termination_probabilities: expected {len(dream)} numbers, one a step, "
            f"got {len(termination_probabilities)}"
        )
    for name, episode in (("dream", dream), ("real", real)):
        if action_names is not None and episode is not None and len(episode):
            highest = int(episode.actions.max()) if episode.actions.shape[1] == 1 else 0
            if highest >= len(action_names):
                raise ValueError(
                    f"action_names: got {len(action_names)} names, but {name} takes action {highest}"
                )
    panels = [] if real is None else [_Panel("real game", real, action_names)]
    dream_panel = _Panel("dream", dream, action_names, burn_in, termination_probabilities)
    panels.append(dream_panel)

    height, width = dream.frames.shape[-2] * scale, dream.frames.shape[-1] * scale
    panel_width, margin, gap = max(width + 2 * _BORDER, 190), 12, 14
    top = margin + (24 if title else 0)
    size = (
        2 * margin + len(panels) * panel_width + (len(panels) - 1) * gap,
        top + 22 + height + 2 * _BORDER + 66 + margin,
    )
    # H.264 wants even sides.
    size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
    pictures = []
    for step in range(len(dream)):
        image, pen = drawing.new_canvas(*size)
        if title:
            title_font = drawing.font(15, bold=True)
            text = drawing.fit_text(title, title_font, size[0] - 2 * margin)
            pen.text((margin, margin), text, font=title_font, fill=drawing.TEXT, anchor="lt")
        for i, panel in enumerate(panels):
            panel.draw(image, pen, step, margin + i * (panel_width + gap), top, panel_width, scale)
        pictures.append(image)
    return pictures


class _Panel:
    """One episode's column of the picture: heading, bordered frame, captions."""

    def __init__(
        self,
        name: str,
        episode: Episode,
        action_names: Sequence[str] | None,
        burn_in: int | None = None,
        termination_probabilities: Tensor | None = None,
    ) -> None:
        self.name = name
        self.frames = drawing.check_frames(episode.frames, f"{name}.frames")
        self.actions = [
            action_names[action[0]] if action_names and len(action) == 1 else " ".join(map(str, action))
            for action in episode.actions.tolist()
        ]
        self.rewards = episode.rewards.tolist()
        self.returns = episode.rewards.cumsum(0).tolist()
        self.terminations = episode.terminations.tolist()
        self.burn_in = burn_in
        self.probabilities = None if termination_probabilities is None else termination_probabilities.tolist()

    def draw(
        self, image: Image.Image, pen: ImageDraw.ImageDraw, step: int, x: int, y: int, width: int, scale: int
    ) -> None:
        """Draws the column of a step with its upper left corner at (x, y)."""
        over = step >= len(self.frames)
        shown = min(step, len(self.frames) - 1)
        is_real = self.burn_in is None or step < self.burn_in
        color = drawing.REAL if is_real else drawing.DREAM
        bold, plain = drawing.font(13, bold=True), drawing.font(13)

        def left(line: int, text: str, font: ImageFont.FreeTypeFont, fill: drawing.Color) -> None:
            pen.text((x, line), text, font=font, fill=fill, anchor="lt")

        def right(line: int, text: str, font: ImageFont.FreeTypeFont, fill: drawing.Color) -> None:
            pen.text((x + width, line), text, font=font, fill=fill, anchor="rt")

        heading = self.name
        if self.burn_in is not None:
            heading = "real context" if is_real else "dream"
        left(y + 2, heading, bold, drawing.MUTED if over else color)
        right(y + 2, f"step {shown}", plain, drawing.MUTED)

        frame = drawing.upscale(self.frames[shown], scale)
        if over:
            frame = Image.blend(frame, Image.new("RGB", frame.size, drawing.PANEL), 0.7)
        bordered = ImageOps.expand(frame, _BORDER, drawing.PANEL if over else color)
        image.paste(bordered, (x + (width - bordered.width) // 2, y + 22))

        line = y + 22 + bordered.height + 8
        if over:
            left(line, "episode over", bold, drawing.MUTED)
        else:
            left(line, drawing.fit_text(self.actions[step], bold, width - 70), bold, drawing.TEXT)
            if reward := self.rewards[step]:
                right(line, f"{reward:+g}", bold, drawing.REWARD if reward > 0 else drawing.DANGER)
        left(line + 20, f"return {self.returns[shown]:g}", plain, drawing.MUTED)
        if self.terminations[shown] and shown <= step:
            right(line + 20, "terminated", bold, drawing.DANGER)
        if self.probabilities is not None:
            probability = min(max(self.probabilities[shown], 0.0), 1.0)
            left(line + 40, "ends", plain, drawing.MUTED)
            start, stop = x + 38, x + width - 44
            pen.rectangle((start, line + 43, stop, line + 50), fill=drawing.PANEL)
            if probability > 0.005:
                end = start + max(1, round((stop - start) * probability))
                pen.rectangle((start, line + 43, end, line + 50), fill=drawing.DANGER)
            right(line + 40, f"{100 * probability:.0f}%", plain, drawing.MUTED)


def gif_bytes(images: Sequence[Image.Image], *, frames_per_second: float = 15.0, loop: bool = True) -> bytes:
    """An animated GIF of equally large images, with one palette for all of them.

    A palette for each frame would make colours flicker and files grow. The delay of GIF counts hundredths
    of a second and browsers slow down anything below two of them, so more than 50 frames a second is an
    error. A picture equal to the one before is shown longer instead of being stored again.
    """
    _check_images(images, frames_per_second)
    if frames_per_second > 50:
        raise ValueError(f"frames_per_second: GIF shows 50 at most, got {frames_per_second:g}")
    palette = _shared_palette(images)
    frames = [image.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    buffer = io.BytesIO()
    options: dict[str, Any] = {"loop": 0} if loop else {}
    delays = [round(100 * (i + 1) / frames_per_second) for i in range(-1, len(frames))]
    durations = [10 * (after - before) for before, after in itertools.pairwise(delays)]
    frames[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=durations if len(frames) > 1 else durations[0],
        disposal=1,
        # Together these two keep one colour table in the file and make unchanged pixels transparent.
        palette=bytes(palette.getpalette() or b""),
        optimize=True,
        **options,
    )
    return buffer.getvalue()


def write_gif(
    images: Sequence[Image.Image], path: str | Path, *, frames_per_second: float = 15.0, loop: bool = True
) -> Path:
    """Writes `gif_bytes` to a file and returns its path."""
    path = Path(path)
    path.write_bytes(gif_bytes(images, frames_per_second=frames_per_second, loop=loop))
    return path


def write_mp4(images: Sequence[Image.Image], path: str | Path, *, frames_per_second: float = 15.0) -> Path:
    """Writes an H.264 MP4 through PyAV, the optional extra `video`; ValueError where it is not installed."""
    _check_images(images, frames_per_second)
    try:
        import av
    except ImportError:
        raise ValueError(
            "MP4: needs PyAV, which is not installed; pip install 'iris-wm[video]', or write a GIF"
        ) from None
    path = Path(path)
    width, height = images[0].size
    with av.open(str(path), mode="w", format="mp4") as container:
        stream: Any = container.add_stream(
            "libx264", rate=Fraction(frames_per_second).limit_denominator(1001)
        )
        stream.width, stream.height = width + width % 2, height + height % 2
        # Half the colour resolution would smear single-pixel objects; players still expect 4:2:0, so a low
        # crf and upscaled pixels keep them sharp.
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "14"}
        for image in images:
            even = Image.new("RGB", (stream.width, stream.height))
            even.paste(image)
            for packet in stream.encode(av.VideoFrame.from_image(even)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def _check_images(images: Sequence[Image.Image], frames_per_second: float) -> None:
    if not images:
        raise ValueError("images: expected at least one picture, got none")
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        raise ValueError(f"images: expected pictures of one size, got {sorted(sizes)}")
    if not frames_per_second > 0:
        raise ValueError(f"frames_per_second: expected a number above 0, got {frames_per_second:g}")


def _shared_palette(images: Sequence[Image.Image]) -> Image.Image:
    """A palette image for all pictures, in which rare colours (a ball of two pixels) keep a place.

    Exact where there are few colours; otherwise median cut over the distinct colours, those nearly equal
    taken together, weighted by the square root of how often they occur.
    """
    codes, counts = _count_colors(images)
    if len(codes) > _PALETTE_SIZE:
        codes, counts = _merge_similar(codes, counts)
        repeats = np.maximum(1, np.sqrt(counts / counts.sum() * 4_000_000)).astype(int)
        pixels = np.repeat(codes, repeats)
        strip = Image.fromarray(_rgb(pixels)[None])
        return strip.quantize(colors=_PALETTE_SIZE, method=Image.Quantize.MEDIANCUT, kmeans=2)
    palette = Image.new("P", (1, 1))
    palette.putpalette(_rgb(codes).tobytes())
    return palette


def _count_colors(images: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct colours of all pictures as 24-bit numbers, and how often each occurs."""

    def per_image() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for image in images:
            array = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(np.int32)
            yield np.unique((array[:, 0] << 16) | (array[:, 1] << 8) | array[:, 2], return_counts=True)

    all_codes, all_counts = (np.concatenate(parts) for parts in zip(*per_image(), strict=True))
    codes, inverse = np.unique(all_codes, return_inverse=True)
    return codes, np.bincount(inverse, weights=all_counts)


def _merge_similar(codes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours that agree in the six high bits of every channel become their mean; the choice of a palette takes
    seconds with the tens of thousands that blurred frames hold.
    """
    _, group = np.unique(codes & 0xFCFCFC, return_inverse=True)
    totals = np.bincount(group, weights=counts)
    red, green, blue = (
        np.rint(np.bincount(group, weights=counts * channel) / totals).astype(np.int32)
        for channel in (codes >> 16, (codes >> 8) & 255, codes & 255)
    )
    return (red << 16) | (green << 8) | blue, totals


def _rgb(codes: np.ndarray) -> np.ndarray:
    return np.stack([codes >> 16, (codes >> 8) & 255, codes & 255], axis=-1).astype(np.uint8)
