"""The measures of the house: how long the package is, how far a frame travels, and what exists more than once.

python benchmarks/house.py        # or make house
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "iris_wm"
WAY = ROOT / "docs" / "how_it_works.md"


def sources(*rooms: str) -> dict[str, str]:
    """Text of the package's Python files, or of some rooms', by their path within it."""
    paths = sorted(path for room in rooms or ("",) for path in (PACKAGE / room).rglob("*.py"))
    return {str(path.relative_to(PACKAGE)): path.read_text() for path in paths}


def frames_way() -> list[str]:
    """The files that how_it_works.md lists on a frame's way from the emulator to an action and back."""
    block = WAY.read_text().split("<!-- way: begin -->")[1].split("<!-- way: end -->")[0]
    files = re.findall(r"`([\w/]+\.py)`", block)
    missing = [file for file in files if not (PACKAGE / file).is_file()]
    assert not missing, f"{WAY}: {missing} do not exist"
    assert len(files) == len(set(files)), f"{WAY}: a file is listed twice"
    return files


def places(pattern: str, texts: dict[str, str]) -> list[str]:
    """file:line of every line that the pattern is found in."""
    return [
        f"{name}:{number}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]


def measures() -> dict[str, tuple[int, int, list[str]]]:
    """Name -> (figure, aim, where)."""
    texts = sources()
    outside_envs = {name: text for name, text in texts.items() if not name.startswith("envs/")}
    dreaming = sources("dream", "play", "evaluation", "policy", "reports")
    opening = {name: text for name, text in texts.items() if not name.startswith("checkpoint/")}
    lines = sum(len(text.splitlines()) for text in texts.values())
    return {
        "lines of iris_wm": (lines, 15_000, []),
        "Python files on a frame's way": (len(way := frames_way()), 22, way),
        "places that step an environment": _found(r"\benvs?(\[\w+\])?\.step\(", outside_envs, 1),
        "places that step a world: learning's and people's": _found(r"\bworld\.step\(", outside_envs, 2),
        "places that look for a run's newest checkpoint": _found(r"(?<!import )\bload_newest\(", opening, 3),
        "accesses to private parts of a world": _found(r"\b(world|network)\._", dreaming, 0),
        "networks dispatched by name": _found(r"getattr\([^)]*\b(component|network|name)\)", sources("training"), 0),
        "files over 400 lines": (
            len(long := [name for name, text in texts.items() if len(text.splitlines()) > 400]), 0, long,
        ),
    }  # fmt: skip


def _found(pattern: str, texts: dict[str, str], aim: int) -> tuple[int, int, list[str]]:
    found = places(pattern, texts)
    return len(found), aim, found


if __name__ == "__main__":
    for name, (figure, aim, where) in measures().items():
        print(f"{name}: {figure:,} (aim: at most {aim:,})")
        for each in where:
            print(f"    {each}")
