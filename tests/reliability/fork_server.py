"""Starts iris-wm processes by forking, so that a test of many starts does not import torch for each.

    python tests/reliability/fork_server.py

Reads one JSON object a line: {"arguments": [...], "output": FILE, "hook": {...} or null} starts a process and
answers {"pid": ...}; {"wait": PID} answers {"code": ..., "cpu": seconds of processor time}, the code being minus the
signal's number for a process that was killed.

A hook makes the process do something to itself at one place: {"place": ..., "call": N, "what": ..., "note": FILE}.
The N-th time that the place is reached, what happens is: "SIGTERM", "SIGTERM twice", ... (the time goes to the
note), "exit" (as if the power failed), "sleep", or an injected number or error.
"""

import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard  # only so that every process finds it loaded

from iris_wm import __main__, acting, collection
from iris_wm.benchmark import launch as launch
from iris_wm.checkpoint import durable
from iris_wm.policy.learner import PolicyLearner
from iris_wm.tokenizer import token_cache
from iris_wm.tokenizer.learner import TokenizerLearner
from iris_wm.training import module, train
from iris_wm.world.learner import WorldLearner

PLACES: dict[str, tuple[Any, str]] = {
    "collection": (acting.Players, "_step_env"),
    "tokenizer": (TokenizerLearner, "losses"),
    "cache": (token_cache.TokenCache, "fill"),
    "world": (WorldLearner, "losses"),
    "policy": (PolicyLearner, "losses"),
    "evaluation": (module, "evaluate"),
    "save": (durable, "write_file"),
    "step": (module.IrisModule, "training_step"),
    "optimize": (module.IrisModule, "_optimize"),
    "collect": (collection.Collector, "collect"),
    "start": (train, "build_trainer"),
}


def poison(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        tensor.view(-1)[0] = float("nan")


def act(hook: dict[str, Any], arguments: tuple[Any, ...]) -> None:
    """What happens at the place."""
    what: str = hook["what"]
    if hook.get("note"):
        Path(hook["note"]).write_text(repr(time.monotonic()))
    if what.startswith("SIG"):
        name, _, twice = what.partition(" ")
        number = signal.Signals[name]
        if twice:
            threading.Timer(hook.get("after", 0.1), os.kill, (os.getpid(), number)).start()
        os.kill(os.getpid(), number)
    elif what == "exit":
        os._exit(9)
    elif what == "raise":
        raise RuntimeError("injected")
    elif what == "sleep":
        time.sleep(60)
    elif what == "disk full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif what == "codebook":
        poison(arguments[0].agent.tokenizer.quantizer.codebook)
    elif what == "parameter":
        poison(next(arguments[0].agent.world.parameters()))
    elif what == "loss":
        losses = arguments[3]
        name = next(iter(losses))
        losses[name] = losses[name] * float("nan")
    elif what == "gradient":
        parameter = next(arguments[2].network.parameters())
        parameter.register_hook(lambda gradient: gradient * float("inf"))
    elif what == "latent":
        tokenizer = arguments[0].agent.tokenizer
        original = tokenizer.latents
        tokenizer.latents = lambda frames: original(frames) * float("nan")
    elif what == "logits":
        policy = arguments[0].agent.policy
        policy.actor.register_forward_pre_hook(lambda layer, inputs: inputs[0] * float("nan"))
    elif what == "world model logits":
        head = arguments[0].agent.world.observation_head
        head.register_forward_hook(lambda layer, inputs, output: output * float("nan"))
    elif what == "imagined logits":
        head = arguments[0].agent.world.reward_head
        head.register_forward_hook(lambda layer, inputs, output: output * float("inf"))
    elif what == "reward":
        env = arguments[0].players.envs[0]
        original_step: Callable[..., Any] = env.step

        def step(action: int) -> Any:
            observation, _, *rest = original_step(action)
            return (observation, float("nan"), *rest)

        env.step = step
    else:
        raise ValueError(what)


def install(hook: dict[str, Any]) -> None:
    """Put the hook at its place."""
    owner, name = PLACES[hook["place"]]
    original = getattr(owner, name)
    calls = []

    def wrapped(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == hook.get("call", 1):
            act(hook, arguments)
        return original(*arguments, **options)

    setattr(owner, name, wrapped)


def become(request: dict[str, Any]) -> int:
    """The forked child's life."""
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(output, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
    sys.argv = ["iris-wm", *request["arguments"]]
    if request.get("hook"):
        install(request["hook"])
    return __main__.main()


def serve() -> int:
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status, used = os.wait4(request["wait"], 0)
            cpu = used.ru_utime + used.ru_stime
            print(json.dumps({"code": os.waitstatus_to_exitcode(status), "cpu": cpu}), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            return become(request)
        print(json.dumps({"pid": pid}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(serve())
