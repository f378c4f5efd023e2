"""The scripts of benchmarks/ import each other as neighbours, and so do the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "speed"))
