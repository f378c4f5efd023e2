"""An agent as two files: ``agent.safetensors`` with the weights, ``agent.json`` with config and checksums.

They stand in every checkpoint, in exported folders and on the Hugging Face hub, and can be read there without the rest.
The hub needs the extra iris-wm[hub].
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

import iris_wm
from iris_wm.checkpoint import durable
from iris_wm.checkpoint.durable import FileEntry
from iris_wm.checkpoint.errors import DamagedCheckpoint, ResourceError
from iris_wm.checkpoint.tree import plain, read_tensors
from iris_wm.config import build_config

WEIGHTS_FILE = "agent.safetensors"
AGENT_CONFIG_FILE = "agent.json"
FORMAT = "iris_wm agent"
FORMAT_VERSION = 1
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class _Document:
    """What agent.json says."""

    config: dict[str, Any]
    weights: FileEntry


def agent_to_bytes(weights: dict[str, Tensor], config: dict[str, Any]) -> dict[str, bytes]:
    """The contents of the two files by name. ``weights``: any shapes; ``config``: what JSON holds."""
    data = safetensors.torch.save({name: plain(tensor, name) for name, tensor in weights.items()})
    document = asdict(_Document(config, FileEntry.of(data)))
    return {WEIGHTS_FILE: data, AGENT_CONFIG_FILE: durable.seal(FORMAT, FORMAT_VERSION, document)}


def save_agent(folder: str | Path, weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Writes the two files into a folder, over what may be there; the config last."""
    folder = Path(folder)
    durable.make_folder(folder)
    for name, data in agent_to_bytes(weights, config).items():
        durable.replace_file(folder / name, data)


def load_agent(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights, config) from a folder with the two files; nothing is used before its checksum is right.

    Raises ``DamagedCheckpoint`` naming the file, ``OtherFormat`` for files of a version with another format.
    """
    path = Path(folder) / AGENT_CONFIG_FILE
    try:
        document = build_config(_Document, durable.read_sealed(path, FORMAT, FORMAT_VERSION))
    except ValueError as error:
        raise DamagedCheckpoint(f"{path}: {error}") from None
    weights = path.with_name(WEIGHTS_FILE)
    return read_tensors(durable.read_file(weights, document.weights), weights), document.config


@dataclass(frozen=True)
class ModelCard:
    """What a reader has to know of an agent. score: mean return of a real evaluation, in words if you like."""

    game: str
    env_steps: int
    score: float | str | None = None
    commit: str | None = None

    def to_markdown(self, repo_id: str) -> str:
        """README.md of the hub repository, with the hub's own header."""
        rows = {
            "game": self.game,
            "environment steps": f"{self.env_steps:,}",
            "score (mean return)": "not measured" if self.score is None else str(self.score),
            "commit": self.commit or "unknown",
            "package": f"iris_wm {iris_wm.__version__}",
        }
        table = "\n".join(f"| {name} | {_plain_text(value)} |" for name, value in rows.items())
        return (
            "---\nlibrary_name: iris_wm\nlicense: mit\npipeline_tag: reinforcement-learning\n"
            "tags: [world-model, atari, safetensors]\n---\n\n"
            f"# {_plain_text(self.game)}: an agent that learned in its dreams\n\n| | |\n|---|---|\n{table}\n\n"
            f'```python\nfrom iris_wm import Agent\n\nagent = Agent.from_pretrained("{repo_id}")\n```\n'
        )


def is_repo_id(text: str) -> bool:
    """Whether a text is "owner/name", and not a path whose first folder exists."""
    return bool(_REPO_ID.fullmatch(text)) and not Path(text.split("/")[0]).exists()


def upload(
    repo_id: str, weights: dict[str, Tensor], config: dict[str, Any], card: ModelCard, private: bool = False
) -> str:
    """Puts agent.safetensors, agent.json and README.md into a hub repository, made if missing; its id.

    Raises ``ValueError`` for a bad id or without the extra, ``ResourceError`` where the hub cannot be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_agent(folder, weights, config)
        durable.write_file(Path(folder) / "README.md", card.to_markdown(repo_id).encode())
        with _hub(repo_id, "written") as hub:
            api = hub.HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=f"iris_wm agent for {card.game}"
            )
    return repo_id


def download(repo_id: str, revision: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights, config) of an agent on the hub, only its two files, each verified before it is used.

    Raises ``ValueError`` for a bad id or without the extra, ``ResourceError`` where it cannot be fetched,
    ``DamagedCheckpoint`` for files that are no agent.
    """
    with tempfile.TemporaryDirectory() as folder:
        with _hub(repo_id, "fetched") as hub:
            hub.snapshot_download(
                repo_id=repo_id,
                revision=revision,
                local_dir=folder,
                allow_patterns=[WEIGHTS_FILE, AGENT_CONFIG_FILE],
            )
        return load_agent(folder)


@contextmanager
def _hub(repo_id: str, done: str) -> Iterator[Any]:
    """The hub's client, for work on one repository; whatever it raises becomes one line."""
    if not _REPO_ID.fullmatch(repo_id):
        raise ValueError(f"hub repository: got {repo_id!r}, expected owner/name")
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError("the hub needs huggingface_hub; install iris-wm[hub]") from None
    try:
        yield huggingface_hub
    except Exception as error:  # the hub's client has dozens of kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ResourceError(f"hub repository {repo_id}: cannot be {done}: {reason}") from None


def _plain_text(text: str) -> str:
    return re.sub(r"[|\r\n<>`]", " ", text)
