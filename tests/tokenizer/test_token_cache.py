"""Cached tokens and reconstructions are those that the tokenizer gives directly."""

import pytest
import torch

from iris_wm.data.replay import Replay
from iris_wm.spaces import ActionSpace
from iris_wm.tokenizer import token_cache
from iris_wm.tokenizer.token_cache import TokenCache


@pytest.fixture(scope="module")
def tokenizer(tiny_agent):
    return tiny_agent().tokenizer


@pytest.fixture(scope="module")
def replay() -> Replay:
    replay = Replay(50, ActionSpace.discrete(1))
    episode = replay.start_episode()
    frames = torch.randint(
        256, (30, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    nothing = torch.zeros(30, dtype=torch.bool)
    replay.append(episode, frames, torch.zeros(30, 1, dtype=torch.int64), torch.zeros(30), nothing, nothing)
    return replay


@pytest.fixture(params=[128, 7, 1])
def chunk(request, monkeypatch) -> int:
    monkeypatch.setattr(token_cache, "CHUNK", request.param)
    return request.param


def test_equals_direct_encoding_and_decoding(tokenizer, replay, chunk):
    cache = TokenCache(replay, 16)
    encode = torch.arange(30) % 3 != 0
    decode = torch.arange(30) % 6 == 1
    progress = []
    cache.fill(tokenizer, encode, decode, lambda done, total: progress.append((done, total)))
    indices = encode.nonzero().squeeze(1)
    tokens = cache.obs_tokens(indices.view(4, 5))
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, tokenizer.encode(replay.frames_at(indices.view(4, 5))))
    decoded = decode.nonzero().squeeze(1)
    expected = tokenizer.reconstruct(replay.frames_at(decoded))
    assert torch.allclose(cache.reconstructions(decoded), expected, atol=1e-5)
    assert cache.reconstructions(decoded[None]).shape == (1, len(decoded), 3, 64, 64)
    assert progress[-1] == (20, 20)
    assert len(progress) == -(-20 // chunk)


def test_same_chunks_same_bits(tokenizer, replay):
    """What an interrupted and repeated fill gives, bit for bit."""
    caches = [TokenCache(replay, 16) for _ in range(2)]
    everything = torch.ones(30, dtype=torch.bool)
    for cache in caches:
        cache.fill(tokenizer, everything, everything, lambda done, total: None)
    indices = torch.arange(30)
    assert torch.equal(caches[0].reconstructions(indices), caches[1].reconstructions(indices))


def test_only_what_is_asked_for_is_decoded(tokenizer, replay, monkeypatch):
    decoded = []
    original = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda tokens: decoded.append(len(tokens)) or original(tokens))
    cache = TokenCache(replay, 16)
    everything = torch.ones(30, dtype=torch.bool)
    cache.fill(tokenizer, everything, torch.arange(30) < 4, lambda done, total: None)
    assert sum(decoded) == 4
    decoded.clear()
    cache.fill(tokenizer, everything, torch.zeros(30, dtype=torch.bool), lambda done, total: None)
    assert not decoded


def test_an_interrupted_fill_is_not_fresh(tokenizer, replay, monkeypatch):
    monkeypatch.setattr(token_cache, "CHUNK", 8)
    cache = TokenCache(replay, 16)

    def interrupt(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        cache.fill(tokenizer, torch.ones(30, dtype=torch.bool), torch.zeros(30, dtype=torch.bool), interrupt)
    assert not cache.is_fresh
    with pytest.raises(AssertionError):
        cache.obs_tokens(torch.zeros(1, dtype=torch.int64))


def test_invalidate(tokenizer, replay):
    cache = TokenCache(replay, 16)
    nothing = torch.zeros(30, dtype=torch.bool)
    cache.fill(tokenizer, nothing, nothing, lambda done, total: None)
    assert cache.is_fresh
    cache.invalidate()
    assert not cache.is_fresh
