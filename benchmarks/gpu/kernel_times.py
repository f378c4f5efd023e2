"""Each kernel at the shapes of every preset, in its precision, beside stock PyTorch and what the model says."""

import importlib
import math
from typing import Any

import torch
from presets import FILES, preset
from stage import Stage
from timing import Case, Shape, least_us, microseconds, model_us

from iris_wm.runs.config import RunConfig
from iris_wm.tokenizer.patches import PatchesConfig
from iris_wm.tokenizer.tokenizer import FiniteScalarQuantizerConfig

KERNELS = ("decode_layers", "attention", "head_sample", "group_norm_silu")
IN_BOTH = "iris"  # the other one after all else


def run(stage: Stage) -> None:
    """The presets from the largest to the smallest."""
    names = ["debug"] if stage.is_small else list(FILES)
    work = [(name, preset(name).trainer.precision == "bf16") for name in names]
    work += [(IN_BOTH, True)] if IN_BOTH in names else []
    for name, is_bfloat16 in work:
        shape = shape_of(preset(name))
        if stage.is_small:
            shape = shape._replace(batch=2, games=2, frames=2)
        for kernel in KERNELS:
            with stage.guard(f"{name}: {kernel}: inputs"):
                dtype = torch.bfloat16 if is_bfloat16 else torch.float32
                for case in importlib.import_module(kernel).cases(stage.device, dtype, shape, True):
                    title = f"{kernel}: {case.shape}: {case.rival}"
                    stage.case(f"{name}: {title}", _measure, stage, name, kernel, case)
            torch.set_grad_enabled(True)  # the scripts of kernels without gradients switch them off


def shape_of(config: RunConfig) -> Shape:
    """What a run of the config asks of the kernels; a pass in the middle of the context stands for all."""
    world, tokenizer, is_parallel = config.world, config.tokenizer, config.world.is_parallel
    if isinstance(tokenizer, PatchesConfig):  # no kernels of its own
        tokens, num_codes, frames, maps = tokenizer.tokens_per_frame, tokenizer.codebook_size, 1, ()
    else:
        autoencoder, quantizer = tokenizer.autoencoder, tokenizer.quantizer
        is_fsq = isinstance(quantizer, FiniteScalarQuantizerConfig)
        num_codes = math.prod(quantizer.levels) if is_fsq else quantizer.codebook_size
        channels = [autoencoder.channels * times for times in autoencoder.channel_multipliers]
        tokens, frames = autoencoder.latent_resolution**2, tokenizer.optimization.batch_size
        maps = tuple(zip(channels, autoencoder.stage_resolutions, strict=True))
    return Shape(
        num_layers=world.num_layers,
        width=world.embed_dim,
        num_heads=world.num_heads,
        num_codes=num_codes,
        tokens_per_frame=tokens,
        num_steps=world.context_steps,
        is_parallel=is_parallel,
        masks=("parallel" if is_parallel else "causal",),
        positions=((tokens + 1) * (world.context_steps // 2),),
        batch=world.optimization.batch_size,
        games=config.policy.optimization.batch_size,
        frames=frames,
        maps=maps,
    )


def _measure(stage: Stage, name: str, kernel: str, case: Case) -> dict[str, Any]:
    """Microseconds cold and from a graph; what the model expects of a graph, and the least there can be."""
    times = microseconds(case.run, stage.device)
    if all(isinstance(value, str) for value in times.values()):
        raise RuntimeError("; ".join(f"{name}: {value}" for name, value in times.items()))
    return {
        "preset": name,
        "kernel": kernel,
        "shape": case.shape,
        "rival": case.rival,
        "us": times,
        "model_us": model_us(case),
        "least_us": least_us(case),
    }
