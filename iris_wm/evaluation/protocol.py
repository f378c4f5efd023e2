"""The fixed protocol of the Atari 100k benchmark, and how a run's record differs from it."""

from iris_wm.evaluation.result import RunResult

ENV_STEPS = 100_000
EPISODES = 100

# IRIS evaluates the final agent on 100 whole games, sampling at temperature 0.5, without random actions.
FINAL_EVALUATION: dict[str, object] = {
    "episodes": EPISODES,
    "policy_temperature": 0.5,
    "epsilon": 0.0,
    "sticky_actions": 0.0,
    "max_emulator_frames": 108_000,
    "full_games": True,
}


def refusal(result: RunResult) -> str | None:
    """Why a run may not stand in a table at all, or None: it learned from more than 100,000 agent steps."""
    if result.env_steps > ENV_STEPS:
        return (
            f"{result.game} seed {result.seed}: refused, it took {result.env_steps:,} env steps "
            f"and Atari 100k allows {ENV_STEPS:,}"
        )
    return None


def differences(result: RunResult) -> list[str]:
    """What of a run is not as the protocol says, in words; to be shown beside its figures."""
    found = []
    if result.env_steps < ENV_STEPS:
        found.append(f"trained on {result.env_steps:,} of {ENV_STEPS:,} env steps")
    for name, expected in FINAL_EVALUATION.items():
        value = getattr(result.evaluation, name)
        if value != expected:
            found.append(f"{name} {value}, the protocol says {expected}")
    return found
