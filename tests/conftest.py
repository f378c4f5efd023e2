"""Fixtures that several parts share."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "data" / "golden" / "tiny"


@pytest.fixture(scope="session")
def golden_manifest() -> dict:
    """Sizes, tensors' shapes and losses of the published implementation's tiny run."""
    return json.loads((GOLDEN / "manifest.json").read_text())


@pytest.fixture(scope="session")
def golden() -> dict[str, torch.Tensor]:
    """The published implementation's inputs and outputs."""
    return load_file(GOLDEN / "outputs.safetensors")


def _weight(key: str, shape: list[int]) -> torch.Tensor:
    noise = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        values = 1 + 0.1 * noise if key.endswith("weight") else 0.02 * noise
    elif "embedding" in key or "pos_emb" in key:
        values = (0.5 if "tokenizer" in key else 0.1) * noise
    else:
        values = noise / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


@pytest.fixture(scope="session")
def golden_state(golden_manifest: dict) -> dict[str, torch.Tensor]:
    """The published state dict, rebuilt by the rule."""
    return {key: _weight(key, shape) for key, shape in golden_manifest["parameters"].items()}
