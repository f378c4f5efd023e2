"""The audit of the pinned dependencies, with a service of our own: it fails on an advisory, not without a network."""

import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("pip_audit", reason="needs the dependency group check")
SCRIPT = Path(__file__).with_name("audit.py")
CONSTRAINTS = SCRIPT.parents[2] / "constraints.txt"
ADVISORY = {
    "id": "MAL-2026-0000",
    "aliases": ["CVE-2026-00000"],
    "summary": "made up",
    "affected": [
        {
            "package": {"name": "lightning", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
        }
    ],
}


class Service(ThreadingHTTPServer):
    """Knows one advisory, of one release of lightning; breaks after `patience` questions."""

    def __init__(self, version: str, patience: int) -> None:
        self.bad, self.patience, self.asked = ("lightning", version), patience, []
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/query"


class Answer(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = (question["package"]["name"], question["version"])
        self.server.asked.append(asked)
        if len(self.server.asked) > self.server.patience:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        data = json.dumps({"vulns": [ADVISORY]} if asked == self.server.bad else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *values: object) -> None:
        pass


def audit(url: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env={**os.environ, "OSV_URL": url, "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def pinned() -> dict[str, str]:
    lines = [line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line]
    return {name.lower().replace("_", "-").replace(".", "-"): version for name, version in lines}


@pytest.fixture
def serve():
    """Starts the service: serve(version, patience=10**6)."""
    started = []

    def start(version: str, patience: int = 10**6) -> Service:
        service = Service(version, patience)
        threading.Thread(target=service.serve_forever, daemon=True).start()
        started.append(service)
        return service

    yield start
    for service in started:
        service.shutdown()
        service.server_close()


def test_every_pin_is_asked_for_and_nothing_known_is_good(serve):
    service = serve("0.0.0")
    done = audit(service.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"audit: {len(pinned())} pinned packages, 0 known vulnerabilities\n"
    assert dict(service.asked[1:]) == pinned()


def test_an_advisory_against_a_pin_fails(serve, tmp_path):
    file = tmp_path / "constraints.txt"
    file.write_text("# pins\nlightning==2.6.3\nnumpy==2.0.0\n")
    done = audit(serve("2.6.3").url, file)
    assert done.returncode == 1
    assert done.stderr == "audit: lightning 2.6.3: CVE-2026-00000 MAL-2026-0000; fixed in 99.1\n"
    assert done.stdout == "audit: 2 pinned packages, 1 known vulnerabilities\n"
    assert audit(serve("2.6.3").url, file, "--ignore-vuln", "MAL-2026-0000").returncode == 0
    assert audit(serve("2.6.2").url, file).returncode == 0, "another release is none of its business"


def test_without_the_service_it_says_so_and_passes(serve, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1/query"
        done = audit(url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"audit: skipped: {url} unreachable (")
    assert done.stdout.count("\n") == 1
    done = audit("http://no.such.host.invalid/v1/query")
    assert (done.returncode, done.stdout.count("unreachable")) == (0, 1)
    file = tmp_path / "constraints.txt"
    file.write_text("lightning==2.6.3\nnumpy==2.0.0\n")
    done = audit(serve("2.6.3", patience=1).url, file)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert "unreachable after it had answered" in done.stdout


def test_pins_that_are_none(serve, tmp_path):
    file = tmp_path / "constraints.txt"
    file.write_text("lightning>=2\n")
    done = audit(serve("0").url, file)
    assert done.returncode == 2
    assert "lightning" in done.stderr
    assert audit(serve("0").url, tmp_path / "none.txt").returncode == 2
