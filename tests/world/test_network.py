"""What each prediction of the world model may know, and which label it is compared with."""

import pytest
import torch

from iris_wm.spaces import ActionSpace
from iris_wm.world.network import (
    AutoregressivePrediction,
    BlockPrediction,
    ParallelPrediction,
    WorldConfig,
    WorldNetwork,
)
from iris_wm.world.token_layout import RotaryPositions, rotary_turns

K, V, A, T = 4, 11, 3, 5
MODES = [
    pytest.param({"prediction": AutoregressivePrediction()}, id="autoregressive"),
    pytest.param({"prediction": ParallelPrediction()}, id="parallel"),
    pytest.param({"prediction": ParallelPrediction(attention="block_causal")}, id="block_causal"),
    pytest.param({"prediction": ParallelPrediction("current_step")}, id="current_step"),
    pytest.param({"prediction": BlockPrediction()}, id="block"),
    pytest.param({"prediction": BlockPrediction("everywhere")}, id="block, action everywhere"),
    pytest.param({"prediction": BlockPrediction(), "positions": RotaryPositions()}, id="block, rotary"),
]
ROTARY = [
    pytest.param({"prediction": prediction, "positions": RotaryPositions()}, id=prediction.kind)
    for prediction in (AutoregressivePrediction(), ParallelPrediction(), BlockPrediction())
]


def new_world(**values) -> WorldNetwork:
    torch.manual_seed(0)
    config = WorldConfig(num_layers=2, num_heads=2, embed_dim=16, context_steps=T, **values)
    world = WorldNetwork(config, V, K, ActionSpace.discrete(A)).eval()
    with torch.no_grad():
        for parameter in world.parameters():
            if parameter.dim() > 1:
                parameter.mul_(15)
    return world


@pytest.fixture(scope="module")
def segment() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(V, (2, T, K), generator=generator)
    return tokens, torch.randint(A, (2, T, 1), generator=generator)


def changed_rows(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """Rows (dimension 1) that differ by more than rounding in any entry of the batch."""
    different = (before - after).abs().amax(dim=(0, 2)) > 1e-5
    return different.nonzero().squeeze(1).tolist()


@pytest.mark.parametrize("mode", MODES)
def test_shapes(mode, segment):
    tokens, actions = segment
    output = new_world(**mode)(tokens, actions)
    assert output.hidden.shape == (2, T * (K + 1), 16)
    assert output.observation_logits.shape == (2, T * K, V)
    assert output.reward_logits.shape == (2, T, 3)
    assert output.termination_logits.shape == (2, T, 2)


@torch.no_grad()
@pytest.mark.parametrize("step", range(T))
@pytest.mark.parametrize("k", [0, K - 1])
def test_a_token_changes_no_earlier_prediction_autoregressive(segment, step, k):
    """Row n predicts frame token n + 1: it sees tokens up to n, and actions of earlier steps."""
    tokens, actions = segment
    world = new_world()
    before = world(tokens, actions)
    other = tokens.clone()
    other[:, step, k] = (other[:, step, k] + 1) % V
    after = world(other, actions)
    first = step * K + k
    expected = list(range(first, T * K))
    assert changed_rows(before.observation_logits, after.observation_logits) == expected
    assert changed_rows(before.reward_logits, after.reward_logits) == list(range(step, T))
    assert changed_rows(before.termination_logits, after.termination_logits) == list(range(step, T))


@torch.no_grad()
@pytest.mark.parametrize("step", range(T))
def test_an_action_changes_no_earlier_prediction_autoregressive(segment, step):
    """The first prediction that sees an action is that of the next frame's first token."""
    tokens, actions = segment
    world = new_world()
    before = world(tokens, actions)
    other = actions.clone()
    other[:, step] = (other[:, step] + 1) % A
    after = world(tokens, other)
    expected = list(range(step * K + K - 1, T * K))
    assert changed_rows(before.observation_logits, after.observation_logits) == expected
    assert changed_rows(before.reward_logits, after.reward_logits) == list(range(step, T))


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("step", range(T))
@pytest.mark.parametrize("what", ["token", "action"])
def test_parallel_predictions_see_only_the_past(segment, mode, step, what):
    """The K rows of group g predict the frame of step g + 1 from steps 0 to g."""
    tokens, actions = segment
    world = new_world(**mode)
    before = world(tokens, actions)
    other_tokens, other_actions = tokens.clone(), actions.clone()
    if what == "token":
        other_tokens[:, step, -1] = (other_tokens[:, step, -1] + 1) % V
    else:
        other_actions[:, step] = (other_actions[:, step] + 1) % A
    after = world(other_tokens, other_actions)
    assert changed_rows(before.observation_logits, after.observation_logits) == list(range(step * K, T * K))
    assert changed_rows(before.reward_logits, after.reward_logits) == list(range(step, T))


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES[1:4])
def test_the_context_never_sees_queries(segment, mode):
    world = new_world(**mode)
    before = world(*segment)
    world.query_embedding.weight.neg_()
    after = world(*segment)
    assert torch.equal(before.hidden, after.hidden)
    assert torch.equal(before.reward_logits, after.reward_logits)
    assert len(changed_rows(before.observation_logits, after.observation_logits)) == T * K


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_a_shorter_segment_is_the_beginning_of_a_longer(segment, mode):
    tokens, actions = segment
    world = new_world(**mode)
    whole = world(tokens, actions)
    for steps in (1, 3):
        part = world(tokens[:, :steps], actions[:, :steps])
        assert torch.allclose(part.observation_logits, whole.observation_logits[:, : steps * K], atol=1e-4)
        assert torch.allclose(part.reward_logits, whole.reward_logits[:, :steps], atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_labels_by_hand(mode):
    """Row n is compared with frame token n + 1 (autoregressive) or n + K (parallel)."""
    world = new_world(**mode)
    tokens = torch.arange(2 * K).view(1, 2, K)
    rows, labels = world.observation_targets(tokens)
    ahead = K if world.config.is_parallel else 1
    assert list(range(2 * K))[rows] == list(range(2 * K - ahead))
    assert labels.tolist() == [list(range(ahead, 2 * K))]


def test_embedding_by_hand(segment):
    tokens, actions = segment
    world = new_world()
    embedded = world.embed_steps(tokens, actions)
    positions = world.position_embedding.weight
    for step in range(T):
        for k in range(K):
            n = step * (K + 1) + k
            expected = world.token_embedding.weight[tokens[1, step, k]] + positions[n]
            assert torch.equal(embedded[1, n], expected)
        n = step * (K + 1) + K
        assert torch.equal(embedded[1, n], world.action_embedding.weight[actions[1, step, 0]] + positions[n])


def test_turns_by_hand():
    """Four tokens and an action a step, heads of 16: three pairs turn with x, three with y, two with the step."""
    turns = rotary_turns(4, 15, 16).unflatten(1, (8, 2))
    turned = torch.atan2(turns[..., 1], turns[..., 0])
    along, steps = 100.0 ** -(torch.arange(3) / 3), torch.tensor([1.0, 0.1])
    for place, (x, y, step) in {
        0: (0, 0, 0),
        1: (1, 0, 0),
        2: (0, 1, 0),
        4: (0, 2, 0),
        13: (1, 1, 2),
    }.items():
        expected = torch.cat([x * along, y * along, step * steps])
        assert torch.allclose(turned[place], expected, atol=1e-6), place


@pytest.mark.parametrize("head_size", [2, 4, 6, 8, 10, 24, 64, 128])
def test_every_even_head_splits(head_size):
    """Steps are told apart by any head; places of a frame by those that have pairs for three axes."""
    turns = rotary_turns(16, 3 * 17, head_size)
    assert turns.shape == (3 * 17, head_size)
    if head_size >= 6:
        assert (torch.cdist(turns, turns) + torch.eye(len(turns))).min() > 0.1
    assert torch.cdist(turns[::17], turns[::17]).sum(1).min() > 0.5


@torch.no_grad()
@pytest.mark.parametrize("mode", ROTARY)
def test_only_differences_of_steps_count(mode, segment):
    world = new_world(**mode)
    before, num_places = world(*segment), len(world.turns)
    for num_steps in (1, 7):
        shift = num_steps * (K + 1)
        world.turns = rotary_turns(K, num_places + shift, 8)[shift:]
        for was, now in zip(before, world(*segment), strict=True):
            assert torch.allclose(was, now, atol=2e-4, rtol=1e-4)
    world.turns = rotary_turns(K, 3 * num_places, 8)[::3]  # as if tokens stood elsewhere
    assert (world(*segment).reward_logits - before.reward_logits).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("mode", ROTARY)
def test_cells_and_steps_are_told_apart_by_turns_alone(mode, segment):
    """Without what is added for a cell, two tokens or two steps that change places change what is predicted."""
    world = new_world(**mode)
    world.position_embedding.weight.zero_()
    tokens, actions = segment
    rewards = world(tokens, actions).reward_logits[:, -1]
    swapped, earlier = tokens.clone(), tokens.clone()
    swapped[:, 1, [0, 3]] = tokens[:, 1, [3, 0]]
    earlier[:, [0, 1]] = tokens[:, [1, 0]]
    for other in (swapped, earlier):
        assert (world(other, actions).reward_logits[:, -1] - rewards).abs().max() > 1e-3


def test_rotary_positions_are_refused_where_tokens_are_no_grid():
    config = WorldConfig(positions=RotaryPositions())
    with pytest.raises(
        ValueError, match=r"world\.positions: got rotary with 6 tokens a frame, expected a square"
    ):
        WorldNetwork(config, V, 6, ActionSpace.discrete(A))


@pytest.mark.parametrize("kind", ["learned", "current_step"])
@pytest.mark.parametrize("num_steps", [1, 3, T])
def test_queries_stand_where_the_tokens_they_ask_for_stand(segment, num_steps, kind):
    tokens, actions = (values[:, :num_steps] for values in segment)
    world = new_world(prediction=ParallelPrediction(kind))
    queries = world.embed_queries(tokens, actions)
    assert queries.shape == (len(tokens), num_steps * K, 16)
    for group in range(num_steps):
        for k in range(K):
            position = world.position_embedding.weight[(group + 1) * (K + 1) + k]
            expected = (position + world.query_embedding.weight[k]).expand(len(tokens), -1)
            if kind == "current_step":
                expected = expected + world.token_embedding(tokens[:, group, k])
                expected = expected + world.action_embedding(actions[:, group])
            assert torch.equal(queries[:, group * K + k], expected)


def test_initial_weights():
    torch.manual_seed(0)
    world = WorldNetwork(WorldConfig(num_layers=2, embed_dim=64), V, K, ActionSpace.discrete(A))
    for name, parameter in world.named_parameters():
        if "ln_" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name


@pytest.mark.parametrize("mode", MODES)
def test_every_weight_learns(mode, segment):
    world = new_world(**mode).train()
    output = world(*segment)
    (output.observation_logits.square().sum() + output.reward_logits.square().sum()).backward()
    output = world(*segment)
    output.termination_logits.square().sum().backward()
    for name, parameter in world.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_layers": 0}, "num_layers: got 0, expected a whole number of at least 1"),
        ({"num_heads": 3}, r"embed_dim: got 256, expected a multiple of num_heads \(3\)"),
        (
            {"embed_dim": 36, "positions": RotaryPositions()},
            "positions: got rotary with heads of 9, expected an even embed_dim / num_heads",
        ),
        ({"context_steps": 1}, "context_steps: got 1, expected a whole number of at least 2"),
        ({"dropout": 1.0}, "dropout: got 1.0, expected a number from 0 to below 1"),
        ({"dropout": float("nan")}, "dropout: got nan"),
    ],
)
def test_impossible_shapes_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        WorldConfig(**values)


def test_initial_weights_by_width():
    torch.manual_seed(0)
    world = WorldNetwork(
        WorldConfig(num_layers=2, embed_dim=64, initialization="width"), V, K, ActionSpace.discrete(A)
    )
    linear = world.transformer.blocks[0]
    assert linear.fc_1.weight.std().item() == pytest.approx(64**-0.5, rel=0.1)
    assert linear.fc_2.weight.std().item() == pytest.approx(256**-0.5, rel=0.1)
    assert world.position_embedding.weight.std().item() == pytest.approx(0.2, rel=0.1)
    assert not linear.fc_1.bias.any()
