"""A dream that needs no trained agent: the game itself, seen through a coarse tokenizer that is exact arithmetic."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn

from iris_wm.envs.config import EnvConfig
from iris_wm.envs.make import make_env
from iris_wm.envs.snapshot import SnapshotEnv
from iris_wm.play.agent_dream import DreamFrame
from iris_wm.play.game import Game
from iris_wm.play.server import MAX_MESSAGE_BYTES, create_app

TOKEN = "a-token-for-tests-only"


class GameAsDream:
    """An `AgentDream` whose world model is the real game; tokens are the mean brightness of 16 patches.

    Temperature adds noise of that share to the frame, so that it can be seen to act. The real game is the
    same one without noise. Every snapshot is kept, so steps back are exact. It ends at `last_step`, and every step
    takes `slow` seconds longer than need be.
    """

    codebook_size = 512
    num_starts = 4

    def __init__(self, env: SnapshotEnv, title: str = "Breakout dream") -> None:
        self.env, self.title, self.temperature = env, title, 0.0
        self.calls: list[tuple[str, Any]] = []
        self.slow = 0.0
        self.last_step = 10**9
        self._history: list[tuple[DreamFrame, dict]] = []
        self._generator = np.random.default_rng(0)

    @property
    def action_names(self) -> Sequence[str]:
        return self.env.actions.names

    def reset(self, first_frame_index: int, seed: int) -> DreamFrame:
        self.calls.append(("reset", (first_frame_index, seed)))
        self._generator = np.random.default_rng(seed)
        observation, _ = self.env.reset(seed=first_frame_index)
        shown = self._frame(observation, 0, None, 0.0, False)
        self._history = [(shown, self.env.snapshot())]
        return shown

    def step(self, action: int | None) -> DreamFrame:
        self.calls.append(("step", action))
        time.sleep(self.slow)
        before = self._history[-1][0]
        if before.is_over:
            raise ValueError("step: the dream is over")
        chosen = int(self._generator.integers(len(self.action_names))) if action is None else action
        observation, reward, terminated, truncated, _ = self.env.step(chosen)
        shown = self._frame(observation, before.step + 1, chosen, float(reward), terminated or truncated)
        shown.is_over = shown.is_over or shown.step >= self.last_step
        self._history.append((shown, self.env.snapshot()))
        return shown

    def back(self) -> DreamFrame:
        self.calls.append(("back", None))
        if len(self._history) > 1:
            self._history.pop()
            self.env.restore(self._history[-1][1])
        return self._history[-1][0]

    def _frame(
        self, observation: np.ndarray, step: int, action: int | None, reward: float, is_over: bool
    ) -> DreamFrame:
        real = torch.from_numpy(observation.transpose(2, 0, 1).copy())
        noise = self._generator.normal(0, 40 * self.temperature, real.shape) if self.temperature else 0.0
        frame = (real.float() + torch.as_tensor(noise)).clamp(0, 255).to(torch.uint8)
        patches = torch.nn.functional.adaptive_avg_pool2d(frame.float().mean(0)[None], 4).flatten()
        return DreamFrame(
            frame=frame,
            tokens=(patches * 2).long(),
            step=step,
            action=action,
            reward=reward,
            termination_probability=min(step / 400, 1.0),
            is_over=is_over,
            entropy=(patches / 64).float() if step else torch.zeros(16),
            real_frame=real,
            real_reward=reward,
            is_real_over=is_over,
            drift=float((frame.float() - real.float()).abs().mean() / 255),
        )


class Served:
    """A server in a thread of its own, as `serve` sets one up, and what a test needs to talk to it."""

    def __init__(self, dream: Any, **options: Any) -> None:
        self.dream = dream
        self.game = Game(dream, frames_per_second=60)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self.token = TOKEN
        config = uvicorn.Config(
            create_app(self.game, token=TOKEN, **options),
            log_level="error",
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_max_queue=16,
            limit_concurrency=32,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._server.capture_signals = contextlib.nullcontext  # signals belong to pytest
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[listener])), daemon=True
        )
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture
def breakout() -> GameAsDream:
    return GameAsDream(make_env(EnvConfig(id="Breakout", terminal_on_life_loss=False)))


@pytest.fixture
def served(breakout: GameAsDream) -> Iterator[Served]:
    server = Served(breakout)
    yield server
    server.close()
