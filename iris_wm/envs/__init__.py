"""Environments: Atari in IRIS's order, the 26 games of Atari 100k, other Gymnasium environments, and a toy."""

from iris_wm.envs.config import EnvConfig
from iris_wm.envs.make import make_env

__all__ = ["EnvConfig", "make_env"]
