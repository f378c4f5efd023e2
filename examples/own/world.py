"""A world of your own: it remembers real steps, and imagines that what happened there happens again."""

import torch

from iris_wm.acting import RandomActor, play_episode
from iris_wm.data.segment import Segment
from iris_wm.dream.dream import Dream
from iris_wm.envs import EnvConfig, make_env
from iris_wm.protocols import Outcome


class MemoryWorld:
    """The state of B games is the numbers (B,) of the remembered steps that they stand at."""

    def __init__(self, episodes, actions):
        self.actions = actions
        names = ("frames", "actions", "rewards", "terminations")
        columns = (torch.cat([getattr(episode, name) for episode in episodes]) for name in names)
        self.pictures, self.taken, self.rewards, self.ends = columns
        self.seen = self._shrink(self.pictures)

    def observe(self, past):
        return torch.cdist(self._shrink(past.frames[:, -1]), self.seen).argmin(1)

    def follow(self, state, actions, frames):
        return self.observe(Segment.seen(frames[:, None], actions[:, None]))

    def step(self, state, actions, draw, *, needs_frame=True):
        is_other = (self.taken != actions[:, None]).any(-1)
        distance, similar = torch.cdist(self.seen[state], self.seen).masked_fill(is_other, torch.inf).min(1)
        rewards, ends = self.rewards[similar], self.ends[similar]
        return similar + (~ends).long(), Outcome(rewards, ends, rewards, ends.float(), {"surprise": distance})

    def fork(self, state, rows):
        return state[rows]

    def put(self, state, rows, games):
        return state.index_copy(0, rows, games)

    def features(self, state):
        return self.seen[state]

    def frames(self, state):
        return self.pictures[state]

    def _shrink(self, frames):
        return torch.nn.functional.avg_pool2d(frames.float() / 255, 4).flatten(1)


if __name__ == "__main__":
    env = make_env(EnvConfig(id="iris_wm/Catch-v0"))
    episodes = [play_episode(RandomActor(env.actions), env, num_steps=50, seed=seed) for seed in range(60)]
    world = MemoryWorld(episodes, env.actions)
    dream = Dream(world, Segment.seen(world.pictures[:1, None], world.taken[:1, None]), seeds=[0])
    for action in [1, 1, 2, 0, 2, 2, 1, 0, 0, 1]:
        outcome = dream.step(torch.tensor([[action]]))
        print(env.actions.names[action], "brings", float(outcome.rewards), "seen", dream.frames.shape)
