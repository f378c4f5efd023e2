"""The first quarter of an hour on a GPU: one command that checks and measures everything that only a GPU can show.

python benchmarks/gpu/run.py --minutes 9 --output FOLDER             # again with --resume: only what is missing
python benchmarks/gpu/run.py --device cpu --minutes 3 --output /tmp/rehearsal

Every stage is a process of its own with its own time limit; none stops the next. FOLDER gets results.json, summary.md
and log.txt, renewed after each stage. What may be thrown away (runs, whole logs) lies in FOLDER-work.
This file imports nothing but Python's own library, so that a broken installation shows as failed stages.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Seconds at most of each stage; the last one has whatever is left.
STAGES = {
    "machine": 20,
    "numerics": 90,
    "graphs": 60,
    "train": 60,
    "kernel_times": 90,
    "throughput": 120,
    "learn": 600,
}
SHOWS = {
    "machine": "versions, memory, clocks; the two ceilings: a large copy, a large bf16 product",
    "numerics": "every kernel against its reference; the golden vectors",
    "graphs": "roll-outs: captured equals eager, seeds, fresh weights, no wait for the host",
    "train": "ten steps of each network of each preset: finite, bf16 against float32, memory; stop and resume",
    "kernel_times": "each kernel at every preset's shapes, beside stock PyTorch and the model",
    "throughput": "imagined steps a second, updates, acting, against the eager reference",
    "learn": "the fast preset on one game",
}
LEAST = 0.2  # of all the time, for the last stage
GRACE = 5.0  # seconds to end by itself after the limit
LOG_BYTES = 1_000_000  # of each stage in log.txt


def limit_of(stage: str, to_do: list[str], seconds_left: float, seconds: float, is_rehearsal: bool) -> float:
    """Seconds for a stage: its own, or its share where too little is left for all that is still to do.

    seconds: of the whole budget. A rehearsal's stages are small, its machine may be slow: each has all that is left.
    """
    if is_rehearsal:
        return max(1.0, seconds_left - GRACE)
    if stage == to_do[-1]:
        return max(1.0, min(STAGES[stage], seconds_left - GRACE))
    planned = sum(STAGES[name] for name in to_do if name != "learn")
    share = (seconds_left - (LEAST * seconds if "learn" in to_do else 0.0)) / planned
    return max(1.0, STAGES[stage] * min(1.0, share))


def run_stage(
    stage: str, options: argparse.Namespace, limit: float, previous: dict[str, Any]
) -> dict[str, Any]:
    """Run one stage to its end or its limit; what it found."""
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    file, log = work / f"{stage}.json", work / f"{stage}.log"
    file.write_text(json.dumps({"cases": previous.get("cases", [])}))
    paths = [ROOT, ROOT / "kernels", ROOT / "benchmarks/speed", ROOT / "kernels/benchmarks"]
    old = os.environ.get("PYTHONPATH")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *([old] if old else [])]),
        "PYTHONUNBUFFERED": "1",
    }
    command = [
        *(sys.executable, str(ROOT / "benchmarks/gpu/stage.py"), stage),
        *("--device", options.device, "--deadline", f"{time.time() + limit:.1f}", "--file", str(file)),
        *("--work", str(work), "--game", options.game, "--commit", options.commit),
    ]
    started, error = time.monotonic(), ""
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit + GRACE)
        except subprocess.TimeoutExpired:
            code, error = -1, f"killed after {limit + GRACE:.0f} s"
        finally:
            end_group(process)
    found = read(file) or {}
    cases = found.get("cases", [])
    failed = [case for case in cases if case["status"] == "failed"]
    if code and not error:
        error = failed[0]["error"] if failed else last_line(log) or f"ended with code {code}"
    if running := found.get("running"):
        error = f"{running}: {error or 'did not end'}"
    left_out = sum(case["status"] == "left out" for case in cases)
    status = (
        "failed" if error else "in part" if left_out else "rehearsed" if options.device == "cpu" else "passed"
    )
    return {
        "status": status,
        "error": error,
        "seconds": round(time.monotonic() - started, 1),
        "limit": round(limit, 1),
        "environment": found.get("environment", {}),
        "cases": cases,
    }


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the stage and every process that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read(file: Path) -> Any:
    """A JSON file, or None where there is none that can be read."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def last_line(log: Path) -> str:
    """The last that a process has printed: the error's own line of a traceback."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def write(file: Path, text: str) -> None:
    """The whole file or the old one, whenever this process is killed."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def summary(results: dict[str, Any]) -> str:
    """Markdown: a line a stage."""
    lines = ["| stage | | s | cases | what it shows | first error |", "|---|---|---|---|---|---|"]
    for stage in STAGES:
        found = results["stages"].get(stage)
        if found is None:
            lines.append(f"| {stage} | missing | | | {SHOWS[stage]} | |")
            continue
        counts = [case["status"] for case in found["cases"]]
        text = ", ".join(f"{counts.count(status)} {status}" for status in dict.fromkeys(counts))
        error = found["error"].replace("|", "\\|")
        lines.append(
            f"| {stage} | **{found['status']}** | {found['seconds']:.0f} | {text} | {SHOWS[stage]} | {error} |"
        )
    where = [found["environment"] for found in results["stages"].values() if found["environment"]]
    about = ", ".join(f"{key} {value}" for key, value in where[-1].items()) if where else "nothing has run"
    return f"# A first look at a GPU\n\n{about}\n\n" + "\n".join(lines) + "\n"


def whole_log(work: Path) -> str:
    """The ends of all stages' logs."""
    parts = []
    for stage in STAGES:
        if (log := work / f"{stage}.log").exists():
            text = log.read_text(errors="replace")[-LOG_BYTES:]
            parts.append(f"==== {stage} ====\n{text}")
    return "\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Run the stages; 0 if none failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="default: FOLDER-work beside it")
    parser.add_argument("--resume", action="store_true", help="run only what is missing, failed or left out")
    parser.add_argument("--only", choices=STAGES, metavar="STAGE", help=f"one of {', '.join(STAGES)}")
    parser.add_argument("--game", default="Boxing", help="that is played and learned")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a small rehearsal")
    parser.add_argument("--commit", default="", help="of the code, where there is no git to ask")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    folder: Path = options.output.absolute()
    options.work = (options.work or folder.with_name(f"{folder.name}-work")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    results = (read(folder / "results.json") if options.resume or options.only else None) or {"stages": {}}
    done = ("passed", "rehearsed") if options.resume else ()
    to_do = [options.only] if options.only else list(STAGES)
    to_do = [name for name in to_do if results["stages"].get(name, {}).get("status") not in done]
    while to_do:
        stage, left = to_do[0], deadline - time.monotonic()
        limit = limit_of(stage, to_do, left, 60 * options.minutes, options.device == "cpu")
        print(f"{stage}: {limit:.0f} s at most, {left:.0f} s left", flush=True)
        previous = results["stages"].get(stage, {}) if options.resume else {}
        found = results["stages"][stage] = run_stage(stage, options, limit, previous)
        write(folder / "results.json", json.dumps(results, indent=1) + "\n")
        write(folder / "summary.md", summary(results))
        write(folder / "log.txt", whole_log(options.work))
        print(f"{stage}: {found['status']} in {found['seconds']:.0f} s {found['error']}", flush=True)
        del to_do[0]
    print(summary(results))
    return int(any(found["status"] == "failed" for found in results["stages"].values()))


if __name__ == "__main__":
    sys.exit(main())
