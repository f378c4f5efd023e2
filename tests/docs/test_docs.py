"""The documentation: it builds without warnings, its commands and its Python run, and what it names exists."""

import fnmatch
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from iris_wm import cli
from iris_wm.config import apply_overrides, build_config, merge
from iris_wm.strict_yaml import read_yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/atari100k/README.md"]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """Every line of the page's shell blocks, without prompt and comment."""
    lines = [
        line
        for block in blocks(page, "(?:console|bash|sh)")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    found = [shlex.join(shlex.split(line.removeprefix("$ "), comments=True)) for line in lines]
    return [command for command in found if command]


def distinct(found: list[str]) -> list[str]:
    """One of those that differ in nothing but the name of the run."""
    return list(
        {re.sub(r"\bruns/[\w-]+", "runs/NAME", command): command for command in found[::-1]}.values()
    )[::-1]


COMMANDS = distinct([command for page in PAGES for command in commands(page)])

# What a shown command is given besides, or instead, so that it takes seconds. The longest beginning that fits is taken.
ADDED = {
    "iris-wm fit --config": "--training.num_epochs 1 --collection.first_epoch_env_steps 20 --trainer.num_threads 1"
    " --tokenizer.optimization.first_epoch_steps 1 --tokenizer.optimization.batch_size 2"
    " --world.optimization.first_epoch_steps 1 --world.optimization.batch_size 2 --world.num_layers 1"
    " --policy.optimization.first_epoch_steps 1"
    " --quiet",
    "iris-wm fit --run": "",
    "iris-wm fit --run runs/demo --training.num_epochs 40": "--training.num_epochs 3",
    "iris-wm evaluate": "--episodes 1",
    "iris-wm dream": "--steps 4",
    "iris-wm report": "--episodes 1",
    "iris-wm evaluate-dream": "--episodes 1 --max-steps 30 --horizon 3 --starts 4",
    "iris-wm play": "--port 0",
    "iris-wm checkpoint": "",
    "iris-wm options": "",
    "iris-wm import": "",
    "iris-wm benchmark report": "--methods IRIS",
    "iris-wm benchmark atari100k": "--dry-run --output runs/new",  # tests/benchmark/test_real_jobs.py runs jobs
}
WRITTEN = {
    "iris-wm fit": "**/checkpoints/step-*",
    "iris-wm evaluate": "**/result.json",
    "iris-wm dream": "runs/*/dreams/*.gif",
    "iris-wm report": "runs/*/report/index.html",
    "iris-wm evaluate-dream": "runs/*/dream-quality/index.html",
    "iris-wm checkpoint export": "agents/demo/agent.safetensors",
    "iris-wm import": "agents/pong/agent.safetensors",
    "iris-wm benchmark report": "runs/*/report/report.html",
}
NOT_RUN = {
    "make demo": "twenty minutes; the commands that it consists of are run",
    "make test": "this is it",
    "make test-product": "this is it",
    "pip install *": "changes the environment",
    ".venv/bin/pip install *": "changes the environment",
    ".venv/bin/jupyter lab *": "opens a browser; tests/notebooks runs the notebooks",
    "ssh *": "needs another machine",
    "python examples/*": "tests/examples runs both, shortened",
    "make test-reliability": "40 minutes; make test runs its short form",
    "make test-learning": "six trainings of minutes each",
    "python benchmarks/*": "minutes to hours of measuring",
    "benchmarks/learning/three_seeds.sh *": "up to an hour; the commands that it consists of are run",
    "benchmarks/atari100k/*": "hours on a GPU; its rehearsal takes minutes and kills processes",
}


def beginning(command: str, table: dict[str, str]) -> str | None:
    """The longest key that the command begins with."""
    fitting = [key for key in table if f"{command} ".startswith(f"{key} ")]
    return max(fitting, key=len, default=None)


def will_run(command: str) -> bool:
    return not any(fnmatch.fnmatchcase(command, pattern) for pattern in NOT_RUN)


def shortened(command: str) -> list[str]:
    """The command's words with what ADDED says, in place of its own values of the same options."""
    key = beginning(command, ADDED)
    assert key is not None, "say in ADDED how to shorten it, or in NOT_RUN why it is not run"
    words, added = shlex.split(command), ADDED[key].split()
    for option in added:
        if option.startswith("--") and option in words:
            place = words.index(option)
            has_value = place + 1 < len(words) and not words[place + 1].startswith("--")
            del words[place : place + 1 + has_value]
    return words + added


SHORT_COMMANDS = {
    shlex.join(sorted(shortened(command))): command for command in COMMANDS if will_run(command)
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, golden_state: dict[str, torch.Tensor]) -> Path:
    """A folder like the repository's after work in it: configs, runs, a benchmark's output, a published checkpoint."""
    place = tmp_path_factory.mktemp("docs")
    (place / "configs").symlink_to(ROOT / "configs")
    short = ["--training.num_epochs", "2", "--trainer.num_threads", "1", "--quiet"]
    run = place / "runs" / "demo"
    assert cli.main(["fit", "--config", str(ROOT / "configs/debug.yaml"), "--run", str(run), *short]) == 0
    benchmark = place / "runs" / "mini"
    job = benchmark / "runs" / "Breakout-seed0"
    shutil.copytree(run, job)
    assert cli.main(["evaluate", str(job), "--episodes", "1", "--preset", "debug"]) == 0
    bench = [
        "benchmark",
        "atari100k",
        "--preset",
        "debug",
        "--games",
        "Breakout",
        "--seeds",
        "1",
        "--episodes",
        "1",
    ]
    override = ["--override", "training.num_epochs=2", "--output", str(benchmark)]
    assert cli.main([*bench, *override]) == 0  # finds its one job done
    for other in ("runs/pong-0", "OUTPUT/runs/Breakout-seed0"):
        shutil.copytree(run, place / other)
    torch.save(golden_state, place / "last_Pong.pt")
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current folder."""
    folder = tmp_path / "place"
    shutil.copytree(trained, folder, symlinks=True)
    monkeypatch.chdir(folder)
    # The benchmark asks a process of its own for the config of each preset; tests/benchmark lets it.
    monkeypatch.setattr("iris_wm.benchmark.launch.planned_env_steps", lambda *arguments: 1000)
    return folder


@pytest.mark.parametrize("command", SHORT_COMMANDS.values())
def test_command_runs(command: str, place: Path, capsys: pytest.CaptureFixture[str]):
    words = shortened(command)[1:]
    if command.startswith("iris-wm fit --config"):
        shutil.rmtree(words[words.index("--run") + 1], ignore_errors=True)
    if words[0] == "play":
        play(words, capsys)
        return
    started = time.time()
    assert cli.main(words) == 0, capsys.readouterr().err
    if words == ["fit", "--run", words[-1]]:
        assert "has finished" in capsys.readouterr().out
    elif written := beginning(command, WRITTEN):
        new = [path for path in place.glob(WRITTEN[written]) if path.stat().st_mtime > started - 1]
        assert new, f"no new {WRITTEN[written]}"


def play(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Serves in a thread until the page has been fetched from the announced address."""
    import httpx
    import uvicorn

    servers: list[uvicorn.Server] = []
    codes: list[int] = []

    class Noticed(uvicorn.Server):
        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            servers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uvicorn, "Server", Noticed)
        thread = threading.Thread(target=lambda: codes.append(cli.main(words)), daemon=True)
        thread.start()
        end = time.monotonic() + 60
        while not (servers and servers[0].started):
            assert thread.is_alive(), capsys.readouterr().err
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.05)
    (address,) = re.findall(r"http://\S+", capsys.readouterr().out)[:1]
    with httpx.Client(follow_redirects=True) as client:
        assert "Play the dream" in client.get(address).text
    servers[0].should_exit = True
    thread.join(20)
    assert codes == [0]


@pytest.mark.parametrize("command", [command for command in COMMANDS if not will_run(command)])
def test_command_that_is_not_run_exists(command: str):
    program, *arguments = shlex.split(command)
    if program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in arguments if "=" not in word} <= targets
    for word in (program, *arguments):
        if re.match(r"(examples|benchmarks|tests)/", word):
            assert (ROOT / word).exists(), word


def test_a_config_of_every_shown_fit_is_valid():
    """As shown, without what shortens it."""
    from iris_wm.runs.config import RunConfig

    for command in COMMANDS:
        if command.startswith("iris-wm fit --config"):
            options, rest = cli.build_parser().parse_known_args(shlex.split(command)[1:])
            mapping: dict = {}
            for file in options.config:
                mapping = merge(mapping, read_yaml(ROOT / file))
            build_config(RunConfig, apply_overrides(mapping, rest))


SHORTER = {
    "num_episodes=16": "num_episodes=1, max_steps=30",
    "horizon=50, name": "horizon=3, num_starts=4, name",
    '["env.id=mine/Corridor-v0"]': '["env.id=mine/Corridor-v0", *TINY]',
}
TINY = [
    word.replace(" ", "=") for word in ADDED["iris-wm fit --config"].removesuffix(" --quiet").split(" --")
]
TINY[0] = TINY[0].removeprefix("--")
PYTHON_PAGES = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_python_runs(page: Path, place: Path):
    """All blocks of a page, one after the other, as in one session."""
    names = {"TINY": TINY, "frames": torch.zeros(4, 3, 64, 64, dtype=torch.uint8)}
    for block in blocks(page, "python"):
        for text, shorter in SHORTER.items():
            block = block.replace(text, shorter)
        exec(block, names)


def test_what_shortens_python_is_there():
    text = "".join(block for page in PYTHON_PAGES for block in blocks(page, "python"))
    assert all(long in text for long in SHORTER)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_sentences_name_exists(page: Path):
    known = cli.build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    for command in re.findall(r"`iris-wm ([a-z][\w-]*)", page.read_text()):
        assert command in known, command
    for name in re.findall(
        r"(?<!\})`((?:configs|examples|benchmarks|notebooks)/[\w./-]+)`", page.read_text()
    ):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(iris_wm(?:\.[a-z_]\w*)+)`", page.read_text()):
        module = name if importlib.util.find_spec(name.rpartition(".")[0]) else ""
        assert module, name


def test_site_builds_without_warnings(tmp_path: Path):
    pytest.importorskip("furo")
    pytest.importorskip("myst_nb")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for page in ("index", "how_it_works", "api", "notebooks/02_dream_an_episode"):
        assert (tmp_path / f"{page}.html").is_file()
