"""Which action the held keys mean, for Atari's names and for others."""

import pytest

from iris_wm.play.keyboard import BUTTONS, Keyboard

BREAKOUT = ["NOOP", "FIRE", "RIGHT", "LEFT"]
ALL_18 = [
    "NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT", "UPFIRE", "RIGHTFIRE",
    "LEFTFIRE", "DOWNFIRE", "UPRIGHTFIRE", "UPLEFTFIRE", "DOWNRIGHTFIRE", "DOWNLEFTFIRE",
]  # fmt: skip


def mask(*held: str) -> int:
    return sum(1 << BUTTONS.index(button) for button in held)


@pytest.mark.parametrize("name", ALL_18)
def test_every_action_of_the_full_set_is_played_by_the_buttons_in_its_name(name):
    held, rest = [], name
    while rest and name != "NOOP":
        button = next(button for button in BUTTONS if rest.startswith(button.upper()))
        held.append(button)
        rest = rest[len(button) :]
    assert ALL_18[Keyboard(ALL_18).action(mask(*held))] == name


@pytest.mark.parametrize(
    ("held", "action"),
    [
        ((), "NOOP"),
        (("left",), "LEFT"),
        (("fire",), "FIRE"),
        (("left", "fire"), "LEFT"),  # there is no LEFTFIRE: the direction counts
        (("up",), "NOOP"),
        (("up", "right"), "RIGHT"),
        (("up", "down", "left", "right", "fire"), "LEFT"),
    ],
)
def test_combinations_that_a_game_lacks_fall_back_to_what_it_has(held, action):
    assert BREAKOUT[Keyboard(BREAKOUT).action(mask(*held))] == action


def test_every_mask_means_some_action():
    keyboard = Keyboard(ALL_18)
    assert {keyboard.action(held) for held in range(32)} == set(range(18))


def test_names_in_words_are_understood():
    names = ["stay", "move_left", "Move Right", "fire"]
    keyboard = Keyboard(names)
    assert keyboard.uses_buttons
    assert names[keyboard.action(mask("right"))] == "Move Right"
    assert keyboard.idle_action == 0


def test_names_without_directions_get_a_key_each():
    keyboard = Keyboard(["jump", "duck", "noop"])
    assert not keyboard.uses_buttons
    assert keyboard.idle_action == 2
    description = keyboard.description()
    assert description["actions"] == {"Digit1": 0, "Digit2": 1, "Digit3": 2}
    assert description["help"] == [["1", "jump"], ["2", "duck"], ["3", "noop"]]


def test_numbers_as_names_get_a_key_each():
    assert not Keyboard(["0", "1", "2"]).uses_buttons


def test_keys_of_the_page_are_never_a_games():
    description = Keyboard([f"a{i}" for i in range(40)]).description()
    assert not {"KeyP", "KeyB", "KeyN", "KeyR", "KeyC", "KeyV", "KeyG"} & set(description["actions"])
    assert "KeyR" not in Keyboard(ALL_18).description()["buttons"]


def test_only_the_buttons_that_a_game_has_are_shown():
    description = Keyboard(BREAKOUT).description()
    assert [row[1] for row in description["help"]] == ["left", "right", "fire"]
    assert "ArrowUp" not in description["buttons"]


def test_no_actions_is_an_error():
    with pytest.raises(ValueError, match="action_names: expected at least one"):
        Keyboard([])
