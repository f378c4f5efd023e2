"""The Atari 100k benchmark: its 26 games and the scores that normalise returns.

The benchmark is from Kaiser et al. (2019): 100,000 steps of 4 emulator frames. The scores are those that the
papers of the benchmark share (human: Mnih et al., 2015), with the values of github.com/eloialonso/iris,
results/data/RANDOM.json and HUMAN.json; github.com/danijar/dreamerv3 has the same.
"""

import difflib
import math

RANDOM_SCORES: dict[str, float] = {
    "Alien": 227.8,
    "Amidar": 5.8,
    "Assault": 222.4,
    "Asterix": 210.0,
    "BankHeist": 14.2,
    "BattleZone": 2360.0,
    "Boxing": 0.1,
    "Breakout": 1.7,
    "ChopperCommand": 811.0,
    "CrazyClimber": 10780.5,
    "DemonAttack": 152.1,
    "Freeway": 0.0,
    "Frostbite": 65.2,
    "Gopher": 257.6,
    "Hero": 1027.0,
    "Jamesbond": 29.0,
    "Kangaroo": 52.0,
    "Krull": 1598.0,
    "KungFuMaster": 258.5,
    "MsPacman": 307.3,
    "Pong": -20.7,
    "PrivateEye": 24.9,
    "Qbert": 163.9,
    "RoadRunner": 11.5,
    "Seaquest": 68.4,
    "UpNDown": 533.4,
}
"""Mean return of uniformly random actions, by game."""

HUMAN_SCORES: dict[str, float] = {
    "Alien": 7127.7,
    "Amidar": 1719.5,
    "Assault": 742.0,
    "Asterix": 8503.3,
    "BankHeist": 753.1,
    "BattleZone": 37187.5,
    "Boxing": 12.1,
    "Breakout": 30.5,
    "ChopperCommand": 7387.8,
    "CrazyClimber": 35829.4,
    "DemonAttack": 1971.0,
    "Freeway": 29.6,
    "Frostbite": 4334.7,
    "Gopher": 2412.5,
    "Hero": 30826.4,
    "Jamesbond": 302.8,
    "Kangaroo": 3035.0,
    "Krull": 2665.5,
    "KungFuMaster": 22736.3,
    "MsPacman": 6951.6,
    "Pong": 14.6,
    "PrivateEye": 69571.3,
    "Qbert": 13455.0,
    "RoadRunner": 7845.0,
    "Seaquest": 42054.7,
    "UpNDown": 11693.2,
}
"""Mean return of a professional games tester, by game."""

GAMES: tuple[str, ...] = tuple(RANDOM_SCORES)
"""The 26 games in alphabetical order."""


def human_normalized_score(game: str, episode_return: float) -> float:
    """(return - random) / (human - random): 0 for a random policy, 1 for the human; ValueError off the list."""
    if game not in RANDOM_SCORES:
        raise ValueError(f'game "{game}": no random and human scores; {suggest(game, GAMES)}')
    if isinstance(episode_return, bool) or not math.isfinite(episode_return):
        raise ValueError(f"{game}: return: expected a finite number, got {episode_return!r}")
    return (episode_return - RANDOM_SCORES[game]) / (HUMAN_SCORES[game] - RANDOM_SCORES[game])


def suggest(name: str, known: tuple[str, ...]) -> str:
    """What may have been meant by an unknown name, whatever its case, and the list of the benchmark."""
    by_key = {_key(each): each for each in known}
    close = difflib.get_close_matches(_key(name), by_key, n=3, cutoff=0.6)
    meant = "did you mean " + " or ".join(f'"{by_key[key]}"' for key in close) + "? " if close else ""
    return f"{meant}Atari 100k has {', '.join(GAMES)}"


def _key(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())
