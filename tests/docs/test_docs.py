"""The documentation: it builds without warnings, and every command and piece of Python in it is real."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from iris_wm.cli import build_parser
from iris_wm.config_file import apply_overrides, build_config, merge, read_yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [page.name for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Command lines in console and bash blocks, as words."""
    found = []
    for block in blocks(page, "(?:console|bash|sh)"):
        for line in block.replace("\\\n", " ").splitlines():
            text = line.removeprefix("$ ").split(" #")[0].strip()
            if text and (line.startswith("$ ") or re.match(r"(iris-wm|make|python|pip) ", text)):
                found.append(shlex.split(text))
    return found


def check_iris_wm(arguments: list[str]) -> None:
    """The parser takes the line; what it leaves to fit's config is a config of a run."""
    options, rest = build_parser().parse_known_args(arguments)
    if options.command != "fit":
        assert not rest, rest
        return
    from iris_wm.training.config import RunConfig

    mapping: dict = {}
    for file in options.config:
        mapping = merge(mapping, read_yaml(ROOT / file))
    build_config(RunConfig, apply_overrides(mapping, rest))


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_exist(page: Path):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(page):
        program, arguments = words[0], words[1:]
        if program == "iris-wm":
            check_iris_wm(arguments)
        elif program == "make":
            assert {word for word in arguments if "=" not in word} <= targets, words
        elif program == "python" and arguments[0].endswith(".py"):
            assert (ROOT / arguments[0]).is_file(), words


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_in_sentences_exist(page: Path):
    known = build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    for command in re.findall(r"`iris-wm ([a-z][\w-]*)", page.read_text()):
        assert command in known, command


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_imports_what_exists(page: Path):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("iris_wm"):
                module = __import__(node.module, fromlist=["_"])
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_that_are_named_exist(page: Path):
    for name in re.findall(
        r"(?<!\})`((?:configs|examples|benchmarks|notebooks)/[\w./-]+)`", page.read_text()
    ):
        assert (ROOT / name).exists(), name


def test_own_game_page_works(tmp_path: Path):
    """The page's environment is registered, passes the check, and a tiny run of it trains."""
    register, check, _ = blocks(ROOT / "docs" / "own_game.md", "python")[:3]
    tiny = (
        "from iris_wm.config_file import *\nfrom iris_wm.training.config import RunConfig\n"
        "from iris_wm.training.train import fit\n"
        "mapping = apply_overrides(read_yaml('configs/debug.yaml'), ['env.id=mine/Corridor-v0', "
        "'training.num_epochs=1', 'evaluation.every_epochs=0', 'trainer.num_threads=1'])\n"
        f"fit(build_config(RunConfig, mapping), {str(tmp_path / 'run')!r}, is_quiet=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([register, check, tiny])], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_site_builds_without_warnings(tmp_path: Path):
    pytest.importorskip("furo")
    pytest.importorskip("myst_nb")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for page in ("index", "how_it_works", "api", "notebooks/02_dream_an_episode"):
        assert (tmp_path / f"{page}.html").is_file()
