"""The transformer through its cache computes what it computes on whole sequences, however the rows arrive."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iris_kernels import LayerWeights

from iris_wm.world.transformer import AttentionPattern, Transformer, decode

WIDTH, HEADS = 32, 2
FEW = settings(max_examples=20, deadline=None, derandomize=True)


def new_transformer(num_layers: int = 2) -> Transformer:
    torch.manual_seed(0)
    transformer = Transformer(num_layers, HEADS, WIDTH, dropout=0.1).eval()
    with torch.no_grad():  # attention far from uniform
        for block in transformer.blocks:
            block.qkv.weight.mul_(4)
    return transformer


TRANSFORMER = new_transformer()
WEIGHTS = TRANSFORMER.decode_weights(torch.float32)
UNPACKED = [layer._replace(packed=None) for layer in WEIGHTS]
BOTH = st.sampled_from([WEIGHTS, UNPACKED])


def rows(batch_size: int, num_rows: int, seed: int) -> torch.Tensor:
    return torch.randn(batch_size, num_rows, WIDTH, generator=torch.Generator().manual_seed(seed))


def through_cache(
    chunks: list[torch.Tensor], weights: list[LayerWeights], is_block_causal: bool = False
) -> torch.Tensor:
    """All chunks of rows one after the other, after the final layer norm."""
    num_rows = sum(chunk.shape[1] for chunk in chunks)
    cache = TRANSFORMER.new_cache(len(chunks[0]), num_rows + 3)
    with torch.no_grad():
        hidden = [decode(chunk, weights, cache, is_block_causal=is_block_causal) for chunk in chunks]
        assert cache.position.tolist() == [num_rows] * len(chunks[0])
        return TRANSFORMER.ln_out(torch.cat(hidden, dim=1))


@FEW
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 99), BOTH)
def test_causal(lengths, batch_size, seed, weights):
    x = rows(batch_size, sum(lengths), seed)
    with torch.no_grad():
        expected = TRANSFORMER(x, AttentionPattern("causal"))
    assert torch.allclose(through_cache(list(x.split(lengths, dim=1)), weights), expected, atol=2e-5)


@FEW
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(0, 99), BOTH)
def test_block_causal(num_steps, tokens_per_step, batch_size, seed, weights):
    x = rows(batch_size, num_steps * tokens_per_step, seed)
    with torch.no_grad():
        expected = TRANSFORMER(x, AttentionPattern("block_causal", tokens_per_step))
    chunks = list(x.split(tokens_per_step, dim=1))
    assert torch.allclose(through_cache(chunks, weights, is_block_causal=True), expected, atol=2e-5)


@FEW
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.booleans(), st.integers(0, 99), BOTH)
def test_parallel(num_steps, tokens_per_frame, batch_size, is_block_causal, seed, weights):
    """Each step's rows go in together with the queries of the next frame; the cache forgets the queries."""
    tokens_per_step = tokens_per_frame + 1
    context = rows(batch_size, num_steps * tokens_per_step, seed)
    queries = rows(batch_size, num_steps * tokens_per_frame, seed + 1)
    pattern = AttentionPattern("parallel", tokens_per_step, is_block_causal)
    with torch.no_grad():
        expected = TRANSFORMER(torch.cat([context, queries], dim=1), pattern)
        cache = TRANSFORMER.new_cache(batch_size, context.shape[1] + tokens_per_frame)
        at_context, at_queries = [], []
        for step, asking in zip(
            context.split(tokens_per_step, 1), queries.split(tokens_per_frame, 1), strict=True
        ):
            hidden = decode(
                torch.cat([step, asking], dim=1),
                weights,
                cache,
                num_context=tokens_per_step,
                is_block_causal=is_block_causal,
            )
            at_context.append(hidden[:, :tokens_per_step])
            at_queries.append(hidden[:, tokens_per_step:])
        hidden = TRANSFORMER.ln_out(torch.cat([*at_context, *at_queries], dim=1))
    assert cache.position.tolist() == [context.shape[1]] * batch_size
    assert torch.allclose(hidden, expected, atol=2e-5)


def test_rows_after_the_position_are_dead():
    """A cache is emptied by putting its position back; what lies behind never counts."""
    first, second = rows(2, 6, 0), rows(2, 4, 1)
    cache = TRANSFORMER.new_cache(2, 8)
    with torch.no_grad():
        decode(first, WEIGHTS, cache)
        cache.position.zero_()
        again = decode(second, WEIGHTS, cache)
        fresh = decode(second, WEIGHTS, TRANSFORMER.new_cache(2, 8))
    assert torch.equal(again, fresh)


@pytest.mark.parametrize("weights", [WEIGHTS, UNPACKED], ids=["packed", "unpacked"])
def test_each_game_stands_at_a_position_of_its_own(weights):
    """One game has just begun, one fills the cache: each goes on as it would alone."""
    first, second = rows(3, 7, 0), rows(3, 1, 1)
    cache = TRANSFORMER.new_cache(3, 8)
    with torch.no_grad():
        decode(first, weights, cache)
        cache.position.copy_(torch.tensor([7, 0, 4]))
        together = decode(second, weights, cache)
        for game, position in enumerate([7, 0, 4]):
            alone = TRANSFORMER.new_cache(1, 8)
            if position:
                decode(first[game : game + 1, :position], weights, alone)
            expected = decode(second[game : game + 1], weights, alone)
            assert torch.allclose(together[game], expected[0], atol=1e-6)
    assert cache.position.tolist() == [8, 1, 5]


@pytest.mark.parametrize("weights", [WEIGHTS, UNPACKED], ids=["packed", "unpacked"])
@pytest.mark.parametrize("num_wanted", [1, 3, 5])
def test_rows_that_nobody_wants_change_nothing(num_wanted, weights):
    first, second = rows(2, 5, 0), rows(2, 2, 1)
    all_of_it, some = TRANSFORMER.new_cache(2, 8), TRANSFORMER.new_cache(2, 8)
    with torch.no_grad():
        whole = decode(first, weights, all_of_it)
        part = decode(first, weights, some, num_wanted=num_wanted)
        assert part.shape == (2, num_wanted, WIDTH)
        assert torch.allclose(part, whole[:, -num_wanted:], atol=1e-6)
        after = [decode(second, weights, cache) for cache in (all_of_it, some)]
    assert torch.allclose(*after, atol=1e-6)


def test_new_cache():
    cache = TRANSFORMER.new_cache(3, 10, torch.bfloat16)
    assert cache.keys.shape == cache.values.shape == (2, 3, HEADS, 10, WIDTH // HEADS)
    assert cache.keys.dtype == torch.bfloat16
    assert cache.position.tolist() == [0] * 3


def test_decode_weights_follow_the_parameters():
    transformer = new_transformer(1)
    weights = transformer.decode_weights(torch.float32)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.mul_(1.1)
    fresh, x = transformer.decode_weights(torch.float32), rows(2, 3, 0)
    with torch.no_grad():
        updated, wanted = (
            decode(x, each, transformer.new_cache(2, 8)) for each in (transformer.update(weights), fresh)
        )
    assert torch.equal(updated, wanted)


def test_dropout_only_in_training():
    x = rows(2, 6, 0)
    transformer = new_transformer()
    pattern = AttentionPattern()
    assert torch.equal(transformer(x, pattern), transformer(x, pattern))
    transformer.train()
    assert not torch.equal(transformer(x, pattern), transformer(x, pattern))
    torch.manual_seed(1)
    first = transformer(x, pattern)
    torch.manual_seed(1)
    assert torch.equal(transformer(x, pattern), first)


def test_one_block_by_hand():
    """x + attention(LN(x)), then x + MLP(LN(x)), written with plain products."""
    block = new_transformer(1).blocks[0]
    x = rows(2, 5, 3)
    with torch.no_grad():
        q, k, v = block.qkv(block.ln_1(x)).split(WIDTH, dim=-1)
        heads = []
        for h in range(HEADS):
            part = slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / (WIDTH // HEADS) ** 0.5
            hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
            heads.append(scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v[..., part])
        expected = x + block.out(torch.cat(heads, dim=-1))
        expected = expected + block.fc_2(torch.nn.functional.gelu(block.fc_1(block.ln_2(expected))))
        assert torch.allclose(block(x, AttentionPattern()), expected, atol=1e-5)
