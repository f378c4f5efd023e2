"""One stage in its own process: what it has found is on disk after every case, whatever becomes of the next one."""

import argparse
import importlib
import json
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from timing import environment

MARGIN = 3.0  # seconds before the deadline after which no further case begins


class Stage:
    """Runs cases one by one. is_small: on a CPU, as a rehearsal.

    A case is done, failed (its first error line is kept, the others go on) or left out for want of time.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.is_small = self.device.type == "cpu"
        self.game: str = options.game
        self.work: Path = options.work
        self._file: Path = options.file
        self._deadline: float = options.deadline
        old = json.loads(self._file.read_text())["cases"]
        self._done = {case["name"]: case for case in old if case["status"] == "done"}
        where = environment(self.device)
        where["commit"] = options.commit or where["commit"]
        self._found: dict[str, Any] = {
            "environment": where | {"cuda": torch.version.cuda or "none"},
            "running": None,
            "cases": [],
        }

    def seconds_left(self) -> float:
        """Until no further case begins."""
        return self._deadline - MARGIN - time.time()

    def case(self, name: str, work: Callable[..., dict[str, Any] | None], *arguments: Any) -> dict[str, Any]:
        """Do the work and keep the numbers that it returns; never raises. What an earlier try has done stays."""
        if name in self._done:
            return self._keep(self._done[name])
        if self.seconds_left() <= 0:
            return self._keep({"name": name, "status": "left out"})
        self._found["running"] = name
        self._save()
        started, case = time.monotonic(), {"name": name, "status": "done"}
        with self.guard(name), warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always", RuntimeWarning)
            case |= work(*arguments) or {}
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            if told := sorted(
                {str(warning.message).splitlines()[0] for warning in heard if _is_ours(warning)}
            ):
                case["warnings"] = told
            case["case_seconds"] = round(time.monotonic() - started, 2)
            self._keep(case)
        return self._found["cases"][-1]

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """What fails meanwhile is kept as a failed case; the stage ends only if the GPU cannot be used any more."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self._keep({"name": name, "status": "failed", "error": f"{name}: {_first_line(error)}"})
            if self.device.type == "cuda":
                torch.cuda.synchronize()  # raises then

    def _keep(self, case: dict[str, Any]) -> dict[str, Any]:
        self._found["running"] = None
        self._found["cases"].append(case)
        self._save()
        print(json.dumps(case), flush=True)
        return case

    def _save(self) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self._found))
        new.replace(self._file)

    @property
    def has_failed(self) -> bool:
        """Whether any case has."""
        return any(case["status"] == "failed" for case in self._found["cases"])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def _is_ours(warning: warnings.WarningMessage) -> bool:
    """Whether it says that a kernel gave way to its reference, or something else of our own code."""
    return "iris" in f"{warning.filename} {warning.message}"


def main() -> None:
    """The command line, which run.py alone uses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    for name in ("device", "game", "commit"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--deadline", type=float, help="of time.time()")
    parser.add_argument("--file", type=Path)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU; --device cpu rehearses")
    if options.device == "cpu":
        torch.set_num_threads(1)
    stage = Stage(options)
    importlib.import_module(options.name).run(stage)
    print(end="", flush=True)
    os._exit(int(stage.has_failed))  # all is on disk; taking everything down in order takes seconds


if __name__ == "__main__":
    main()
