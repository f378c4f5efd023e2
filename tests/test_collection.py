"""The collector: what goes into the replay, memory, exploration, and going on in another process."""

from collections.abc import Iterator

import pytest
import torch

from iris_wm.acting import ConstantActor, Explorer, RandomActor, play_episode
from iris_wm.agent import Agent
from iris_wm.collection import CollectionConfig, Collector
from iris_wm.data.replay import Replay
from iris_wm.envs import EnvConfig, make_env
from iris_wm.spaces import ActionSpace
from iris_wm.streams import Draw, stream_seed

CATCH, BREAKOUT = "iris_wm/Catch-v0", "Breakout"


@pytest.fixture(scope="module")
def agents(tiny_agent) -> dict[str, Agent]:
    return {CATCH: tiny_agent(), BREAKOUT: tiny_agent(num_actions=4)}


def new_collector(agents, game: str = CATCH, seed: int = 0, **values) -> Collector:
    config = CollectionConfig(
        **{"env_steps_per_epoch": 60, "first_epoch_env_steps": 60, "burn_in": 4, **values}
    )
    envs = [make_env(EnvConfig(game)) for _ in range(config.num_envs)]
    return Collector(agents[game], envs, Replay(400, agents[game].actions), config, seed)


def columns(replay: Replay) -> dict[str, torch.Tensor]:
    return replay.export_steps(0, replay.num_steps)


def assert_same(first: Replay, second: Replay) -> None:
    one, two = columns(first), columns(second)
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


@pytest.mark.parametrize("game", [CATCH, BREAKOUT])
def test_the_replay_holds_what_the_game_did(agents, game):
    """Played again from the seed with the same actions, the game brings the same frames, rewards and ends."""
    collector = new_collector(agents, game)
    finished = collector.collect(120, epsilon=0.5)
    assert collector.env_steps == 120
    steps = columns(collector.replay)
    env = make_env(EnvConfig(game))
    observation, _ = env.reset(seed=stream_seed(0, "env", 0) % 2**31)
    episode = 0
    for t in range(120):
        assert torch.equal(steps["frames"][t], torch.from_numpy(observation).permute(2, 0, 1)), t
        assert steps["episode_ids"][t] == episode
        observation, reward, terminated, truncated, _ = env.step(steps["actions"][t].numpy())
        assert steps["rewards"][t] == reward
        assert bool(steps["terminations"][t]) == terminated
        assert bool(steps["truncations"][t]) == (truncated and not terminated)
        if terminated or truncated:
            observation, _ = env.reset()
            episode += 1
    assert episode >= 2
    assert len(finished) == episode
    whole = [collector.replay.episode(each) for each in range(episode)]
    assert [each.length for each in finished] == [len(each) for each in whole]
    assert [each.episode_return for each in finished] == [each.episode_return for each in whole]


def test_truncated_is_not_terminated(agents):
    collector = new_collector(agents)
    collector.players.envs = [make_env(EnvConfig(CATCH, max_emulator_frames=5))]
    finished = collector.collect(20, epsilon=1.0)
    steps = columns(collector.replay)
    assert [each.length for each in finished] == [5] * 4
    assert steps["truncations"].nonzero().flatten().tolist() == [4, 9, 14, 19]
    assert not steps["terminations"].any()


def memory_before_each_step(collector: Collector, monkeypatch) -> list[torch.Tensor]:
    seen = []
    act = collector.agent.act

    def recording(frames, state, *options):
        seen.append(torch.cat([state.hidden, state.cell], dim=1).clone())
        return act(frames, state, *options)

    monkeypatch.setattr(collector.agent, "act", recording, raising=False)
    return seen


@pytest.mark.parametrize("num_envs", [1, 3])
def test_memory_is_empty_at_the_start_of_an_episode_and_nowhere_else(agents, monkeypatch, num_envs):
    collector = new_collector(agents, num_envs=num_envs)
    seen = memory_before_each_step(collector, monkeypatch)
    collector.collect(100 * num_envs, epsilon=0.5)
    ids = columns(collector.replay)["episode_ids"].view(100, num_envs)
    for t in range(100):
        for i in range(num_envs):
            begins = t == 0 or ids[t, i] != ids[t - 1, i]
            assert bool((seen[t][i] == 0).all()) == begins, (t, i)
    assert len(set(ids.flatten().tolist())) >= 2 * num_envs


def test_memory_is_rebuilt_from_the_last_frames_with_the_current_weights(agents, monkeypatch):
    """As at the start of every epoch: burn_in frames of the open episode, none of them the current one."""
    agent = agents[CATCH]
    collector = new_collector(agents, burn_in=4)
    collector.collect(5, epsilon=0.0)  # within the first episode
    episode = collector.replay.episode(0)
    assert len(episode) == 5
    collector.refresh_memory()
    seen = memory_before_each_step(collector, monkeypatch)
    collector.collect(1, epsilon=0.0)
    with torch.no_grad():
        inputs = agent.tokenizer.reconstruct(episode.frames[-4:])
        _, state = agent.policy.sequence(inputs[None], agent.start())
    assert torch.allclose(seen[0], torch.cat(tuple(state), dim=1), atol=1e-5)


def test_without_burn_in_the_memory_goes_on(agents):
    collector = new_collector(agents, burn_in=0)
    collector.collect(10, epsilon=0.0)
    before = collector.players.memory
    collector.refresh_memory()
    assert collector.players.memory is before
    new_collector(agents).refresh_memory()  # nothing to rebuild from yet


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_is_the_share_of_random_actions(agents, monkeypatch, epsilon):
    """With a policy that always plays 0, two of three random actions show."""
    agent = agents[CATCH]
    monkeypatch.setattr(
        agent,
        "act",
        lambda frames, state, *_: (torch.zeros(len(frames), 1, dtype=torch.int64), state),
        raising=False,
    )
    collector = new_collector(agents)
    collector.collect(300, epsilon=epsilon)
    share = (columns(collector.replay)["actions"] != 0).float().mean().item()
    assert share == pytest.approx(epsilon * 2 / 3, abs=0.08)
    assert share == 0 or epsilon > 0


def test_a_random_action_is_held():
    """For 1 to max_hold steps, then the actor or another random action follows."""
    space = ActionSpace.discrete(8)
    explorer = Explorer(ConstantActor(space, 7), epsilon=0.02, max_hold=5)
    memory, frames = explorer.start(1), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    draw, chosen, begun = Draw.start([0]), [], []
    for _ in range(3000):
        before = memory
        actions, memory = explorer.act(frames, memory, draw)
        draw = draw.next()
        chosen.append(int(actions))
        if before.num_left == 0 and memory.num_left + 1 > 0 and chosen[-1] == memory.actions:
            begun.append(int(memory.num_left) + 1)
        if before.num_left > 0:
            assert chosen[-1] == before.actions
            assert memory.num_left == before.num_left - 1
    assert set(chosen) == set(range(8))
    assert set(begun) == {1, 2, 3, 4, 5}
    share = sum(action != 7 for action in chosen) / 3000
    assert 0.02 * 2 * 7 / 8 < share < 0.02 * 4  # three steps on average


@pytest.mark.parametrize("game", [CATCH, BREAKOUT])
@pytest.mark.parametrize("steps_before", [0, 7, 47])
def test_state_dict_round_trip_continues_identically(agents, game, steps_before):
    """In the middle of an episode, of a held action and of the memory."""
    options = {"num_envs": 2, "max_action_hold": 6} if game == CATCH else {"max_action_hold": 6}
    first = new_collector(agents, game, **options)
    first.collect(steps_before * first.config.num_envs, epsilon=0.3)
    state = first.state_dict()
    part = columns(first.replay)
    num_episodes = first.replay.num_episodes

    second = new_collector(agents, game, **options)
    for env in second.players.envs:  # whatever it did before
        env.reset(seed=99)
    second.replay = Replay(400, first.replay.actions)
    second.replay.extend_from_steps(part, num_episodes)
    second.load_state_dict(state)
    for collector in (first, second):
        collector.collect(20 * collector.config.num_envs, epsilon=0.3)
        collector.refresh_memory()
        collector.collect(20 * collector.config.num_envs, epsilon=0.3)
    assert_same(first.replay, second.replay)
    assert first.replay.num_episodes == second.replay.num_episodes


def test_finished_episodes_after_a_round_trip(agents):
    """Return and length count from the episode's beginning, not from the restart."""
    first = new_collector(agents)
    first.collect(20, epsilon=1.0)
    second = new_collector(agents)
    second.replay = Replay(400, first.replay.actions)
    second.replay.extend_from_steps(columns(first.replay), first.replay.num_episodes)
    second.load_state_dict(first.state_dict())
    assert first.collect(60, epsilon=1.0) == second.collect(60, epsilon=1.0)


def test_several_environments(agents):
    """Each has an episode of its own and its own seed; a step of all comes before the next of any."""
    collector = new_collector(agents, num_envs=3)
    collector.collect(15, epsilon=0.0)
    steps = columns(collector.replay)
    assert steps["episode_ids"].view(5, 3).tolist() == [[0, 1, 2]] * 5
    frames = steps["frames"].view(5, 3, 3, 64, 64)
    assert not torch.equal(frames[0, 0], frames[0, 1])
    assert not torch.equal(frames[0, 1], frames[0, 2])


def test_same_seed_same_steps(agents):
    collectors = [new_collector(agents, seed=seed) for seed in (3, 3, 4)]
    for collector in collectors:
        torch.manual_seed(id(collector) % 1000)
        collector.collect(60, epsilon=0.2)
    assert_same(collectors[0].replay, collectors[1].replay)
    assert not torch.equal(columns(collectors[0].replay)["frames"], columns(collectors[2].replay)["frames"])


def test_how_steps_are_portioned_does_not_matter(agents):
    whole, parts = new_collector(agents), new_collector(agents)
    whole.collect(60, epsilon=0.2)
    for num in (1, 9, 50):
        parts.collect(num, epsilon=0.2)
    assert_same(whole.replay, parts.replay)


@pytest.fixture
def catch() -> Iterator:
    env = make_env(EnvConfig(CATCH))
    yield env
    env.close()


@pytest.mark.parametrize("with_agent", [True, False])
def test_play_episode(agents, catch, with_agent):
    agent = agents[CATCH] if with_agent else RandomActor(catch.actions)
    episode = play_episode(agent, catch, num_steps=100, seed=1)
    assert 6 <= len(episode) <= 42
    assert episode.is_finished
    again = play_episode(agent, catch, num_steps=100, seed=1)
    assert torch.equal(episode.frames, again.frames)
    assert torch.equal(episode.actions, again.actions)
    cut = play_episode(agent, catch, num_steps=5, seed=1)
    assert len(cut) == 5
    assert not cut.is_finished
    assert torch.equal(cut.frames, episode.frames[:5])
