"""Agents on the hub through huggingface_hub's real client, against a small server that answers as the hub does."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub", reason="needs the extra iris-wm[hub]")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = """
import sys
from iris_wm.agent import Agent
from iris_wm.checkpoint.agent_files import ModelCard
if sys.argv[1] == "push":
    agent = Agent.load(sys.argv[2])
    print(agent.push_to_hub("someone/breakout", ModelCard("Breakout", 100_000, 17.5, "0123abc"), private=True))
else:
    Agent.from_pretrained("someone/breakout").save(sys.argv[2])
"""


class Hub(ThreadingHTTPServer):
    """Repositories of small files, and the requests that came."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.is_private = False
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def reply(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def reply_json(self, value: object, status: int = 200) -> None:
        self.reply(json.dumps(value).encode(), status, Content_Type="application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.server.requests.append(f"POST {self.path}")
        if self.path.endswith("/repos/create"):
            asked = json.loads(body)  # clients before and after 2.0
            self.server.is_private = asked.get("private", asked.get("visibility") == "private")
            self.reply_json({"url": f"http://{self.headers['Host']}/someone/breakout"})
        elif "/preupload/" in self.path:
            paths = [each["path"] for each in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self.reply_json({"files": [{"path": path, **modes} for path in paths]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://{self.headers['Host']}/someone/breakout"
            self.reply_json({"commitUrl": f"{url}/commit/{COMMIT}", "commitOid": COMMIT, "success": True})
        else:
            self.reply_json({})

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        name = self.path.split("?")[0].split("/")[-1]
        if not self.server.files:
            self.reply_json({"error": "Repository not found"}, 404)
        elif "/tree/" in self.path:
            entries = [
                (name, data, hashlib.sha1(data).hexdigest()) for name, data in self.server.files.items()
            ]
            self.reply_json(
                [{"type": "file", "path": name, "size": len(data), "oid": oid} for name, data, oid in entries]
            )
        elif self.path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in self.server.files]
            self.reply_json({"id": "someone/breakout", "sha": COMMIT, "siblings": siblings})
        elif name in self.server.files:
            data = self.server.files[name]
            tag = f'"{hashlib.sha1(data).hexdigest()}"'
            self.reply(data, ETag=tag, X_Repo_Commit=COMMIT)
        else:
            self.reply_json({"error": "Entry not found"}, 404)

    do_HEAD = do_GET

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture
def hub():
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def call(hub: Hub, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, for the client reads its settings once."""
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=tmp_path,
        env={
            **environment,
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": "hf_made_up",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_an_agent_goes_up_and_comes_down_through_the_real_client(hub, tiny_agent, tmp_path):
    agent = tiny_agent().save(tmp_path / "agent")
    done = call(hub, tmp_path, "push", str(agent))
    assert (done.returncode, done.stdout) == (0, "someone/breakout\n"), done.stderr
    assert hub.is_private
    assert set(hub.files) == {"agent.safetensors", "agent.json", "README.md"}
    assert b"| environment steps | 100,000 |" in hub.files["README.md"]
    hub.files["pytorch_model.bin"] = b"never asked for"
    hub.requests.clear()
    done = call(hub, tmp_path, "pull", str(tmp_path / "back"))
    assert done.returncode == 0, done.stderr
    for name in ("agent.safetensors", "agent.json"):
        assert (tmp_path / "back" / name).read_bytes() == (Path(agent) / name).read_bytes()
    fetched = {request.split("/")[-1] for request in hub.requests if "/resolve/" in request}
    assert fetched == {"agent.safetensors", "agent.json"}, "only the two files"


@pytest.mark.slow
def test_damage_and_absence_through_the_real_client(hub, tiny_agent, tmp_path):
    done = call(hub, tmp_path, "pull", str(tmp_path / "back"))
    assert "ResourceError: hub repository someone/breakout: cannot be fetched" in done.stderr
    agent = Path(tiny_agent().save(tmp_path / "agent"))
    hub.files = {path.name: path.read_bytes() for path in agent.iterdir()}
    data = bytearray(hub.files["agent.safetensors"])
    data[-3] ^= 1
    hub.files["agent.safetensors"] = bytes(data)
    done = call(hub, tmp_path, "pull", str(tmp_path / "back"))
    assert "DamagedCheckpoint" in done.stderr
    assert "sha256" in done.stderr
    assert not (tmp_path / "back").exists()
