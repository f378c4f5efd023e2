"""Compiles a C kernel once for this machine, keeps the result in the user's cache folder, and loads it.

Nothing is compiled at installation. Where there is no C compiler, everything runs in plain PyTorch.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

CACHE_VARIABLE = "IRIS_KERNELS_CACHE"
SOURCES = Path(__file__).parent
COMPILE = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-c")
LINK = ("-shared",)
SECONDS = 60

_problem = ""


def problem() -> str:
    """Why a C kernel could not be compiled or loaded so far; "" if none failed."""
    return _problem


@functools.cache
def load(name: str, **macros: int) -> ctypes.CDLL | None:
    """The shared library of cpu_kernels/`name`.c compiled with the macros; None where that cannot be had."""
    global _problem
    try:
        return ctypes.CDLL(str(_compiled(name, macros)))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", b"") or b""
        _problem = f"{name}: {error} {detail.decode(errors='replace')[:500]}".strip()
        return None


def _compiled(name: str, macros: dict[str, int]) -> Path:
    if sys.platform != "linux":
        raise OSError("C kernels are for Linux")
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise OSError("no C compiler was found")
    definitions = [f"-D{macro}={value}" for macro, value in sorted(macros.items())]
    parts = [compiler, *COMPILE, *definitions, _processor(), torch.__version__, str(_openmp())]
    sources = [path.read_bytes() for path in (SOURCES / f"{name}.c", SOURCES / "vectors.h")]
    key = hashlib.sha256(b"\0".join([part.encode() for part in parts] + sources)).hexdigest()[:24]
    folder = cache_folder()
    target = folder / f"{name}-{key}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / target.name
            obj = Path(scratch) / f"{name}.o"
            openmp = [str(_openmp())] if _openmp() else ["-fopenmp"]
            run = functools.partial(subprocess.run, check=True, capture_output=True, timeout=SECONDS)
            run([compiler, *COMPILE, *definitions, str(SOURCES / f"{name}.c"), "-o", str(obj)])
            run([compiler, *LINK, str(obj), *openmp, "-lm", "-o", str(built)])
            os.replace(built, target)  # another process may do the same at the same time
    return target


def cache_folder() -> Path:
    """Where compiled kernels are kept: IRIS_KERNELS_CACHE, or iris_kernels in the user's cache folder."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iris_kernels"


def _openmp() -> Path | None:
    """PyTorch's own OpenMP library: a second one would bring a second pool of threads."""
    return next(iter(sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))), None)


@functools.cache
def _processor() -> str:
    """What -march=native means here; home folders are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kept = {line for line in lines if line.split("\t")[0] in ("flags", "Features", "model name", "CPU part")}
    return " ".join([platform.machine(), *sorted(kept)])
