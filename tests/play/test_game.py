"""The game behind the page: who acts, pausing, stepping back, recording, and messages that make no sense."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from iris_wm.play.game import MAX_RECORDED, Game
from iris_wm.play.keyboard import BUTTONS


@pytest.fixture
def game(breakout) -> Game:
    game = Game(breakout)
    game.tick()
    return game


def actions_of(game: Game) -> list[int | None]:
    return [value for name, value in game.dream.calls if name == "step"]


def decode(data: bytes) -> tuple[dict, np.ndarray]:
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[4 : 4 + length]), np.frombuffer(data[4 + length :], np.uint8)


def test_the_first_tick_starts_from_the_first_real_frame(breakout):
    game = Game(breakout)
    assert game.last_frame() is None
    assert game.tick().step == 0
    assert breakout.calls[0][0] == "reset"
    assert breakout.calls[0][1][0] == 0


def test_held_buttons_act_until_they_are_released(game):
    left = 1 << BUTTONS.index("left")
    game.command({"type": "buttons", "held": left})
    game.tick(), game.tick()
    game.command({"type": "buttons", "held": 0})
    game.tick()
    assert [game.dream.action_names[action] for action in actions_of(game)] == ["LEFT", "LEFT", "NOOP"]


def test_a_tap_between_two_frames_still_counts_once(game):
    fire = 1 << BUTTONS.index("fire")
    game.command({"type": "buttons", "held": fire})
    game.command({"type": "buttons", "held": 0})
    game.tick(), game.tick()
    assert [game.dream.action_names[action] for action in actions_of(game)] == ["FIRE", "NOOP"]


def test_the_agent_acts_when_it_plays(game):
    game.command({"type": "player", "player": "agent"})
    game.tick()
    game.command({"type": "player", "player": "you"})
    game.tick()
    assert actions_of(game) == [None, 0]


def test_games_without_directions_are_played_by_action(breakout, monkeypatch):
    monkeypatch.setattr(type(breakout), "action_names", property(lambda self: ["a", "b", "c", "d"]))
    game = Game(breakout)
    game.tick()
    game.command({"type": "action", "held": 2})
    game.tick()
    game.command({"type": "action", "held": None})
    game.tick()
    game.command({"type": "action", "held": 3})
    game.command({"type": "action", "held": None})
    game.tick(), game.tick()
    # The release above came after the tap had been played once.
    assert actions_of(game) == [2, 0, 3, 0]


def test_pause_stops_and_single_steps_go_on(game):
    game.command({"type": "pause", "paused": True})
    assert not game.has_work
    assert game.tick() is None
    game.command({"type": "step"})
    assert game.tick().step == 1
    assert game.tick() is None
    game.command({"type": "pause", "paused": False})
    assert game.tick().step == 2


def test_back_pauses_and_takes_back_frame_and_return(game):
    game.command({"type": "player", "player": "agent"})
    frames = [game.tick() for _ in range(3)]
    game.command({"type": "back"})
    shown = game.tick()
    assert shown.step == 2
    assert np.array_equal(shown.frame, frames[1].frame)
    assert game.is_paused
    for _ in range(5):
        game.command({"type": "back"})
        game.tick()
    assert game.last_frame().step == 0
    assert decode(game.encode(game.last_frame()))[0]["return"] == 0


def test_after_the_end_only_a_restart_or_a_step_back_goes_on(game):
    game.dream.last_step = 7
    while not game.is_over:
        game.tick()
    assert not game.has_work
    game.command({"type": "step"})
    assert game.tick() is None
    game.command({"type": "back"})
    assert not game.tick().is_over
    game.command({"type": "restart", "start": 3})
    assert game.tick().step == 0
    assert game.start == 3


def test_same_seed_same_rounds_and_each_round_another_draw(breakout):
    def seeds(seed: int) -> list[int]:
        breakout.calls.clear()
        game = Game(breakout, seed=seed)
        game.tick()
        game.command({"type": "restart", "start": 0})
        game.tick()
        return [value[1] for name, value in breakout.calls if name == "reset"]

    assert seeds(1) == seeds(1)
    assert seeds(1) != seeds(2)
    assert len(set(seeds(1))) == 2


def test_frames_carry_pixels_and_numbers(game):
    game.command({"type": "temperature", "value": 1.5})
    game.tick()
    shown = game.last_frame()
    header, pixels = decode(game.encode(shown))
    assert (header["height"], header["width"], header["step"], header["has_real"]) == (64, 64, 1, True)
    assert pixels.shape == (2 * 64 * 64 * 3,)
    dream, real = pixels.reshape(2, 64, 64, 3)
    assert np.array_equal(dream, shown.frame.permute(1, 2, 0))
    assert np.array_equal(real, shown.real_frame.permute(1, 2, 0))
    assert header["drift"] > 0.01
    assert len(header["tokens"]) == len(header["entropy"]) == 16
    assert header["temperature"] == 1.5


def test_hello_is_json_and_complete(game):
    hello = json.loads(json.dumps(game.describe()))
    assert hello["action_names"] == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    assert len(hello["colors"]) == 512
    assert hello["max_entropy"] == pytest.approx(math.log(512))
    assert hello["keyboard"]["buttons"]["ArrowLeft"] == BUTTONS.index("left")


def test_a_recording_becomes_a_gif_of_dream_and_game(game):
    game.command({"type": "record", "on": True})
    for _ in range(5):
        game.command({"type": "buttons", "held": 1 << BUTTONS.index("right")})
        game.tick()
    assert game.state()["recording"] == 6
    game.command({"type": "record", "on": False})
    assert game.state()["recording"] is None
    with Image.open(io.BytesIO(game.recording_gif())) as gif:
        assert gif.n_frames == 6
        assert gif.width > 500


def test_a_recording_ends_with_the_dream_with_a_restart_and_at_its_cap(game, monkeypatch):
    monkeypatch.setattr("iris_wm.play.game.MAX_RECORDED", 4)
    assert MAX_RECORDED == 600
    game.command({"type": "record", "on": True})
    for _ in range(6):
        game.tick()
    assert (game.state()["recording"], game.state()["recorded"]) == (None, 4)
    game.command({"type": "record", "on": True})
    game.tick()
    game.command({"type": "restart", "start": 1})
    game.tick()
    assert (game.state()["recording"], game.state()["recorded"]) == (None, 2)


def test_steps_back_leave_the_recording(game):
    game.command({"type": "record", "on": True})
    game.tick(), game.tick()
    game.command({"type": "back"})
    game.tick()
    assert game.state()["recording"] == 2


def test_no_recording_is_said_plainly(game):
    with pytest.raises(ValueError, match="recording: there is none"):
        game.recording_gif()


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (None, "type: expected one of buttons, .* got null"),
        ([], "type: expected"),
        ({}, "got null"),
        ({"type": "load"}, 'got "load"'),
        ({"type": ["x"]}, r'got \["x"\]'),
        ({"type": "x" * 1000}, r'got "x{1,60}\.\.\.'),
        ({"type": "buttons"}, "held: expected a whole number of 0 to 31, got null"),
        ({"type": "buttons", "held": 32}, "got 32"),
        ({"type": "buttons", "held": 1.5}, "got 1.5"),
        ({"type": "buttons", "held": True}, "got true"),
        ({"type": "action", "held": 4}, "held: expected a whole number of 0 to 3, got 4"),
        ({"type": "action", "held": -1}, "got -1"),
        ({"type": "player", "player": "root"}, 'player: expected you or agent, got "root"'),
        ({"type": "pause", "paused": 1}, "paused: expected true or false, got 1"),
        ({"type": "temperature", "value": float("nan")}, "value: expected a number of 0 to 5, got nan"),
        ({"type": "temperature", "value": float("inf")}, "got inf"),
        ({"type": "temperature", "value": 10**400}, "value: .* got 1000"),
        ({"type": "temperature", "value": "1"}, 'got "1"'),
        ({"type": "speed", "value": 0}, "value: expected a number of 1 to 60, got 0"),
        ({"type": "restart", "start": 4}, "start: expected a whole number of 0 to 3, got 4"),
        ({"type": "restart", "start": "../../etc/passwd"}, 'got "../../etc/passwd"'),
        ({"type": "record", "on": None}, "on: expected true or false, got null"),
    ],
)
def test_messages_without_sense_are_refused_in_one_line(game, message, complaint):
    before = game.state()
    with pytest.raises(ValueError, match=complaint) as caught:
        game.command(message)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert game.state() == before


def test_a_thousand_steps_back_do_not_pile_up(game):
    for _ in range(1000):
        game.command({"type": "back"})
    done = 0
    while game.has_work:
        game.tick()
        done += 1
    assert done <= 8


@pytest.mark.parametrize("speed", [0, 61, float("nan")])
def test_a_speed_out_of_range_is_an_error(breakout, speed):
    with pytest.raises(ValueError, match="frames_per_second: expected a number of 1 to 60"):
        Game(breakout, frames_per_second=speed)
