"""The argument parser of all commands."""

import argparse
from collections.abc import Callable
from typing import Any


class Parser(argparse.ArgumentParser):
    """Takes no abbreviations; `more_help` gives what help shows at its end, and is called only then."""

    more_help: Callable[[], str] | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def format_help(self) -> str:
        """What --help prints."""
        return super().format_help() + (f"\n{self.more_help()}" if self.more_help else "")
