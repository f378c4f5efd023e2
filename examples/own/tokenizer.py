"""A tokenizer of your own: a token is the number of the most similar 8 x 8 patch in a list; nothing is trained.

python examples/own/tokenizer.py
"""

import sys

import torch
from torch import nn
from torch.nn.functional import fold, unfold

from iris_wm.acting import RandomActor, play_episode
from iris_wm.agent import Agent
from iris_wm.config import apply_overrides, build_config
from iris_wm.envs import make_env
from iris_wm.runs.config import RunConfig
from iris_wm.strict_yaml import read_yaml
from iris_wm.training.schedule import iris_learners
from iris_wm.training.train import fit


class Patches(nn.Module):
    codebook_size, embedding_dim, tokens_per_frame = 64, 3 * 8 * 8, 8 * 8
    quantizer = property(lambda self: self)  # has codebook_size, embedding_dim and lookup

    def __init__(self, config, frames=None):
        super().__init__()
        self.config = config
        self.codebook = nn.Parameter(torch.zeros(self.codebook_size, self.embedding_dim), requires_grad=False)
        if frames is not None:
            patches, counts = self.cut(frames).flatten(0, 1).unique(dim=0, return_counts=True)
            found = patches[counts.argsort(descending=True)[: self.codebook_size]]
            self.codebook[: len(found)] = found

    def cut(self, frames):
        return unfold(frames.float() / 255, 8, stride=8).mT

    def encode(self, frames):
        distances = torch.cdist(self.cut(frames.flatten(0, -4)), self.codebook[None])
        return distances.argmin(-1).unflatten(0, frames.shape[:-3])

    def lookup(self, obs_tokens):
        return self.codebook[obs_tokens]

    def decode(self, obs_tokens):
        frames = fold(self.lookup(obs_tokens).flatten(0, -3).mT, 64, 8, stride=8)
        return frames.unflatten(0, obs_tokens.shape[:-1])


if __name__ == "__main__":
    run, *overrides = sys.argv[1:] or ["runs/patches"]
    config = build_config(RunConfig, apply_overrides(read_yaml("configs/catch.yaml"), overrides))
    env = make_env(config.env)
    seen = [play_episode(RandomActor(env.actions), env, num_steps=50, seed=seed).frames for seed in range(20)]
    patches = Patches(config.tokenizer, torch.cat(seen))
    others = lambda *parts: iris_learners(*parts)[1:]  # noqa: E731
    fit(config, run, make_agent=lambda c: Agent(c, patches), make_learners=others)
    dream = Agent.load(run, Patches(config.tokenizer)).dream(seen[0][0], horizon=20)
    print(f"dreamed {len(dream)} steps, return {float(dream.rewards.sum()):.0f}")
