"""Streams: equal names give equal draws everywhere, rows are independent of each other."""

import torch

from iris_wm.streams import Draw, row_seeds, stream_generator, stream_seed


def test_a_stream_is_its_seed_name_and_step():
    assert stream_seed(0, "a", 1) == stream_seed(0, "a", 1)
    assert (
        len({stream_seed(0, "a", 1), stream_seed(1, "a", 1), stream_seed(0, "b", 1), stream_seed(0, "a", 2)})
        == 4
    )
    first = torch.rand(3, generator=stream_generator(5, "x"))
    assert torch.equal(first, torch.rand(3, generator=stream_generator(5, "x")))


def test_a_draw_has_independent_streams_and_steps():
    draw = Draw.start([1, 2, 3])
    assert draw.of("reward").stream != draw.of("termination").stream != draw.of("action").stream
    assert draw.next().step.tolist() == [1, 1, 1]
    assert draw.step.tolist() == [0, 0, 0]


def test_seeds_of_rows_differ_and_the_first_is_the_seed_itself():
    seeds = row_seeds(7, 1000)
    assert seeds[0] == 7
    assert len(set(seeds.tolist())) == 1000
    assert bool((seeds >= 0).all())
