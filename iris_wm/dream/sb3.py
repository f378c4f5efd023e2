"""Dreams for Stable-Baselines3: its VecEnv over our DreamVectorEnv. Needs the extra iris-wm[sb3]."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv

from iris_wm.dream.env import DreamVectorEnv


class Sb3DreamVecEnv(VecEnv):
    """A DreamVectorEnv in autoreset mode SameStep, as Stable-Baselines3 wants it: a list of infos, one a dream."""

    def __init__(self, env: DreamVectorEnv) -> None:
        if env.metadata["autoreset_mode"] is not AutoresetMode.SAME_STEP:
            raise ValueError('env: Stable-Baselines3 needs a DreamVectorEnv with autoreset_mode="SameStep"')
        self.dreams = env
        self._actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> np.ndarray:
        """Begin all dreams; the seed is that of the last call of seed()."""
        seed = self._seeds[0]
        self._reset_seeds()
        self._reset_options()
        return self.dreams.reset(seed=seed)[0]

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for step_wait."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Observations, rewards, ends (terminated or truncated), infos."""
        observations, rewards, terminations, truncations, infos = self.dreams.step(self._actions)
        ends = terminations | truncations
        rows: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(ends):
            rows[i]["terminal_observation"] = infos["final_obs"][i]
            rows[i]["TimeLimit.truncated"] = bool(truncations[i])
        return observations, rewards.astype(np.float32), ends, rows

    def close(self) -> None:
        """Nothing to free."""
        self.dreams.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The batch's attribute, once for each dream."""
        return [getattr(self.dreams, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set it for the whole batch."""
        setattr(self.dreams, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """The dreams are one batch and have no methods of their own."""
        raise ValueError(f"env_method: a dream in a batch has no method {method_name!r} of its own")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No dream is wrapped."""
        return [False] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The current frames."""
        return list(self.dreams.render() or [None] * self.num_envs)
