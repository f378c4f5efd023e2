"""Action spaces: any kind of Gymnasium's becomes n axes of whole numbers, and back."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from iris_wm.spaces import ActionSpace

CASES = {
    "discrete": (Discrete(4), (4,), [3], 3),
    "start": (Discrete(3, start=-1), (3,), [0], -1),
    "multi": (MultiDiscrete([2, 5]), (2, 5), [1, 4], [1, 4]),
    "matrix": (MultiDiscrete([[2, 3], [4, 5]]), (2, 3, 4, 5), [1, 2, 3, 4], [[1, 2], [3, 4]]),
    "binary": (MultiBinary(3), (2, 2, 2), [1, 0, 1], [1, 0, 1]),
    "box": (Box(np.float32([-1, 0]), np.float32([1, 10])), (11, 11), [0, 5], [-1.0, 5.0]),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_goes_there_and_back(case):
    space, sizes, action, expected = CASES[case]
    ours = ActionSpace.of(space)
    assert ours.sizes == sizes
    assert len(ours.names) == (sizes[0] if len(sizes) == 1 else len(sizes))
    theirs = ours.to_env(torch.tensor(action))
    assert np.array_equal(theirs, expected)
    for drawn in torch.cartesian_prod(*map(torch.arange, sizes)).view(-1, len(sizes)):
        assert space.contains(ours.to_env(drawn))


@pytest.mark.parametrize(
    "space", [Dict({"a": Discrete(2)}), Box(-np.inf, np.inf, (2,)), gymnasium.spaces.Text(3)]
)
def test_what_is_not_supported_is_said(space):
    with pytest.raises(ValueError, match="expected Discrete, MultiDiscrete, MultiBinary or a Box") as error:
        ActionSpace.of(space)
    assert "\n" not in str(error.value)


def test_actions_are_checked_in_one_place():
    one, two = ActionSpace.discrete(3), ActionSpace.of(MultiDiscrete([2, 5]))
    assert one.check([0, 2], "actions", (2,)).tolist() == [[0], [2]]
    assert one.check(np.array([[1]]), "actions", (1,)).tolist() == [[1]]
    assert one.check(2, "action").tolist() == [2]
    assert two.check(torch.tensor([[1, 4]]), "actions", (1,)).tolist() == [[1, 4]]
    for space, bad in (
        (one, [3]),
        (one, [-1]),
        (one, [0.5]),
        (one, "up"),
        (two, [1, 5]),
        (two, [1]),
        (one, [True]),
        (one, [0, 1]),
        (two, [[1, 4]]),
    ):
        with pytest.raises(ValueError, match=r"here: got .*, expected") as error:
            space.check(bad, "here")
        assert "\n" not in str(error.value)
