"""What can end a run, and the exit code of each; a plain ``ValueError`` is the user's mistake, code 2."""

EXIT_FINISHED = 0
EXIT_USAGE = 2
EXIT_DAMAGED = 3
EXIT_NUMERIC = 4
EXIT_RESOURCES = 5
EXIT_STOPPED = 143


class RunError(Exception):
    """A reason to end a run that is not a mistake in its configuration; the message is one line."""

    exit_code = 1


class DamagedState(RunError):
    """Files that are not what they should be, or that belong to another run."""

    exit_code = EXIT_DAMAGED


class DamagedCheckpoint(DamagedState):
    """A checkpoint whose files differ from its manifest."""


class OtherFormat(DamagedState):
    """A file written by a version of this package that has another format."""


class NoUsableCheckpoint(DamagedState):
    """A run has checkpoints, and not one of them verifies."""


class ForeignRun(DamagedState):
    """A run folder that belongs to a run with another game, seed or config."""


class RunInUse(DamagedState):
    """A run folder that another process is writing to."""


class NumericFailure(RunError):
    """A number that must be finite is not. tensor: its name."""

    exit_code = EXIT_NUMERIC

    def __init__(self, message: str, tensor: str = "") -> None:
        super().__init__(message)
        self.tensor = tensor


class ResourceError(RunError):
    """Disk space, permissions or memory are missing."""

    exit_code = EXIT_RESOURCES


class Stopped(RunError):
    """A signal asked the run to stop, and it did so after a verified save."""

    exit_code = EXIT_STOPPED


def exit_code(error: BaseException) -> int:
    """The exit code a program should end with because of ``error``."""
    if isinstance(error, RunError):
        return error.exit_code
    if isinstance(error, FloatingPointError):
        return EXIT_NUMERIC
    if isinstance(error, (OSError, MemoryError)):
        return EXIT_RESOURCES
    return EXIT_USAGE if isinstance(error, ValueError) else 1
