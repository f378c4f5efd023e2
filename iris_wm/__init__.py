"""iris_wm: a discrete-token transformer world model, and an agent that learns only in its dreams."""

from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from iris_wm.agent import Agent
    from iris_wm.dream.env import DreamEnv, DreamVectorEnv
    from iris_wm.envs import EnvConfig, make_env

__version__ = "0.1.0"
__all__ = ["Agent", "DreamEnv", "DreamVectorEnv", "EnvConfig", "make_env"]

gymnasium.register("iris_wm/Catch-v0", entry_point="iris_wm.envs.catch:CatchEnv")
gymnasium.register(
    "iris_wm/Dream-v0",
    entry_point="iris_wm.runs.open:make_dream",
    vector_entry_point="iris_wm.runs.open:make_dreams",
)

_HOMES = {
    "Agent": "iris_wm.agent",
    "EnvConfig": "iris_wm.envs",
    "make_env": "iris_wm.envs",
    "DreamEnv": "iris_wm.dream.env",
    "DreamVectorEnv": "iris_wm.dream.env",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that importing the package stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'iris_wm' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
