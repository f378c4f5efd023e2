"""Dream pictures, and that GIF and MP4 keep their colours, length and speed."""

import builtins
import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from iris_wm.data.episode import Episode
from iris_wm.visualization import drawing
from iris_wm.visualization.video import dream_frames, gif_bytes, write_gif, write_mp4


@pytest.fixture
def dream() -> Episode:
    """12 steps of smooth random pictures with a two-pixel red ball, a reward at step 5, terminated at the end."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 4, 4, generator=generator) * 255
    ground = torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear").to(torch.uint8)
    frames = ground.repeat(12, 1, 1, 1)
    for step in range(12):
        frames[step, :, 3, step : step + 2] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None]
    rewards = torch.zeros(12)
    rewards[5] = 1.0
    terminations = torch.zeros(12, dtype=torch.bool)
    terminations[-1] = True
    return Episode(
        frames, torch.arange(12)[:, None] % 3, rewards, terminations, torch.zeros(12, dtype=torch.bool)
    )


def has_color(image: Image.Image, color: tuple[int, int, int]) -> bool:
    return bool((np.asarray(image.convert("RGB")) == color).all(-1).any())


def test_one_picture_a_step_all_of_one_even_size(dream):
    pictures = dream_frames(dream, scale=3)
    assert len(pictures) == 12
    assert len({picture.size for picture in pictures}) == 1
    assert pictures[0].width % 2 == pictures[0].height % 2 == 0


def test_border_changes_where_the_dream_begins(dream):
    pictures = dream_frames(dream, burn_in=4)
    assert [has_color(picture, drawing.DREAM) for picture in pictures] == [False] * 4 + [True] * 8
    assert [has_color(picture, drawing.REAL) for picture in pictures] == [True] * 4 + [False] * 8


def test_frames_are_upscaled_by_whole_pixels(dream):
    picture = np.asarray(dream_frames(dream, scale=6)[0])
    rows, columns = np.nonzero((picture == (255, 0, 0)).all(-1))
    assert (columns.max() - columns.min() + 1, rows.max() - rows.min() + 1) == (2 * 6, 6)


def test_reward_and_termination_are_shown_when_they_happen(dream):
    pictures = dream_frames(dream, burn_in=0, action_names=["NOOP", "LEFT", "RIGHT"])
    assert [has_color(picture, drawing.REWARD) for picture in pictures] == [step == 5 for step in range(12)]
    assert [has_color(picture, drawing.DANGER) for picture in pictures] == [step == 11 for step in range(12)]


def test_termination_probability_is_a_bar_that_grows(dream):
    pictures = dream_frames(dream, termination_probabilities=torch.linspace(0, 0.9, 12))
    red = [(np.asarray(picture) == drawing.DANGER).all(-1).sum() for picture in pictures]
    assert red[0] == 0
    assert red[2] < red[5] < red[10]


def test_real_episode_stands_at_the_left_and_may_end_earlier(dream):
    alone, both = dream_frames(dream), dream_frames(dream, real=dream.slice(0, 6), burn_in=2)
    assert len(both) == 12
    assert both[0].width > 1.8 * alone[0].width
    left_half = both[8].crop((0, 0, both[8].width // 2, both[8].height))
    assert not has_color(left_half, drawing.REAL)  # over: the border is no longer lit


def test_gif_keeps_colours_length_and_speed(dream, tmp_path):
    pictures = dream_frames(dream, burn_in=4, action_names=["NOOP", "LEFT", "RIGHT"])
    path = write_gif(pictures, tmp_path / "dream.gif", frames_per_second=15)
    with Image.open(path) as gif:
        shown = [(frame.convert("RGB"), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
        assert gif.info["loop"] == 0
    assert len(shown) == 12
    assert sum(duration for _, duration in shown) == pytest.approx(12 / 15 * 1000, abs=10)
    for (frame, _), picture in zip(shown, pictures, strict=True):
        error = np.abs(np.asarray(frame).astype(int) - np.asarray(picture).astype(int))
        assert error.mean() < 1.5
        red = (np.asarray(picture) == (255, 0, 0)).all(-1)
        assert red.any()
        assert error[red].max() <= 8  # a ball of two pixels keeps its own place in the palette


def test_few_colours_survive_a_gif_exactly():
    generator = np.random.default_rng(0)
    colors = generator.integers(0, 256, (40, 3), dtype=np.uint8)
    pictures = [Image.fromarray(colors[generator.integers(0, 40, (20, 30))]) for _ in range(5)]
    with Image.open(io.BytesIO(gif_bytes(pictures))) as gif:
        for frame, picture in zip(ImageSequence.Iterator(gif), pictures, strict=True):
            assert np.array_equal(np.asarray(frame.convert("RGB")), np.asarray(picture))


def test_gif_has_one_palette_and_stores_only_what_changes(dream):
    data = gif_bytes(dream_frames(dream))
    assert data[10] & 0x80, "a global colour table"
    still = gif_bytes(dream_frames(dream)[:1])
    assert len(data) < 4 * len(still)
    assert local_color_tables(data) == 0


def local_color_tables(data: bytes) -> int:
    """How many images of a GIF bring a colour table of their own (GIF89a, section 20)."""
    position, found = 13 + 3 * (2 << (data[10] & 7)), 0
    while data[position] != 0x3B:
        if data[position] == 0x2C:
            found += data[position + 9] >> 7
            position += 11 + (3 * (2 << (data[position + 9] & 7)) if data[position + 9] & 0x80 else 0)
        else:
            position += 2
        while data[position]:
            position += data[position] + 1
        position += 1
    return found


def test_a_single_picture_makes_a_gif():
    with Image.open(io.BytesIO(gif_bytes([Image.new("RGB", (4, 4), (1, 2, 3))]))) as gif:
        assert gif.convert("RGB").getpixel((0, 0)) == (1, 2, 3)


def test_mp4_keeps_colours_length_and_speed(dream, tmp_path):
    av = pytest.importorskip("av")
    pictures = dream_frames(dream, scale=8)
    path = write_mp4(pictures, tmp_path / "dream.mp4", frames_per_second=12.5)
    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(12.5)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 12
    assert np.abs(frames[6].astype(int) - np.asarray(pictures[6]).astype(int)).mean() < 4


def test_mp4_without_pyav_says_what_to_install(dream, tmp_path, monkeypatch):
    real_import = builtins.__import__

    def without_av(name, *args, **kwargs):
        if name == "av":
            raise ImportError("No module named 'av'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(ValueError, match=r"pip install 'iris-wm\[video\]'") as caught:
        write_mp4(dream_frames(dream), tmp_path / "dream.mp4")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "dream.mp4").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"burn_in": 13}, "burn_in: expected 0 to 12, .* got 13"),
        ({"burn_in": -1}, "burn_in: .* got -1"),
        ({"action_names": ["NOOP"]}, "action_names: got 1 names, but dream takes action 2"),
        ({"termination_probabilities": torch.zeros(3)}, "termination_probabilities: expected 12"),
        ({"scale": 0}, "scale: .* got 0"),
    ],
)
def test_bad_input_is_named(dream, options, message):
    with pytest.raises(ValueError, match=message):
        dream_frames(dream, **options)


def test_bad_pictures_are_named():
    with pytest.raises(ValueError, match="images: expected at least one"):
        gif_bytes([])
    with pytest.raises(ValueError, match="pictures of one size"):
        gif_bytes([Image.new("RGB", (2, 2)), Image.new("RGB", (2, 4))])
    with pytest.raises(ValueError, match=r"frames_per_second: .* got 0"):
        gif_bytes([Image.new("RGB", (2, 2))], frames_per_second=0)
    with pytest.raises(ValueError, match="GIF shows 50 at most, got 60"):
        gif_bytes([Image.new("RGB", (2, 2))], frames_per_second=60)
