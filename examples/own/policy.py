"""A policy of your own: one layer on the world's features, learned by REINFORCE in the dreams of a run's world.

python examples/own/policy.py runs/catch
"""

import sys

import torch

from iris_wm.acting import RandomActor
from iris_wm.dream.rollout import Choice, roll_out
from iris_wm.evaluation.evaluate import evaluate
from iris_wm.runs.open import load_dreamer, open_run
from iris_wm.spaces import ActionHead
from iris_wm.streams import Draw


class Linear(RandomActor):
    """Learns in the dream, and is an Actor in the game, that remembers nothing: its memory is None."""

    def __init__(self, agent):
        self.tokenizer, self.actions = agent.tokenizer, agent.actions
        num_features = self.tokenizer.tokens_per_frame * self.tokenizer.quantizer.embedding_dim
        self.head = ActionHead(num_features, agent.actions.sizes)

    def choose(self, features, memory, draw):
        is_finite = torch.ones(len(features), dtype=torch.bool)
        return Choice(self.head(features).sample(draw), is_finite), memory

    @torch.no_grad()
    def act(self, frames, memory, draw):
        codes = self.tokenizer.quantizer.lookup(self.tokenizer.encode(frames))
        return self.choose(codes.flatten(1), memory, draw.of("action"))[0].actions, memory


def learn(policy, world, starts, num_updates):
    optimizer = torch.optim.Adam(policy.head.parameters(), lr=3e-3)
    for update in range(num_updates):
        rows = torch.randint(len(starts), (64,), generator=torch.Generator().manual_seed(update))
        draw = Draw.start([64 * update + row for row in range(64)])
        state = world.observe(starts.rows(rows))
        dreamed = roll_out(world, state, world.features, policy.choose, None, 10, draw, rewards="expected")
        ended_before = dreamed.terminations.cumsum(1) - dreamed.terminations.long()
        returns = (dreamed.rewards * (ended_before == 0)).flip(1).cumsum(1).flip(1)
        log_prob = policy.head(dreamed.inputs).log_prob(dreamed.actions)
        loss = -(log_prob * (returns - returns.mean(0)) * (ended_before == 0)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    agent, starts = load_dreamer(sys.argv[1])
    policy = Linear(agent)
    learn(policy, agent.new_world(), starts, num_updates=int((*sys.argv, 300)[2]))
    for name, actor in (("random play", RandomActor(agent.actions)), ("the policy", policy)):
        played = evaluate(actor, open_run(sys.argv[1]).config.env, num_episodes=16, seed=0)
        print(f"{name}: {played.mean_return:.2f} in the real game")
