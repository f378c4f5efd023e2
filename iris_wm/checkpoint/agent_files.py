"""An agent as two files: ``agent.safetensors`` with the weights, ``agent.json`` with config and checksums.

They stand in every checkpoint, in exported folders and on the hub, and can be read there without the rest.
"""

import hashlib
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

import iris_wm
from iris_wm.checkpoint import durable, sealed_json, tree
from iris_wm.checkpoint.errors import DamagedCheckpoint, NewerFormat

WEIGHTS_FILE = "agent.safetensors"
AGENT_CONFIG_FILE = "agent.json"
FORMAT = "iris_wm agent"
FORMAT_VERSION = 1


def agent_to_bytes(weights: dict[str, Tensor], config: dict[str, Any]) -> dict[str, bytes]:
    """The contents of the two files by name. ``weights``: any shapes; ``config``: what JSON holds."""
    tensors, structure = tree.encode(weights)
    if list(tensors) != list(weights):
        raise ValueError("agent weights: expected a flat dict of tensors by name")
    del structure
    data = safetensors.torch.save(tensors)
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "package_version": iris_wm.__version__,
        "config": config,
        "weights": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()},
    }
    return {WEIGHTS_FILE: data, AGENT_CONFIG_FILE: sealed_json.to_bytes(document)}


def save_agent(folder: str | Path, weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Writes the two files into a folder, over what may be there; the config last."""
    folder = Path(folder)
    durable.make_folder(folder)
    for name, data in agent_to_bytes(weights, config).items():
        durable.replace_file(folder / name, data)


def load_agent(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights, config) from a folder with the two files; nothing is used before its checksum is right.

    Raises ``DamagedCheckpoint`` naming the file, ``NewerFormat`` for files of a later version.
    """
    folder = Path(folder)
    document = sealed_json.read(folder / AGENT_CONFIG_FILE)
    check_format(document, folder / AGENT_CONFIG_FILE, FORMAT, FORMAT_VERSION)
    match document:
        case {"config": dict(config), "weights": {"size": int(size), "sha256": str(sha256)}}:
            data = durable.read_file(folder / WEIGHTS_FILE, size=size, sha256=sha256)
            return read_tensors(data, folder / WEIGHTS_FILE), config
    raise DamagedCheckpoint(f"{folder / AGENT_CONFIG_FILE}: expected the keys config and weights")


def read_tensors(data: bytes, source: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file's bytes; ``DamagedCheckpoint`` naming ``source`` if they are none."""
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0][:120]
        raise DamagedCheckpoint(
            f"{source}: not a safetensors file ({reason}; it begins {data[:8]!r})"
        ) from None


def check_format(document: dict[str, Any], source: Path, name: str, version: int) -> None:
    """Raises unless a sealed document is of the format ``name``, at most at ``version``."""
    found = document.get("format_version")
    if document.get("format") != name or type(found) is not int or found < 1:
        raise DamagedCheckpoint(f"{source}: expected a file of the format {name!r}")
    if found > version:
        writer = str(document.get("package_version"))[:40]
        raise NewerFormat(
            f"{source}: written by iris_wm {writer} in format {found}, this is iris_wm {iris_wm.__version__} "
            f"for format {version}: upgrade iris-wm"
        )
