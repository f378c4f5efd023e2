"""From keys to actions: arrows and space for games that name their actions by direction, else one key each."""

import re
from collections.abc import Sequence

BUTTONS = ("up", "down", "left", "right", "fire")
"""Bit i of a button mask stands for BUTTONS[i]."""

_BUTTON_KEYS = {
    "up": ("ArrowUp", "KeyW"),
    "down": ("ArrowDown", "KeyS"),
    "left": ("ArrowLeft", "KeyA"),
    "right": ("ArrowRight", "KeyD"),
    "fire": ("Space",),
}
# Digits, then the letters that the page does not use for itself.
_PLAIN_KEYS = (
    *(f"Digit{digit}" for digit in "1234567890"),
    *(f"Key{letter}" for letter in "QWETYUIOASDFHJKLZXM"),
)
_IDLE = {"noop", "no-op", "idle", "none", "stay", "nothing", "wait", "still"}


class Keyboard:
    """Which action the held keys mean.

    Actions named by directions and fire (Atari's "UPRIGHTFIRE", or "move_left") are played with arrows and space,
    several at once. Where no name says so, every action has a key of its own.
    """

    def __init__(self, action_names: Sequence[str]) -> None:
        if not action_names:
            raise ValueError("action_names: expected at least one action, got none")
        self.action_names = tuple(action_names)
        masks = [_mask_of(name) for name in action_names]
        self.uses_buttons = any(masks) and all(mask is not None for mask in masks)
        self._action_of_mask: dict[int, int] = {}
        if self.uses_buttons:
            for action, mask in enumerate(masks):
                self._action_of_mask.setdefault(mask or 0, action)
        self.idle_action = self._action_of_mask.get(0)
        if not self.uses_buttons:
            idle = (action for action, name in enumerate(action_names) if name.lower() in _IDLE)
            self.idle_action = next(idle, None)

    def action(self, mask: int) -> int:
        """The action for a button mask of 0 to 31: the one that uses most of the held buttons.

        Among equals the first direction wins over fire alone; with nothing held it is the idle action, or 0.
        """
        held = mask & (2 ** len(BUTTONS) - 1)
        fits = [known for known in self._action_of_mask if known & ~held == 0 and known]
        if not fits:
            return self.idle_action or 0
        best = max(fits, key=lambda known: (known.bit_count(), -known))
        return self._action_of_mask[best]

    def description(self) -> dict[str, object]:
        """What the page needs: codes of KeyboardEvent.code by meaning, and lines of help for people."""
        if self.uses_buttons:
            known = self._action_of_mask
            used = [i for i, name in enumerate(BUTTONS) if any(mask >> i & 1 for mask in known)]
            buttons = {code: i for i in used for code in _BUTTON_KEYS[BUTTONS[i]]}
            return {"buttons": buttons, "actions": {}, "help": self._button_help(used)}
        keys = dict(zip(_PLAIN_KEYS, range(len(self.action_names)), strict=False))
        shown = [[_label(code), self.action_names[action]] for code, action in keys.items()]
        return {"buttons": {}, "actions": keys, "help": shown}

    def _button_help(self, used: list[int]) -> list[list[str]]:
        arrows = {"up": "↑", "down": "↓", "left": "←", "right": "→", "fire": "space"}
        return [[arrows[BUTTONS[i]], BUTTONS[i]] for i in used]


def _mask_of(name: str) -> int | None:
    """The buttons that a name is made of, 0 for an idle one; None where it has other words."""
    words = re.sub(r"[\s_\-]+|move|go|turn", "", name.lower())
    if name.lower() in _IDLE:
        return 0
    mask = 0
    while words:
        for i, button in enumerate(BUTTONS):
            if words.startswith(button):
                mask |= 1 << i
                words = words[len(button) :]
                break
        else:
            return None
    return mask or None


def _label(code: str) -> str:
    """What stands on the key: "1" for Digit1, "Q" for KeyQ."""
    return code.removeprefix("Digit").removeprefix("Key")
