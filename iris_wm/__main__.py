"""The command iris-wm, and python -m iris_wm."""

import signal
import sys

from iris_wm import cli


def main() -> int:
    """The command's exit code; a signal that comes when the work is over no longer changes it."""
    try:
        return cli.main()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
