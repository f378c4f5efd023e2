"""The README tells the truth: its commands exist, its Python runs, its files are there."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from iris_wm.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("iris-wm ")])
def test_commands_parse(command):
    arguments = shlex.split(command)[1:]
    _, rest = build_parser().parse_known_args(arguments)
    assert arguments[0] == "fit" or not rest
    for name, value in pairwise(arguments):
        if name == "--config":
            assert (ROOT / value).is_file()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = [line.split()[1] for line in COMMANDS if line.startswith("make ")]
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_python_example_runs(tiny_agent, tmp_path, monkeypatch):
    agent = tiny_agent()
    agent.save(tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    (example,) = [block for language, block in BLOCKS if language == "python"]
    example = example.replace('EnvConfig(id="Freeway")', 'EnvConfig(id="iris_wm/Catch-v0")')
    names: dict = {}
    exec(example, names)
    assert 1 <= len(names["dream"]) <= 50


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_tree_is_the_tree():
    (tree,) = [block for language, block in BLOCKS if language == "" and "iris_wm/" in block]
    folder = ROOT
    for line in tree.splitlines():
        name = line.split()[0]
        folder = ROOT / "iris_wm" if line.startswith("  ") else ROOT
        for each in [name] if line.startswith("  ") else re.findall(r"^(\w+/)|  (\w+/)", line):
            path = each if isinstance(each, str) else next(filter(None, each))
            assert (folder / path).exists(), path
