"""The replay: IRIS's sampling rule by hand and by counting, padding, open episodes, export, bad input."""

import subprocess
import sys

import pytest
import torch

from iris_wm.data.replay import Replay, ReplayConfig
from iris_wm.protocols import Pieces
from iris_wm.spaces import ActionSpace
from iris_wm.streams import stream_generator

SHAPE = (3, 4, 4)
ACTIONS = ActionSpace.discrete(5)


def steps(num, first=0, ends=None):
    """n steps whose frames, actions and rewards all carry their number."""
    values = torch.arange(first, first + num)
    terminations = torch.zeros(num, dtype=torch.bool)
    truncations = torch.zeros(num, dtype=torch.bool)
    if ends == "terminated":
        terminations[-1] = True
    if ends == "truncated":
        truncations[-1] = True
    return {
        "frames": values.to(torch.uint8)[:, None, None, None].expand(num, *SHAPE).clone(),
        "actions": (values % 5)[:, None],
        "rewards": values.float() / 2,
        "terminations": terminations,
        "truncations": truncations,
    }


def draw(replay, batch_size, num_steps, generator, from_start=True):
    return replay.gather(*replay.indices(Pieces(batch_size, num_steps, from_start), generator))


def three_episodes(config=None):
    """Lengths 2 (ended), 5 (open) and 3 (ended); the last two arrive interleaved."""
    replay = Replay(50, ACTIONS, SHAPE, config=config)
    first = replay.start_episode()
    replay.append(first, **steps(2, 0, "terminated"))
    second, third = replay.start_episode(), replay.start_episode()
    replay.append(second, **steps(1, 10))
    replay.append(third, **steps(2, 20))
    replay.append(second, **steps(4, 11))
    replay.append(third, **steps(1, 22, "truncated"))
    return replay


def test_interleaved_episodes_come_back_in_their_own_order():
    replay = three_episodes()
    assert (len(replay), replay.num_steps, replay.num_episodes) == (10, 10, 3)
    assert replay.episode_indices(1).tolist() == [2, 5, 6, 7, 8]
    assert replay.episode_indices(2).tolist() == [3, 4, 9]
    episodes = [replay.episode(number) for number in range(3)]
    numbers = [episode.frames[:, 0, 0, 0].tolist() for episode in episodes]
    assert numbers == [[0, 1], [10, 11, 12, 13, 14], [20, 21, 22]]
    assert [episode.is_finished for episode in episodes] == [True, False, True]
    assert replay.episode(1).rewards.tolist() == [5.0, 5.5, 6.0, 6.5, 7.0]


@pytest.mark.parametrize("from_start", [True, False])
def test_pieces_follow_the_rule(from_start):
    replay = three_episodes()
    segment = draw(replay, 400, 4, stream_generator(0, "test"), from_start)
    assert segment.frames.shape == (400, 4, *SHAPE)
    assert segment.frames.dtype == torch.uint8
    assert not segment.frames[~segment.is_real].any()
    assert not segment.actions[~segment.is_real].any()
    assert not segment.rewards[~segment.is_real].any()
    assert not segment.terminations[~segment.is_real].any()
    assert not segment.frame_indices[~segment.is_real].any()
    assert segment.is_real[:, 0 if from_start else -1].all()
    legal = set()
    for numbers in ([0, 1], [10, 11, 12, 13, 14], [20, 21, 22]):
        for anchor in range(len(numbers)):
            if from_start:
                piece = numbers[anchor : anchor + 4]
                legal.add(
                    (
                        tuple(piece) + (0,) * (4 - len(piece)),
                        (True,) * len(piece) + (False,) * (4 - len(piece)),
                    )
                )
            else:
                piece = numbers[max(0, anchor - 3) : anchor + 1]
                legal.add(
                    (
                        (0,) * (4 - len(piece)) + tuple(piece),
                        (False,) * (4 - len(piece)) + (True,) * len(piece),
                    )
                )
    seen = {
        (tuple(row), tuple(real))
        for row, real in zip(segment.frames[..., 0, 0, 0].tolist(), segment.is_real.tolist(), strict=True)
    }
    assert seen == legal
    real = segment.is_real
    assert torch.equal(segment.actions[real][:, 0], segment.frames[real][:, 0, 0, 0].long() % 5)
    assert torch.equal(segment.rewards[real], segment.frames[real][:, 0, 0, 0].float() / 2)
    ended = (segment.frames[..., 0, 0, 0] == 1) & real
    assert torch.equal(segment.terminations, ended)


@pytest.mark.parametrize("from_start", [True, False])
def test_episodes_are_uniform_and_so_are_places_in_them(from_start):
    replay = three_episodes()
    num = 60_000
    indices, is_real = replay.indices(Pieces(num, 3, from_start), stream_generator(1, "test"))
    assert is_real[:, 0 if from_start else -1].all()
    counts = torch.bincount(indices[:, 0 if from_start else -1], minlength=10).double() / num
    expected = torch.zeros(10, dtype=torch.float64)
    for episode, length in enumerate([2, 5, 3]):
        expected[replay.episode_indices(episode)] = 1 / 3 / length
    # Four standard deviations of a binomial share.
    assert ((counts - expected).abs() < 4 * (expected * (1 - expected) / num).sqrt()).all()


@pytest.mark.parametrize("from_start", [True, False])
@pytest.mark.parametrize("newest", [0, 4])
def test_steps_are_uniform(from_start, newest):
    replay = three_episodes(ReplayConfig("steps", newest))
    num = 30_000
    indices, is_real = replay.indices(Pieces(num, 3, from_start), stream_generator(1, "test"))
    place = 0 if from_start else -1
    assert is_real[:, place].all()
    counts = torch.bincount(indices[:, place], minlength=10).double() / num
    expected = torch.zeros(10, dtype=torch.float64)
    expected[-newest:] = 1 / (newest or 10)
    assert ((counts - expected).abs() <= 4 * (expected * (1 - expected) / num).sqrt()).all()
    inside = replay.gather(indices, is_real).frames[is_real][:, 0, 0, 0]
    assert torch.equal(inside, replay.frames_at(indices)[is_real][:, 0, 0, 0])
    for episode in range(3):  # a piece is of one episode, in its order
        steps = replay.episode_indices(episode).tolist()
        mine = [
            row[real].tolist()
            for row, real in zip(indices[:200], is_real[:200], strict=True)
            if row[place] in steps
        ]
        assert mine or newest
        assert all(steps.index(row[0]) + len(row) - 1 == steps.index(row[-1]) for row in mine)


def test_newest_steps_need_steps():
    with pytest.raises(ValueError, match="newest_steps: got 4, expected 0 where sampling is episodes"):
        ReplayConfig(newest_steps=4)


def test_sampling_depends_on_generator_and_contents_only():
    replay = three_episodes()
    first = replay.indices(Pieces(32, 6), stream_generator(3, "test"))
    replay.indices(Pieces(5, 2), stream_generator(4, "test"))
    torch.manual_seed(123)
    again = replay.indices(Pieces(32, 6), stream_generator(3, "test"))
    rebuilt = Replay(1000, ACTIONS, SHAPE)
    rebuilt.extend_from_steps(replay.export_steps(0, 10))
    third = rebuilt.indices(Pieces(32, 6), stream_generator(3, "test"))
    for other in (again, third):
        assert torch.equal(first[0], other[0])
        assert torch.equal(first[1], other[1])
    assert not torch.equal(first[0], replay.indices(Pieces(32, 6), stream_generator(4, "test"))[0])


def test_export_in_parts_rebuilds_the_same_replay_and_it_goes_on():
    replay = three_episodes()
    opened = replay.start_episode()
    parts = [replay.export_steps(0, 3), replay.export_steps(3, 3), replay.export_steps(3, 10)]
    rebuilt = Replay(50, ACTIONS, SHAPE)
    for part in parts:
        rebuilt.extend_from_steps(part)
    rebuilt.extend_from_steps(rebuilt.export_steps(0, 0), replay.num_episodes)
    for store in (replay, rebuilt):
        store.append(1, **steps(2, 15, "terminated"))
        store.append(opened, **steps(3, 30))
        assert store.start_episode() == opened + 1
    assert rebuilt.num_episodes == replay.num_episodes
    ours, theirs = replay.export_steps(0, 15), rebuilt.export_steps(0, 15)
    assert ours.keys() == theirs.keys()
    for name, column in ours.items():
        assert torch.equal(column, theirs[name]), name
    assert ours["episode_ids"].tolist() == [0, 0, 1, 2, 2, 1, 1, 1, 1, 2, 1, 1, 3, 3, 3]
    with pytest.raises(ValueError, match="replay episode 1: it has ended"):
        rebuilt.append(1, **steps(1))


def test_a_whole_episode_is_added():
    replay = three_episodes()
    added = [replay.extend(replay.episode(number)) for number in range(3)]
    assert added == [3, 4, 5]
    for number in range(3):
        one, two = replay.episode(number), replay.episode(number + 3)
        assert torch.equal(one.frames, two.frames)
        assert torch.equal(one.rewards, two.rewards)
    replay.append(4, **steps(1))  # as open as the one it was
    with pytest.raises(ValueError, match="replay episode 5: it has ended"):
        replay.append(5, **steps(1))


def test_exported_steps_are_copies():
    replay = three_episodes()
    replay.export_steps(0, 2)["frames"].fill_(9)
    assert replay.episode(0).frames[0, 0, 0, 0] == 0


def test_gather_of_a_plan_equals_sampling():
    replay = three_episodes()
    plan = replay.indices(Pieces(8, 5, False), stream_generator(5, "test"))
    replay.append(1, **steps(1, 15))
    planned = replay.gather(*plan)
    assert torch.equal(
        planned.frames[planned.is_real], replay.frames_at(planned.frame_indices)[planned.is_real]
    )
    with pytest.raises(ValueError, match=r"index 11 is outside 0\.\.10"):
        replay.gather(torch.tensor([[11]]), torch.ones(1, 1, dtype=torch.bool))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory differently")
def test_memory_is_taken_as_steps_arrive():
    code = (
        "import resource, torch; from iris_wm.data.replay import Replay; from iris_wm.spaces import ActionSpace\n"
        "torch.zeros(1)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "replay = Replay(100_000, ActionSpace.discrete(2)); episode = replay.start_episode()\n"
        "flags = torch.zeros(2000, dtype=torch.bool)\n"
        "frames = torch.ones(2000, 3, 64, 64, dtype=torch.uint8)\n"
        "replay.append(episode, frames, flags.long()[:, None], flags.float(), flags, flags)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert int(done.stdout) < 120_000, "kilobytes for 2,000 steps (25 MB) and their source (25 MB)"


BAD_COLUMNS = {
    "float frames": (
        "frames",
        lambda column: column.float(),
        r"replay frames: expected uint8 \(n, 3, 4, 4\), got",
    ),
    "other frame size": ("frames", lambda column: column[:, :, :2], r"got torch.uint8 \(2, 3, 2, 4\)"),
    "float actions": (
        "actions",
        lambda column: column.float(),
        r"replay actions: got .*, expected \(2,\) whole numbers of 0 to 4",
    ),
    "negative action": (
        "actions",
        lambda column: column - 9,
        r"replay actions: got \[\[-9\], \[-8\]\], expected",
    ),
    "one action short": (
        "actions",
        lambda column: column[:1],
        r"replay actions: got \[\[0\]\], expected \(2,\)",
    ),
    "NaN reward": ("rewards", lambda column: column * float("nan"), "replay rewards: expected finite"),
    "float terminations": (
        "terminations",
        lambda column: column.float(),
        "replay terminations: expected bool",
    ),
    "ends too early": ("truncations", lambda column: ~column, "ends in row 0 of 2"),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_bad_columns_are_refused_and_nothing_is_stored(case):
    name, change, message = BAD_COLUMNS[case]
    replay = Replay(50, ACTIONS, SHAPE)
    episode = replay.start_episode()
    columns = steps(2)
    columns[name] = change(columns[name])
    with pytest.raises(ValueError, match=message):
        replay.append(episode, **columns)
    assert len(replay) == 0


def test_bad_calls_are_refused():
    replay = three_episodes()
    generator = stream_generator(0, "test")
    with pytest.raises(ValueError, match="replay episode 3: there are 3 episodes"):
        replay.append(3, **steps(1))
    with pytest.raises(ValueError, match="replay episode -1"):
        replay.episode(-1)
    with pytest.raises(ValueError, match="replay episode 0: it has ended"):
        replay.append(0, **steps(1))
    with pytest.raises(ValueError, match=r"replay.capacity: expected room for 51 steps, got 50"):
        replay.append(1, **steps(41))
    with pytest.raises(ValueError, match="the replay is empty"):
        Replay(5, ACTIONS, SHAPE).indices(Pieces(1, 1), generator)
    with pytest.raises(ValueError, match="batch_size: expected an integer of at least 1, got 0"):
        replay.indices(Pieces(0, 1), generator)
    with pytest.raises(ValueError, match="num_steps: expected an integer of at least 1, got True"):
        replay.indices(Pieces(1, True), generator)
    with pytest.raises(ValueError, match="expected 0 <= start <= stop <= 10"):
        replay.export_steps(3, 11)
    for capacity in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=r"replay.capacity"):
            Replay(capacity, ACTIONS, SHAPE)
    with pytest.raises(ValueError, match=r"replay.frame_shape"):
        Replay(5, ACTIONS, (3, 0, 4))
    assert len(replay) == 10


def test_foreign_steps_are_refused():
    exported = three_episodes().export_steps(0, 10)
    replay = Replay(50, ACTIONS, SHAPE)
    with pytest.raises(ValueError, match="expected columns"):
        replay.extend_from_steps({name: column for name, column in exported.items() if name != "rewards"})
    with pytest.raises(ValueError, match="episode_ids: expected 10 ids"):
        replay.extend_from_steps({**exported, "episode_ids": exported["episode_ids"][:9]})
    with pytest.raises(ValueError, match="row 2 belongs to episode 0, which has ended"):
        replay.extend_from_steps({**exported, "episode_ids": exported["episode_ids"] * 0})
    with pytest.raises(ValueError, match="num_episodes: expected at least 3, got 2"):
        replay.extend_from_steps(exported, num_episodes=2)
    assert len(replay) == 0
    assert replay.num_episodes == 0
    replay.extend_from_steps(exported, num_episodes=5)
    assert replay.num_episodes == 5
    with pytest.raises(ValueError, match="row 0 belongs to episode 0, which has ended"):
        replay.extend_from_steps(exported)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_same_pieces_are_drawn_while_it_grows():
    on_cpu, on_gpu = Replay(9000, ACTIONS), Replay(9000, ACTIONS, device="cuda")
    for replay in (on_cpu, on_gpu):
        episode = replay.start_episode()
        for part in range(9):
            generator = stream_generator(0, "frames", part)
            frames = torch.randint(256, (1000, 3, 64, 64), dtype=torch.uint8, generator=generator)
            flags = torch.zeros(1000, dtype=torch.bool)
            replay.append(episode, frames, flags.long()[:, None], flags.float(), flags, flags)
    ours = draw(on_cpu, 16, 20, stream_generator(1, "test"))
    theirs = draw(on_gpu, 16, 20, stream_generator(1, "test"))
    assert theirs.frames.device.type == "cuda"
    assert torch.equal(ours.frames, theirs.frames.cpu())
    assert torch.equal(ours.frame_indices, theirs.frame_indices.cpu())
