"""Acting, roll-outs, the token cache and losses on fake CUDA tensors, which have a shape and a device but no numbers.

So machines without a GPU find tensors on the wrong device and all that would wait for the device. Kernels are not
launched: their fakes stand in for them, or the references run.
"""

import ctypes
import dataclasses
import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from iris_kernels.ops import attention, decode_layers, group_norm_silu, head_sample
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from vector_quantize_pytorch.vector_quantize_pytorch import Codebook

from iris_wm.agent import Agent
from iris_wm.config import apply_overrides, build_config
from iris_wm.data.replay import Replay
from iris_wm.dream.rollout import Imagination, Rollout
from iris_wm.policy.actor_critic import policy_inputs
from iris_wm.policy.loss import policy_loss, policy_targets
from iris_wm.runs.config import RunConfig
from iris_wm.spaces import ActionSpace
from iris_wm.streams import Draw, row_seeds
from iris_wm.strict_yaml import read_yaml
from iris_wm.tokenizer.learner import tokenizer_loss
from iris_wm.tokenizer.token_cache import TokenCache
from iris_wm.tokenizer.tokenizer import Tokenizer, codebook_usage
from iris_wm.world.learner import world_loss
from iris_wm.world.token_world import TokenState

CONFIGS = Path(__file__).parents[1] / "configs"
PRESETS = sorted(CONFIGS.rglob("*.yaml"))
B = 3
INDEXING = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")


class OnTheHost(Exception):
    """A tensor of the host where only the device's may be."""


class Waits(Exception):
    """The host would wait for numbers of the device."""


def devices(tensors: object) -> set[str]:
    return {leaf.device.type for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor)}


@functools.cache
def needs_numbers(function: torch._ops.OpOverload) -> bool:
    return bool({torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(function.tags))


class NoWait(TorchDispatchMode):
    """Fails where the host needs numbers of the device; the host's own tensors have theirs.

    Fake tensors alone would let some of it pass: bincount, a mask that is written to.
    """

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        target, inputs = keywords.get("device"), devices((arguments, keywords))
        if "cuda" not in inputs and (target is None or target.type == "cpu"):
            with unset_fake_temporarily():
                return function(*arguments, **keywords)
        if "cuda" in inputs:
            if function.overloadpacket in INDEXING:
                waits = torch.bool in {getattr(index, "dtype", None) for index in arguments[1]}
            else:
                waits = needs_numbers(function) or (target is not None and target.type == "cpu")
            if waits:
                raise Waits(f"{function} waits for the device")
        return function(*arguments, **keywords)


class DeviceOnly(NoWait):
    """Fails also where a tensor is made or used on the host: no copy of it can be in a CUDA graph."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = super().__torch_dispatch__(function, types, arguments, keywords)
        if "cpu" in devices((arguments, keywords, result)):
            raise OnTheHost(f"{function} has a tensor of the host")
        return result


# PyTorch's builds for CPUs lack what switches the current CUDA device around calls from Python. One that does nothing:
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
"""


@pytest.fixture(scope="module", autouse=True)
def device_guard(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fake CUDA tensors can be indexed, copied and so on, whatever PyTorch was built for."""
    if torch.backends.cuda.is_built():
        return
    if (compiler := shutil.which("c++")) is None:
        pytest.skip("needs a C++ compiler")
    library, torch_home = tmp_path_factory.mktemp("guard") / "guard.so", Path(torch.__file__).parent
    options = (
        f"-x c++ - -std=c++20 -shared -fPIC -I{torch_home}/include -L{torch_home}/lib -lc10 -o {library}"
    )
    subprocess.run([compiler, *options.split()], input=GUARD, text=True, check=True)
    ctypes.CDLL(str(library))


@pytest.fixture(autouse=True)
def fake_gpu() -> Iterator[None]:
    """No tensor of the test has numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        yield


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU without Triton; otherwise the fakes of the ops stand for the kernels."""
    monkeypatch.setenv("IRIS_KERNELS_BACKEND", "torch")
    for op in (attention, decode_layers, group_norm_silu, head_sample):
        monkeypatch.setattr(op, "runs_directly", lambda *_, **__: True)


def shortened(config: RunConfig) -> RunConfig:
    """With one of the layers, which are alike, and roll-outs just long enough to begin the context anew."""
    burn_in = min(config.imagination.burn_in, 1)
    return dataclasses.replace(
        config,
        world=dataclasses.replace(config.world, num_layers=1, context_steps=3),
        imagination=dataclasses.replace(config.imagination, burn_in=burn_in, horizon=4),
    )


@pytest.fixture(params=PRESETS, ids=lambda path: path.stem)
def preset(request) -> RunConfig:
    return shortened(build_config(RunConfig, read_yaml(request.param)))


def small(*overrides: str) -> RunConfig:
    """Four tokens a frame."""
    settings = read_yaml(CONFIGS / "debug.yaml")
    few_tokens = "tokenizer.autoencoder.channel_multipliers=[1, 1, 1, 1]"
    return shortened(build_config(RunConfig, apply_overrides(settings, [few_tokens, *overrides])))


def new_agent(config: RunConfig, *sizes: int) -> Agent:
    """An agent on the GPU, whose quantizer's tables have to be numbers while it is built."""
    with unset_fake_temporarily(), torch.device("meta"):
        agent = Agent(config.agent_config(ActionSpace.discrete(*sizes or (4,))))
    for module in agent.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = _on_gpu(tensor)
    return agent.eval()


def _on_gpu(tensor: Tensor) -> Tensor:
    moved = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
    return nn.Parameter(moved) if isinstance(tensor, nn.Parameter) else moved


def new_frames(config: RunConfig) -> Tensor:
    return torch.zeros(B, 3, config.env.resolution, config.env.resolution, dtype=torch.uint8, device="cuda")


def new_tokens(agent: Agent, num_steps: int) -> Tensor:
    return torch.zeros(B, num_steps, agent.tokenizer.tokens_per_frame, dtype=torch.int64, device="cuda")


def new_actions(agent: Agent, num_steps: int) -> Tensor:
    return torch.zeros(B, num_steps, agent.actions.num_axes, dtype=torch.int64, device="cuda")


def imagine(agent: Agent, config: RunConfig, look: Callable | None = None) -> Rollout:
    """A batch of roll-outs for the policy to learn from: what a CUDA graph records, with the host out of reach."""
    past = config.imagination.burn_in if config.imagination.context == "burn_in" else 0
    world = agent.new_world(dtype=torch.bfloat16 if config.trainer.precision == "bf16" else torch.float32)
    imagination = Imagination(
        world, look or agent.look, agent.policy.choose, config.imagination, B, should_use_cuda_graph=False
    )
    inputs = (
        new_tokens(agent, past + 1),
        new_actions(agent, past),
        agent.start(B),
        row_seeds(0, B, "cuda"),
    )
    with DeviceOnly():
        return imagination.imagine(*inputs)


def test_acting(preset):
    agent = new_agent(preset)
    with DeviceOnly():
        obs_tokens = agent.tokenizer.encode(new_frames(preset))
        size = preset.env.resolution
        assert agent.tokenizer.decode(obs_tokens).shape == (B, 3, size, size)
        inputs = policy_inputs(agent.tokenizer, agent.policy, obs_tokens)
        seeds = row_seeds(0, B, "cuda")
        draw = Draw(seeds, torch.zeros_like(seeds)).of("action")
        assert devices(agent.policy.choose(inputs, agent.start(B), draw)) == {"cuda"}


def test_rollouts_of_presets(preset):
    assert devices(imagine(new_agent(preset), preset)) == {"cuda"}


@pytest.mark.parametrize(("window", "inputs"), [("restart", "frames"), ("slide", "tokens")])
@pytest.mark.parametrize(
    ("prediction", "positions"),
    [
        ("{kind: autoregressive}", "learned"),
        ("{kind: parallel}", "learned"),
        ("{kind: parallel, queries: current_step, attention: block_causal}", "rotary"),
        ("{kind: block}", "learned"),
        ("{kind: autoregressive}", "rotary"),
        ("{kind: block}", "rotary"),
    ],
    ids=["autoregressive", "parallel", "block-causal", "block", "rotary", "rotary-block"],
)
def test_rollouts_of_every_kind(prediction, positions, window, inputs, references):
    config = small(
        f"world.prediction={prediction}",
        f"world.positions={positions}",
        f"world.window={window}",
        f"policy.inputs={inputs}",
    )
    rollout = imagine(new_agent(config, 3, 2), config)
    assert devices(rollout) == {"cuda"}
    assert rollout.actions.shape == (B, 4, 2)


def test_token_cache(preset):
    """What an epoch needs of a replay is encoded and decoded, and read; which frames these are, the host knows."""
    agent, shape = new_agent(preset), (3, preset.env.resolution, preset.env.resolution)
    with NoWait():
        replay = Replay(10, agent.actions, shape, "cuda")
        replay._frames, replay._num_steps = torch.zeros(6, *shape, dtype=torch.uint8, device="cuda"), 6
        cache = TokenCache(agent.tokenizer)
        encode = torch.tensor([True, True, False, True, True, False])
        cache.fill(replay, encode, encode & (torch.arange(6) > 0))
        indices = torch.tensor([[0, 1], [3, 4]])
        segment = replay.gather(indices, indices > 0)
    with DeviceOnly():
        assert cache.obs_tokens(segment.frame_indices).shape == (2, 2, agent.tokenizer.tokens_per_frame)
        assert cache.reconstructions(segment.frame_indices).shape == (2, 2, *shape)
    assert devices(dataclasses.astuple(segment)) == {"cuda"}


def test_losses(preset, monkeypatch):
    check_losses(preset, monkeypatch)


def test_losses_in_bfloat16(monkeypatch):
    check_losses(small("trainer.precision=bf16"), monkeypatch)


def test_losses_with_rotary_positions(monkeypatch):
    check_losses(small("world.positions=rotary", "world.prediction=parallel"), monkeypatch)


def check_losses(preset: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training mode, but without gradients."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    # The library asks the device in every training pass whether its codes have values yet. The wait is known.
    monkeypatch.setattr(Codebook, "init_embed_", lambda self, data, mask=None: None)
    agent = new_agent(preset).train()
    frames, num_steps = new_frames(preset), preset.world.segment_steps
    with DeviceOnly(), torch.autocast("cuda", torch.bfloat16, enabled=preset.trainer.precision == "bf16"):
        tokenizer = agent.tokenizer
        assert torch.is_autocast_enabled("cuda") == (preset.trainer.precision == "bf16")
        losses = {}
        if isinstance(tokenizer, Tokenizer):
            output = tokenizer(frames)
            losses |= tokenizer_loss(output, tokenizer.normalize(frames), preset.tokenizer.loss)
            assert devices(codebook_usage(output.obs_tokens, tokenizer.quantizer.codebook_size)) == {"cuda"}

        tokens, actions = new_tokens(agent, num_steps), new_actions(agent, num_steps)
        rewards, events = torch.zeros(2, B, num_steps, device="cuda")
        output = agent.world(
            tokens[:, : preset.world.context_steps], actions[:, : preset.world.context_steps]
        )
        is_real = torch.ones_like(events, dtype=torch.bool)
        losses |= world_loss(agent.world, output, tokens, rewards, events > 0, is_real, preset.world.loss)

        inputs = policy_inputs(tokenizer, agent.policy, tokens)
        hidden, _ = agent.policy.sequence(inputs, agent.start(B), is_real)
        acted = agent.policy.heads(hidden)
        loss = preset.policy.loss
        targets = policy_targets(acted, actions, rewards, events > 0, loss).rows(
            torch.arange(B, device="cuda")
        )
        losses |= policy_loss(acted, actions, targets, loss)
    assert devices(losses) == {"cuda"}
    assert all(loss.shape == () for loss in losses.values())


FAULTS: dict[str, tuple[Callable[[Tensor], object], type[Exception]]] = {
    "reads a number": (lambda inputs: inputs.sum().item(), Waits),
    "asks whether": (lambda inputs: bool(inputs.any()), Waits),
    "compares": (lambda inputs: torch.equal(inputs, inputs), Waits),
    "selects by a mask": (lambda inputs: inputs[inputs > 0], Waits),
    "selects by a mask in one call": (lambda inputs: inputs.masked_select(inputs > 0), Waits),
    "writes to a mask": (lambda inputs: inputs.index_put((inputs > 0,), inputs.sum()), Waits),
    "finds places": (lambda inputs: inputs.nonzero(), Waits),
    "counts": (lambda inputs: torch.bincount(inputs.flatten().long(), minlength=4), Waits),
    "sorts out doubles": (lambda inputs: inputs.unique(), Waits),
    "repeats by numbers of the device": (
        lambda inputs: torch.repeat_interleave(inputs.flatten().long()),
        Waits,
    ),
    "adds a tensor of the host": (lambda inputs: inputs + torch.zeros(inputs.shape), OnTheHost),
    "indexes by a tensor of the host": (lambda inputs: inputs[torch.arange(B)], OnTheHost),
    "copies to the host": (lambda inputs: inputs.cpu(), Waits),
    "copies from the host": (lambda inputs: torch.tensor([1.0], device="cuda"), OnTheHost),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_in_a_rollout_is_found(fault):
    run, error = FAULTS[fault]
    config = small("world.prediction=parallel", "policy.inputs=tokens")
    agent = new_agent(config)

    def look(state: TokenState) -> Tensor:
        inputs = agent.look(state)
        run(inputs)
        return inputs

    with pytest.raises(error):
        imagine(agent, config, look)


def test_a_mixture_of_devices_is_found_without_the_mode():
    with pytest.raises(FakeTensorDeviceMismatchError, match="same device"):
        torch.zeros(B, device="cuda") + torch.zeros(B)
