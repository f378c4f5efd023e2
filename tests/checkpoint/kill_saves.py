"""Kills a process that saves in a loop, again and again, and checks after each kill what a restart finds.

    python tests/checkpoint/kill_saves.py RUN_FOLDER KILLS [SEED]

Prints one JSON line: kills, saves that had returned, starts, saves lost, temporaries left, and the last step.
Exits with an exception at the first checkpoint that is lost, torn or not loadable.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from iris_wm.checkpoint.folder import Checkpoint, resume, save_checkpoint
from iris_wm.checkpoint.run_folder import RunFolder

IDENTITY = {"seed": 0}
WEIGHTS = 300_000


class Replay:
    """Three steps of the environment per save, their contents following from their index."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def export_steps(self, start: int, stop: int) -> dict[str, torch.Tensor]:
        index = torch.arange(start, stop)
        frames = (index % 251).to(torch.uint8)[:, None, None, None].expand(-1, 3, 64, 64)
        return {"frames": frames.contiguous(), "actions": index % 4}


def save_until_killed(path: Path, acknowledge: int) -> None:
    """Continues the run at ``path`` for ever, writing each step to a pipe when its save has returned."""
    with RunFolder(path, IDENTITY, "seed: 0\n") as run:
        checkpoint = resume(run)
        step = checkpoint.manifest.step if checkpoint else 0
        while True:
            step += 1
            run.metrics.append(step, 0, {"step": step})
            save_checkpoint(
                run,
                step=step,
                env_steps=3 * step,
                epoch=0,
                agent={"weight": torch.full((WEIGHTS,), float(step))},
                agent_config={},
                training={"step": step, "moment": torch.full((WEIGHTS,), -float(step))},
                replay=Replay(3 * step),
                score=float(step % 7),
            )
            os.write(acknowledge, step.to_bytes(8, "little"))


def check(checkpoint: Checkpoint) -> int:
    """The checkpoint's step, after every part of it was found to be of that step."""
    step = checkpoint.manifest.step
    assert checkpoint.training["step"] == step, "torn"
    assert torch.equal(checkpoint.agent["weight"], torch.full((WEIGHTS,), float(step))), "torn"
    assert torch.equal(checkpoint.training["moment"], torch.full((WEIGHTS,), -float(step))), "torn"
    parts = list(checkpoint.replay_parts())
    for name, column in Replay(3 * step).export_steps(0, 3 * step).items():
        assert torch.equal(torch.cat([part[name] for part in parts]), column), (
            "the replay is not that of the step"
        )
    lines = (checkpoint.folder.parent.parent / "metrics.csv").read_text().splitlines()
    assert lines[1:] == [f"{number},0,step,{float(number)!r}" for number in range(1, step + 1)], "metrics"
    return step


def main(path: Path, kills: int, seed: int) -> None:
    chooser = random.Random(seed)
    counts = {"kills": 0, "saves": 0, "starts": 0, "lost": 0, "temporaries": 0, "step": 0}
    acknowledged = 0
    while counts["kills"] < kills:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            save_until_killed(path, writer)
        os.close(writer)
        time.sleep(chooser.uniform(0.0, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        counts["kills"] += 1
        while data := os.read(reader, 8):
            acknowledged = int.from_bytes(data, "little")
            counts["saves"] += 1
        os.close(reader)
        with RunFolder(path, IDENTITY, "seed: 0\n") as run:
            checkpoint = resume(run)
            counts["starts"] += 1
            counts["step"] = check(checkpoint) if checkpoint else 0
            assert checkpoint is None or not checkpoint.skipped, checkpoint.skipped
            counts["lost"] += counts["step"] < acknowledged
            counts["temporaries"] += sum(1 for found in path.rglob("*") if found.name.startswith(".tmp-"))
            referenced = {entry.name for entry in run.segments}
            assert {found.name for found in run.replay.iterdir()} == referenced, "segments left over"
    print(json.dumps(counts))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
