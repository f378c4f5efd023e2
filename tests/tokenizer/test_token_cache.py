"""Cached tokens and reconstructions are those that the tokenizer gives directly."""

import pytest
import torch

from iris_wm.data.replay import Batches, Replay
from iris_wm.optimization import OptimizationConfig
from iris_wm.protocols import Pieces
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
    progress = []
    cache = TokenCache(tokenizer, lambda done, total: progress.append((done, total)))
    encode = torch.arange(30) % 3 != 0
    decode = torch.arange(30) % 6 == 1
    cache.fill(replay, encode, decode)
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
    caches = [TokenCache(tokenizer) for _ in range(2)]
    everything = torch.ones(30, dtype=torch.bool)
    for cache in caches:
        cache.fill(replay, everything, everything)
    indices = torch.arange(30)
    assert torch.equal(caches[0].reconstructions(indices), caches[1].reconstructions(indices))


def test_only_what_is_asked_for_is_decoded(tokenizer, replay, monkeypatch):
    decoded = []
    original = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda tokens: decoded.append(len(tokens)) or original(tokens))
    cache = TokenCache(tokenizer)
    everything = torch.ones(30, dtype=torch.bool)
    cache.fill(replay, everything, torch.arange(30) < 4)
    assert sum(decoded) == 4
    decoded.clear()
    cache.fill(replay, everything, torch.zeros(30, dtype=torch.bool))
    assert not decoded


def test_an_interrupted_fill_is_not_fresh(tokenizer, replay, monkeypatch):
    monkeypatch.setattr(token_cache, "CHUNK", 8)

    def interrupt(done: int, total: int) -> None:
        raise InterruptedError

    cache = TokenCache(tokenizer, interrupt)
    with pytest.raises(InterruptedError):
        cache.fill(replay, torch.ones(30, dtype=torch.bool), torch.zeros(30, dtype=torch.bool))
    assert not cache.is_fresh
    with pytest.raises(AssertionError):
        cache.obs_tokens(torch.zeros(1, dtype=torch.int64))


def test_an_epoch_is_prepared_once_and_again_when_the_tokenizer_has_changed(tokenizer, replay, monkeypatch):
    """With the frames of all readers, reconstructions for those that read them."""

    class Reader:
        def __init__(self, name: str) -> None:
            self.name, self.pieces = name, Pieces(2, 3)
            self.optimization = OptimizationConfig(steps_per_epoch=2)

    batches, readers = Batches(replay, seed=0), [Reader("one"), Reader("two")]
    needed = [batches.frames_needed(reader, 4) for reader in readers]
    cache, filled = TokenCache(tokenizer), []
    cache.add_reader(readers[0])
    cache.add_reader(readers[1], reads_frames=True)
    original = cache.fill
    monkeypatch.setattr(cache, "fill", lambda *masks: filled.append(masks) or original(*masks))
    cache.prepare(batches, 4)
    cache.prepare(batches, 4)
    (source, encode, decode), *more = filled
    assert source is replay
    assert torch.equal(encode, needed[0] | needed[1])
    assert torch.equal(decode, needed[1])
    assert not more
    cache.prepare(batches, 5)
    cache.invalidate()
    cache.prepare(batches, 5)
    assert len(filled) == 3


def test_invalidate(tokenizer, replay):
    cache = TokenCache(tokenizer)
    nothing = torch.zeros(30, dtype=torch.bool)
    cache.fill(replay, nothing, nothing)
    assert cache.is_fresh
    cache.invalidate()
    assert not cache.is_fresh
