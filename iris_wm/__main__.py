"""The command iris-wm, and python -m iris_wm."""

import sys

from iris_wm.cli import main

if __name__ == "__main__":
    sys.exit(main())
