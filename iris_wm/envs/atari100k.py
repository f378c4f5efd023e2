"""The 26 games of the Atari 100k benchmark (Kaiser et al., 2019: 100,000 steps of 4 emulator frames), by name."""

import difflib

# fmt: off
GAMES = (
    "Alien", "Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "Boxing", "Breakout", "ChopperCommand",
    "CrazyClimber", "DemonAttack", "Freeway", "Frostbite", "Gopher", "Hero", "Jamesbond", "Kangaroo", "Krull",
    "KungFuMaster", "MsPacman", "Pong", "PrivateEye", "Qbert", "RoadRunner", "Seaquest", "UpNDown",
)
# fmt: on
"""In alphabetical order. Their random and human scores are in evaluation/published."""


def suggest(name: str, known: tuple[str, ...]) -> str:
    """What may have been meant by an unknown name, whatever its case, and the list of the benchmark."""
    by_key = {_key(each): each for each in known}
    close = difflib.get_close_matches(_key(name), by_key, n=3, cutoff=0.6)
    meant = "did you mean " + " or ".join(f'"{by_key[key]}"' for key in close) + "? " if close else ""
    return f"{meant}Atari 100k has {', '.join(GAMES)}"


def _key(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())
