"""One person's game: what the page's messages change, and the frames that they bring."""

import json
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from iris_wm.data.episode import Episode
from iris_wm.play.agent_dream import AgentDream, DreamFrame
from iris_wm.play.keyboard import Keyboard
from iris_wm.streams import stream_seed
from iris_wm.strict_yaml import show
from iris_wm.visualization.tokens import code_colors
from iris_wm.visualization.video import dream_frames, gif_bytes

MAX_RECORDED = 600
_MAX_WAITING = 8


class Game:
    """The state of the page: who plays, at which speed, paused or not, and the dream.

    `command` is cheap and called for every message; `tick` does the work of one frame and belongs in a thread.
    """

    def __init__(self, dream: AgentDream, *, frames_per_second: float = 15.0, seed: int = 0) -> None:
        self.dream = dream
        self.keyboard = Keyboard(dream.action_names)
        self.player = "you"
        self.is_paused = False
        key = "frames_per_second"
        self.frames_per_second = _number({key: frames_per_second}, key, 1, 60)
        self.seed = seed
        self.recording: list[DreamFrame] | None = None
        self.recorded: list[DreamFrame] = []
        self.start = 0
        self._round = 0
        self._buttons = 0
        self._tapped = 0
        self._pressed_action: int | None = None
        self._tapped_action: int | None = None
        self._waiting: deque[Callable[[], DreamFrame | None]] = deque(maxlen=_MAX_WAITING)
        self._shown: DreamFrame | None = None
        self._returns: list[tuple[float, float]] = []
        self._seconds = 0.0
        self._waiting.append(self._restart)

    def describe(self) -> dict[str, Any]:
        """What the page must know once: names, keys, colours."""
        dream = self.dream
        return {
            "type": "hello",
            "title": dream.title,
            "action_names": list(dream.action_names),
            "keyboard": self.keyboard.description(),
            "codebook_size": dream.codebook_size,
            "colors": [
                "#{:02x}{:02x}{:02x}".format(*color) for color in code_colors(dream.codebook_size).tolist()
            ],
            "max_entropy": math.log(dream.codebook_size) if dream.codebook_size > 1 else 1.0,
            "num_starts": dream.num_starts,
            "max_recorded": MAX_RECORDED,
        }

    def state(self) -> dict[str, Any]:
        """What may change with every message."""
        return {
            "type": "state",
            "player": self.player,
            "paused": self.is_paused,
            "frames_per_second": self.frames_per_second,
            "temperature": self.dream.temperature,
            "start": self.start,
            "recording": None if self.recording is None else len(self.recording),
            "recorded": len(self.recorded),
        }

    @property
    def is_over(self) -> bool:
        """Whether the dream has ended and waits for a restart."""
        return self._shown is not None and self._shown.is_over

    @property
    def has_work(self) -> bool:
        """Whether `tick` would bring a frame."""
        return bool(self._waiting) or not (self.is_paused or self.is_over)

    def command(self, message: Any) -> None:
        """Does what one message of the page asks; ValueError, in one line, for anything that is no such message."""
        kind = message.get("type") if isinstance(message, dict) else None
        handler = self._HANDLERS.get(kind) if isinstance(kind, str) else None
        if handler is None:
            raise ValueError(f"type: expected one of {', '.join(self._HANDLERS)}, got {show(kind)}")
        handler(self, message)

    def tick(self) -> DreamFrame | None:
        """The next frame: of a waiting command, or of one step of the dream; None where there is nothing to do."""
        started = time.perf_counter()
        try:
            work = self._waiting.popleft()
        except IndexError:
            if self.is_paused or self.is_over:
                return None
            work = self._step
        shown = work()
        self._seconds = time.perf_counter() - started
        return shown

    def last_frame(self) -> DreamFrame | None:
        """The frame that a page which joins later is shown first."""
        return self._shown

    def encode(self, shown: DreamFrame) -> bytes:
        """A frame for the page: length of the JSON as 4 bytes little-endian, the JSON, then RGB pixels.

        The pixels are H W 3 bytes of the dream, and as many of the game where it runs.
        """
        header = self.state() | {
            "type": "frame",
            "height": shown.frame.shape[1],
            "width": shown.frame.shape[2],
            "has_real": shown.real_frame is not None,
            "tokens": shown.tokens.tolist(),
            "entropy": [round(value, 4) for value in shown.entropy.tolist()],
            "step": shown.step,
            "action": shown.action,
            "reward": shown.reward,
            "return": self._returns[-1][0],
            "termination_probability": shown.termination_probability,
            "is_over": shown.is_over,
            "real_reward": shown.real_reward,
            "real_return": self._returns[-1][1],
            "is_real_over": shown.is_real_over,
            "drift": shown.drift,
            "milliseconds": round(1000 * self._seconds, 1),
        }
        text = json.dumps(header, allow_nan=False, default=float).encode()
        pixels = [frame for frame in (shown.frame, shown.real_frame) if frame is not None]
        return b"".join([len(text).to_bytes(4, "little"), text, *(_rgb(frame) for frame in pixels)])

    def recording_gif(self) -> bytes:
        """The finished recording, dream and game side by side, as a GIF; ValueError where there is none."""
        frames = self.recorded
        if not frames:
            raise ValueError("recording: there is none; press G to begin and again to end one")
        dream = _episode(frames, [frame.frame for frame in frames], [frame.reward for frame in frames])
        real = None
        reals = [frame.real_frame for frame in frames if frame.real_frame is not None]
        if len(reals) == len(frames):
            real = _episode(frames, reals, [frame.real_reward for frame in frames])
        pictures = dream_frames(
            dream,
            real=real,
            burn_in=1 if frames[0].step == 0 else 0,
            action_names=self.dream.action_names,
            termination_probabilities=torch.tensor([frame.termination_probability for frame in frames]),
            title=self.dream.title,
        )
        return gif_bytes(pictures, frames_per_second=min(self.frames_per_second, 50))

    def _step(self) -> DreamFrame:
        if self.player == "agent":
            action = None
        elif self.keyboard.uses_buttons:
            action = self.keyboard.action(self._buttons | self._tapped)
        else:
            pressed = self._pressed_action if self._tapped_action is None else self._tapped_action
            action = pressed if pressed is not None else (self.keyboard.idle_action or 0)
        # A key that was pressed and released between two frames still counts once.
        self._tapped, self._tapped_action = 0, None
        shown = self.dream.step(action)
        self._shown = shown
        total, real_total = self._returns[-1]
        self._returns.append((total + shown.reward, real_total + shown.real_reward))
        if self.recording is not None:
            self.recording.append(shown)
            if len(self.recording) >= MAX_RECORDED or shown.is_over:
                self._end_recording()
        return shown

    def _restart(self) -> DreamFrame:
        shown = self.dream.reset(self.start, stream_seed(self.seed, "play round", self._round))
        self._round += 1
        self._shown, self._returns = shown, [(0.0, 0.0)]
        if self.recording is not None:
            if len(self.recording) > 1:
                self._end_recording()
            else:
                self.recording = [shown]
        return shown

    def _back(self) -> DreamFrame | None:
        if self._shown is None:
            return None
        shown = self.dream.back()
        if shown.step < self._shown.step:
            self._returns.pop()
            if self.recording:
                self.recording.pop()
        self._shown = shown
        return shown

    def _single(self) -> DreamFrame | None:
        return None if self._shown is None or self.is_over else self._step()

    def _end_recording(self) -> None:
        self.recorded, self.recording = self.recording or [], None

    def _on_buttons(self, message: dict[str, Any]) -> None:
        self._buttons = int(_number(message, "held", 0, 31, whole=True))
        self._tapped |= self._buttons

    def _on_action(self, message: dict[str, Any]) -> None:
        highest = len(self.dream.action_names) - 1
        held = message.get("held")
        self._pressed_action = None if held is None else int(_number(message, "held", 0, highest, whole=True))
        if self._pressed_action is not None:
            self._tapped_action = self._pressed_action

    def _on_player(self, message: dict[str, Any]) -> None:
        if message.get("player") not in ("you", "agent"):
            raise ValueError(f"player: expected you or agent, got {show(message.get('player'))}")
        self.player = message["player"]

    def _on_pause(self, message: dict[str, Any]) -> None:
        if not isinstance(message.get("paused"), bool):
            raise ValueError(f"paused: expected true or false, got {show(message.get('paused'))}")
        self.is_paused = message["paused"]

    def _on_step(self, message: dict[str, Any]) -> None:
        self.is_paused = True
        self._waiting.append(self._single)

    def _on_back(self, message: dict[str, Any]) -> None:
        self.is_paused = True
        self._waiting.append(self._back)

    def _on_temperature(self, message: dict[str, Any]) -> None:
        self.dream.temperature = _number(message, "value", 0, 5)

    def _on_speed(self, message: dict[str, Any]) -> None:
        self.frames_per_second = _number(message, "value", 1, 60)

    def _on_restart(self, message: dict[str, Any]) -> None:
        self.start = int(_number(message, "start", 0, self.dream.num_starts - 1, whole=True))
        self._waiting.clear()
        self._waiting.append(self._restart)

    def _on_record(self, message: dict[str, Any]) -> None:
        if not isinstance(message.get("on"), bool):
            raise ValueError(f"on: expected true or false, got {show(message.get('on'))}")
        if message["on"]:
            self.recording = [] if self._shown is None else [self._shown]
        elif self.recording is not None:
            self._end_recording()

    _HANDLERS = {  # noqa: RUF012 (never changed)
        "buttons": _on_buttons,
        "action": _on_action,
        "player": _on_player,
        "pause": _on_pause,
        "step": _on_step,
        "back": _on_back,
        "temperature": _on_temperature,
        "speed": _on_speed,
        "restart": _on_restart,
        "record": _on_record,
    }


def _number(message: dict[str, Any], key: str, low: float, high: float, *, whole: bool = False) -> float:
    value = message.get(key)
    kind = int if whole else (int, float)
    # Written so that NaN, which compares as False, is refused; bool is an int to isinstance.
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        raise ValueError(
            f"{key}: expected a {'whole ' if whole else ''}number of {low} to {high}, got {show(value)}"
        )
    return value


def _rgb(frame: torch.Tensor) -> bytes:
    array = frame.permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3))).tobytes()


def _episode(shown: list[DreamFrame], frames: list[torch.Tensor], rewards: list[float]) -> Episode:
    """Frames as an episode: row t has the action that follows its frame, and what that brought."""
    actions = [frame.action or 0 for frame in shown[1:]] + [0]
    terminations = torch.zeros(len(shown), dtype=torch.bool)
    terminations[-1] = shown[-1].is_over
    return Episode(
        frames=torch.stack(frames),
        actions=torch.tensor(actions)[:, None],
        rewards=torch.tensor([*rewards[1:], 0.0], dtype=torch.float32),
        terminations=terminations,
        truncations=torch.zeros(len(shown), dtype=torch.bool),
    )
