"""Agents on the hub, with a hub that is a folder."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from iris_wm.agent import Agent
from iris_wm.checkpoint.agent_files import ModelCard, is_repo_id
from iris_wm.checkpoint.errors import DamagedCheckpoint, ResourceError

CARD = ModelCard("Breakout", 100_000, 17.5, "0123abc")


class Hub:
    """The calls of huggingface_hub that are used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def HfApi(self):
        return SimpleNamespace(create_repo=self.create_repo, upload_folder=self.upload_folder)

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        (self.folder / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        self.private = private

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)

    def snapshot_download(self, *, repo_id, revision, local_dir, allow_patterns) -> None:
        if not (self.folder / repo_id).is_dir():
            raise RuntimeError("404 Client Error\nmore")
        for name in allow_patterns:
            shutil.copy(self.folder / repo_id / name, local_dir)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    fake = Hub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    monkeypatch.chdir(tmp_path)
    return fake


def test_an_agent_comes_back(hub, tiny_agent):
    agent = tiny_agent()
    assert agent.push_to_hub("someone/breakout", CARD, private=True) == "someone/breakout"
    assert hub.private
    names = {path.name for path in (hub.folder / "someone/breakout").iterdir()}
    assert names == {"agent.safetensors", "agent.json", "README.md"}
    for loaded in (Agent.from_pretrained("someone/breakout"), Agent.load("someone/breakout")):
        assert loaded.config == agent.config
        for name, weight in agent.weights().items():
            assert torch.equal(loaded.weights()[name], weight)


def test_the_card_states_game_steps_score_and_commit(hub, tiny_agent):
    tiny_agent().push_to_hub("someone/breakout", CARD)
    card = (hub.folder / "someone/breakout/README.md").read_text()
    for text in ("Breakout", "100,000", "17.5", "0123abc", 'Agent.from_pretrained("someone/breakout")'):
        assert text in card
    assert "not measured" in ModelCard("Pong", 5).to_markdown("a/b")
    assert "<script" not in ModelCard("<script>|", 5).to_markdown("a/b")


def test_damage_on_the_way_is_noticed(hub, tiny_agent):
    tiny_agent().push_to_hub("someone/breakout", CARD)
    path = hub.folder / "someone/breakout/agent.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedCheckpoint, match="sha256"):
        Agent.from_pretrained("someone/breakout")


def test_a_local_folder_comes_first(hub, tiny_agent):
    tiny_agent().save("someone/agent")
    assert Agent.load("someone/agent").actions.sizes == (3,)
    with pytest.raises(ValueError, match="no such folder"):
        Agent.load("someone/agnet")  # a typing error in a path goes nowhere


def test_errors(hub, monkeypatch):
    with pytest.raises(ResourceError, match=r"404 Client Error$"):
        Agent.load("nobody/nothing")
    for bad in ("https://example.org/a", "a/b/c", "one", "../up", "a/..", "a b/c", "-a/b", ""):
        assert not is_repo_id(bad)
        with pytest.raises(ValueError, match=r"expected owner/name|no such"):
            Agent.from_pretrained(bad)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"install iris-wm\[hub\]"):
        Agent.from_pretrained("someone/breakout")
