"""Agents on the Hugging Face hub: the two files of an agent folder and a card; needs the extra iris-wm[hub]."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import iris_wm
from iris_wm.checkpoint import durable
from iris_wm.checkpoint.agent_files import AGENT_CONFIG_FILE, WEIGHTS_FILE, load_agent, save_agent
from iris_wm.checkpoint.errors import ResourceError

_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


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
        table = "\n".join(f"| {name} | {_plain(value)} |" for name, value in rows.items())
        return (
            "---\nlibrary_name: iris_wm\nlicense: mit\npipeline_tag: reinforcement-learning\n"
            "tags: [world-model, atari, safetensors]\n---\n\n"
            f"# {_plain(self.game)}: an agent that learned in its dreams\n\n| | |\n|---|---|\n{table}\n\n"
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
    _check(repo_id)
    hub = _hub()
    with tempfile.TemporaryDirectory() as folder:
        save_agent(folder, weights, config)
        durable.write_file(Path(folder) / "README.md", card.to_markdown(repo_id).encode())
        try:
            api = hub.HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=f"iris_wm agent for {card.game}"
            )
        except Exception as error:  # the hub's client has dozens of kinds
            raise ResourceError(
                f"hub repository {repo_id}: cannot be written: {_first_line(error)}"
            ) from None
    return repo_id


def download(repo_id: str, revision: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights, config) of an agent on the hub, only its two files, each verified before it is used.

    Raises ``ValueError`` for a bad id or without the extra, ``ResourceError`` where it cannot be fetched,
    ``DamagedCheckpoint`` for files that are no agent.
    """
    _check(repo_id)
    hub = _hub()
    with tempfile.TemporaryDirectory() as folder:
        try:
            hub.snapshot_download(
                repo_id=repo_id,
                revision=revision,
                local_dir=folder,
                allow_patterns=[WEIGHTS_FILE, AGENT_CONFIG_FILE],
            )
        except Exception as error:  # the hub's client has dozens of kinds
            raise ResourceError(
                f"hub repository {repo_id}: cannot be fetched: {_first_line(error)}"
            ) from None
        return load_agent(folder)


def _check(repo_id: str) -> None:
    if not _REPO_ID.fullmatch(repo_id):
        raise ValueError(f"hub repository: expected owner/name, got {repo_id!r}")


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError("the hub needs huggingface_hub; install iris-wm[hub]") from None
    return huggingface_hub


def _plain(text: str) -> str:
    return re.sub(r"[|\r\n<>`]", " ", text)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
