"""`iris-wm options`: every key of the config with its type, its default and what it means.

The text is the docstring of the config's field. jsonargparse was tried for `fit` and not taken: it refuses `--sed=1`
without naming `seed`, loses the section of an error that a dataclass raises, reads `010` as a number, chooses the
member of a union by an import path, and adds 0.3 s; the keys' help, its gain, is the 40 lines below.
"""

import argparse
import textwrap

HELP = "every key of the config: type, default, meaning"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument(
        "section", nargs="?", default="", metavar="SECTION", help="such as world (default: all)"
    )
    parser.add_argument("--markdown", action="store_true", help="as the page docs/options.md")


def run(options: argparse.Namespace) -> int:
    """Print them."""
    print(markdown() if options.markdown else text(options.section), end="")
    return 0


def text(section: str = "") -> str:
    """The options of a section, or all, for a terminal."""
    from iris_wm.config import describe
    from iris_wm.runs.config import RunConfig

    lines = []
    for group in describe(RunConfig()):
        chosen = [
            option
            for option in group.options
            if not section or option.key == section or option.key.startswith(f"{section}.")
        ]
        if chosen:
            lines += [f"{group.key or 'the run'}: {group.help}", ""]
        for option in chosen:
            lines.append(f"  --{option.key}  {option.type} (default: {option.default})")
            lines += [*textwrap.wrap(option.help, 100, initial_indent=" " * 6, subsequent_indent=" " * 6), ""]
    if not lines:
        names = ", ".join(group.key for group in describe(RunConfig()) if group.key)
        raise ValueError(f"section: got {section!r}, expected one of {names}")
    return "\n".join(lines)


def markdown() -> str:
    """All options as a page of the documentation."""
    from iris_wm.config import describe
    from iris_wm.runs.config import RunConfig

    lines = [
        "# Options",
        "",
        "Every key of a config. In YAML they are nested, on the command line dotted: `--world.num_layers 4`.",
        "`iris-wm options world` prints a section.",
    ]
    for group in describe(RunConfig()):
        lines += ["", f"## {group.key or 'The run'}", "", group.help, ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for option in group.options:
            cells = (f"`{option.key}`", option.type, f"`{option.default}`", option.help)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])
