"""Where tokens stand, written out by hand for two steps of three tokens."""

import torch

from iris_wm.world.token_layout import TokenLayout

LAYOUT = TokenLayout(tokens_per_frame=3, context_steps=2)


def test_sizes():
    assert LAYOUT.tokens_per_step == 4
    assert LAYOUT.max_tokens == 8
    paper = TokenLayout(16, 20)
    assert (paper.tokens_per_step, paper.max_tokens) == (17, 340)


def test_interleave_puts_each_action_after_its_frame():
    frames = torch.tensor([[[1, 2, 3], [4, 5, 6]]]).unsqueeze(-1)
    actions = torch.tensor([[10, 20]]).unsqueeze(-1)
    assert LAYOUT.interleave(frames, actions).squeeze(-1).tolist() == [[1, 2, 3, 10, 4, 5, 6, 20]]


def test_rows_of_the_heads():
    rows = torch.arange(8).view(1, 8, 1)
    assert LAYOUT.action_positions(rows).flatten().tolist() == [3, 7]
    # Rows 0 and 1 predict tokens 1 and 2 of the frame, row 3 (the action) token 0 of the next; row 2 predicts
    # the action, which nobody asks for.
    assert LAYOUT.next_token_positions(rows).flatten().tolist() == [0, 1, 3, 4, 5, 7]


def test_one_token_a_frame():
    layout = TokenLayout(1, 3)
    rows = torch.arange(6).view(1, 6, 1)
    assert layout.action_positions(rows).flatten().tolist() == [1, 3, 5]
    assert layout.next_token_positions(rows).flatten().tolist() == [1, 3, 5]


def test_a_shorter_sequence_than_the_context():
    rows = torch.arange(4).view(1, 4, 1)
    assert LAYOUT.action_positions(rows).flatten().tolist() == [3]
    assert LAYOUT.next_token_positions(rows).flatten().tolist() == [0, 1, 3]
