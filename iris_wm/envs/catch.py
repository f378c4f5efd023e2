"""Catch: a small game with delayed rewards and true ends, quick enough to learn from in minutes.

Importing this module registers it with Gymnasium as "iris_wm/Catch-v0".
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

CELL = 8
"""Pixels per cell; the picture is 8 x 8 cells."""
NUM_CELLS = 8
NUM_FRUITS = 5
NUM_BOMBS = 2
_FIRST_ROW, _PADDLE_ROW = 1, 7
_LAST_PADDLE = NUM_CELLS - 2

_BACKGROUND = (12, 20, 60)
_PIP = (90, 110, 160)
_PADDLE = (250, 220, 70)
_FRUIT = (60, 220, 80)
_LEAF = (230, 90, 60)
_BOMB = (240, 60, 200)
_BOMB_CORE = (255, 255, 255)


class CatchEnv(gymnasium.Env):
    """Fruits and bombs fall one at a time; a paddle at the bottom catches the fruits and lets the bombs go by.

    Observations (64, 64, 3) uint8; actions 0 STAY, 1 LEFT, 2 RIGHT. Each step the paddle, two cells wide, moves
    one cell and the object falls one; after six steps it arrives. A fruit on the paddle: +1, beside it: 0. A
    bomb beside it: 0, on the paddle: -1 and the episode terminates. It also terminates when all 5 fruits and 2
    bombs have arrived (42 steps); the marks in the top row are the objects still to come. The order and the
    columns depend on the seed alone, and the picture holds the whole state of what is visible.

    Every fruit can be reached from anywhere, so `OPTIMAL_RETURN` is 5. Random actions bring `RANDOM_RETURN`
    on average (10,000 episodes, seeds 0 to 9,999; 34 steps each).
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (the type that Gymnasium gives it)

    OPTIMAL_RETURN = float(NUM_FRUITS)
    RANDOM_RETURN = 0.53

    def __init__(self) -> None:
        self.observation_space = Box(0, 255, (NUM_CELLS * CELL, NUM_CELLS * CELL, 3), np.uint8)
        self.action_space = Discrete(3)
        self._kinds: list[bool] = []
        self._columns: list[int] = []
        self._paddle = 0
        self._row = 0
        self._num_arrived = 0

    def get_action_meanings(self) -> list[str]:
        """STAY, LEFT, RIGHT."""
        return ["STAY", "LEFT", "RIGHT"]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new order of fruits and bombs, new columns, the paddle anywhere."""
        super().reset(seed=seed)
        kinds = np.array([True] * NUM_FRUITS + [False] * NUM_BOMBS)
        self._kinds = self.np_random.permutation(kinds).tolist()
        self._columns = self.np_random.integers(NUM_CELLS, size=len(kinds)).tolist()
        self._paddle = int(self.np_random.integers(_LAST_PADDLE + 1))
        self._row = _FIRST_ROW
        self._num_arrived = 0
        return self._draw(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Moves the paddle, then lets the object fall one cell."""
        self._paddle = min(max(self._paddle + (0, -1, 1)[action], 0), _LAST_PADDLE)
        self._row += 1
        if self._row < _PADDLE_ROW:
            return self._draw(), 0.0, False, False, {}
        is_fruit, column = self._kinds[self._num_arrived], self._columns[self._num_arrived]
        on_paddle = 0 <= column - self._paddle <= 1
        self._num_arrived += 1
        self._row = _FIRST_ROW
        exploded = on_paddle and not is_fruit
        reward = float(on_paddle) if is_fruit else -float(on_paddle)
        return self._draw(), reward, exploded or self._num_arrived == len(self._kinds), False, {}

    def optimal_action(self) -> int:
        """An action of a policy that catches every fruit and no bomb."""
        is_fruit, column = self._kinds[self._num_arrived], self._columns[self._num_arrived]
        offset = column - self._paddle
        if is_fruit:
            return 0 if 0 <= offset <= 1 else (1 if offset < 0 else 2)
        if not 0 <= offset <= 1:
            return 0
        # Away from the bomb: left if it is in the right cell of the paddle, unless the wall is there.
        return 1 if (offset == 1 and self._paddle > 0) or self._paddle == _LAST_PADDLE else 2

    def _draw(self) -> np.ndarray:
        """(64, 64, 3) uint8: marks, the falling object if there is one, the paddle."""
        frame = np.empty((NUM_CELLS * CELL, NUM_CELLS * CELL, 3), np.uint8)
        frame[:] = _BACKGROUND
        num_left = len(self._kinds) - self._num_arrived
        for mark in range(num_left - 1):
            frame[1:5, 1 + mark * CELL : 7 + mark * CELL] = _PIP
        left = self._paddle * CELL
        frame[_PADDLE_ROW * CELL + 2 : _PADDLE_ROW * CELL + 7, left : left + 2 * CELL] = _PADDLE
        if num_left:
            top, side = self._row * CELL, self._columns[self._num_arrived] * CELL
            if self._kinds[self._num_arrived]:
                frame[top + 2 : top + 8, side + 1 : side + 7] = _FRUIT
                frame[top : top + 2, side + 3 : side + 6] = _LEAF
            else:
                frame[top : top + 8, side : side + 8] = _BOMB
                frame[top + 2 : top + 6, side + 2 : side + 6] = _BOMB_CORE
        return frame
