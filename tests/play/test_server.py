"""The server as a hostile or clumsy browser meets it: nothing that arrives may stop it."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from iris_wm.cli import main
from iris_wm.play.server import serve


@contextmanager
def player(served, **options):
    """A browser's WebSocket: right Host, Origin and token unless told otherwise."""
    options.setdefault("origin", served.url)
    token = options.pop("token", served.token)
    with connect(f"ws://{served.host}/play?token={token}", compression=None, max_size=None, **options) as tab:
        yield tab


def frame_header(message: bytes) -> dict:
    return json.loads(message[4 : 4 + int.from_bytes(message[:4], "little")])


def next_frame(tab: ClientConnection, *, seen: bool = True, timeout: float = 10) -> dict:
    """The header of the next frame; text messages in between are passed over."""
    while isinstance(message := tab.recv(timeout=timeout), str):
        pass
    if seen:
        tab.send('{"type": "seen"}')
    return frame_header(message)


def next_text(tab: ClientConnection, kind: str) -> dict:
    while True:
        message = tab.recv(timeout=10)
        if isinstance(message, str) and (message := json.loads(message))["type"] == kind:
            return message


def close_code(tab: ClientConnection) -> int:
    try:
        while True:
            tab.recv(timeout=10)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 1006


def assert_alive(served) -> None:
    with player(served) as tab:
        tab.send('{"type": "pause", "paused": false}')
        tab.send('{"type": "restart", "start": 2}')
        while (frame := next_frame(tab))["start"] != 2 or frame["step"] != 3:
            pass


def raw_status(served, path: str, method: str = "GET", **headers: str) -> int:
    """Sends the path as it is, which browsers and httpx would tidy up first."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in ({"Host": served.host} | headers).items():
        connection.putheader(name, value)
    connection.endheaders()
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_token_moves_from_the_address_to_a_cookie(served):
    with httpx.Client() as browser:
        answer = browser.get(f"{served.url}/?token={served.token}")
        assert answer.status_code == 303
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        page = browser.get(f"{served.url}{answer.headers['location']}")
    assert page.status_code == 200
    assert served.token not in page.text
    assert "<title>Play the dream</title>" in page.text


def test_the_page_runs_its_own_script_alone_and_cannot_be_framed(served):
    page = httpx.get(served.url, cookies=None, params={"token": served.token}, follow_redirects=False)
    with httpx.Client(cookies=page.cookies) as browser:
        first, second = browser.get(served.url), browser.get(served.url)
    policy = first.headers["content-security-policy"]
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy).group(1)
    assert f'<script nonce="{nonce}">' in first.text
    assert "{{nonce}}" not in first.text
    assert nonce not in second.text
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert first.headers["x-frame-options"] == "DENY"
    assert first.headers["cache-control"] == "no-store"
    assert not re.search(r"(src|href)=\"(?!data:)", first.text), "the page fetches nothing from elsewhere"


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({"Host": "attacker.example"}, True, 403),
        ({"Origin": "https://evil.example"}, True, 403),
        ({}, False, 401),
        ({"Host": "attacker.example"}, False, 403),
    ],
)
def test_strangers_are_refused(served, headers, query, status):
    path = f"/?token={served.token}" if query else "/"
    assert raw_status(served, path, **headers) == status


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/play", "/page.html", "/docs", "/openapi.json",
     "/recording.gif/../page.html", "/?/../x/..%5c", "/static/server.py"],
)  # fmt: skip
def test_nothing_but_the_page_is_found(served, path):
    joiner = "&" if "?" in path else "?"
    status = raw_status(served, f"{path}{joiner}token={served.token}")
    assert status == (303 if path.startswith("/?") else 404)


def test_posts_and_bodies_are_refused(served):
    assert raw_status(served, f"/?token={served.token}", "POST") == 405
    assert raw_status(served, f"/?token={served.token}", **{"Content-Length": "100000000"}) == 413
    assert_alive(served)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": None}, 403),
        ({"token": "wrong"}, 401),
        ({"token": ""}, 401),
        ({"additional_headers": {"Host": "attacker.example"}}, 403),
    ],
)
def test_websockets_of_strangers_are_refused(served, options, status):
    with pytest.raises(InvalidStatus) as refused, player(served, **options):
        pass
    assert refused.value.response.status_code == status


def test_a_tab_is_told_who_it_plays_and_gets_frames_in_order(served):
    with player(served) as tab:
        hello = json.loads(tab.recv(timeout=10))
        assert hello["type"] == "hello"
        assert hello["title"] == "Breakout dream"
        assert [next_frame(tab)["step"] for _ in range(5)] == [0, 1, 2, 3, 4]


def test_keys_reach_the_dream(served):
    with player(served) as tab:
        next_frame(tab)
        tab.send(json.dumps({"type": "buttons", "held": 1 << 2}))
        names = {served.dream.action_names[next_frame(tab)["action"] or 0] for _ in range(10)}
    assert "LEFT" in names


def test_frames_come_at_the_speed_asked_for(served):
    with player(served) as tab:
        tab.send('{"type": "speed", "value": 20}')
        assert next_text(tab, "state")["frames_per_second"] == 20
        next_frame(tab)
        started = time.perf_counter()
        for _ in range(40):  # two seconds' worth; on a busy machine a few wait already when the clock starts
            next_frame(tab)
        assert 1.6 < time.perf_counter() - started < 4


def test_a_tab_that_shows_nothing_gets_no_more_than_a_few_frames(served):
    with player(served) as tab:
        assert next_frame(tab, seen=False)["step"] == 0
        time.sleep(0.5)
        assert served.dream.calls[-1][0] == "step"
        assert len(served.dream.calls) <= 4
        tab.send('{"type": "seen"}')
        assert [next_frame(tab)["step"] for _ in range(4)] == [1, 2, 3, 4]


def test_the_newest_tab_takes_over_where_the_other_was(served):
    with player(served) as first:
        for _ in range(5):
            step = next_frame(first)["step"]
        with player(served) as second:
            assert close_code(first) == 4001
            assert next_frame(second)["step"] >= step
    assert_alive(served)


def test_a_closed_tab_stops_the_dream_until_one_comes_back(served):
    with player(served) as tab:
        next_frame(tab)
        tab.socket.close()  # no goodbye, as when a laptop sleeps
    time.sleep(0.3)
    calls = len(served.dream.calls)
    time.sleep(0.3)
    assert len(served.dream.calls) == calls
    assert_alive(served)


def test_a_flood_of_messages_closes_the_tab_and_leaves_the_server(served):
    with player(served) as tab:
        next_frame(tab)
        with suppress(ConnectionClosed):
            for _ in range(20_000):
                tab.send('{"type": "back"}')
        assert close_code(tab) in (1008, 1006)  # 1006: the line broke while this end was still sending
    assert_alive(served)


def test_a_flood_of_tabs_leaves_the_server(served):
    for _ in range(60):
        connect(
            f"ws://{served.host}/play?token={served.token}",
            origin=served.url,
            compression=None,
            close_timeout=0,
        ).socket.close()
    idle = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(20)]
    time.sleep(0.2)
    assert_alive(served)
    for one in idle:
        one.close()


@pytest.mark.parametrize("kind", [str, bytes])
def test_a_message_of_100_mb_closes_the_tab_and_leaves_the_server(served, kind):
    message = "x" * 100_000_000 if kind is str else b"x" * 100_000_000
    with player(served) as tab:
        next_frame(tab)
        with suppress(ConnectionClosed):
            tab.send(message)
        assert close_code(tab) in (1009, 1006)
    assert_alive(served)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ("", "type: expected"),
        ("{", "Expecting property name"),
        ("[" * 4000, "recursion"),
        ('{"type": "load", "path": "/etc/passwd"}', 'got "load"'),
        ('{"type": "restart", "start": 1e3}', "start: expected a whole number"),
        ('{"type": "speed", "value": NaN}', "got nan"),
        (b"\x00\xff", "type: expected"),
        ('{"type": "temperature", "value": ' + "9" * 4000 + "}", "expected a number"),
    ],
)
def test_messages_without_sense_are_answered_and_the_game_goes_on(served, message, complaint):
    with player(served) as tab:
        next_frame(tab)
        tab.send(message)
        answer = next_text(tab, "error")["message"]
        assert complaint in answer or complaint.capitalize() in answer or "nested" in answer
        assert "\n" not in answer
        assert next_frame(tab)["step"] >= 1


def test_a_dream_that_fails_is_reported_and_can_start_again(served, monkeypatch):
    def fail(action):
        raise RuntimeError("out of memory\nTraceback")

    with player(served) as tab:
        next_frame(tab)
        monkeypatch.setattr(served.dream, "step", fail)
        assert next_text(tab, "error")["message"] == "out of memory"
        monkeypatch.undo()
        tab.send('{"type": "pause", "paused": false}')
        tab.send('{"type": "restart", "start": 1}')
        while next_frame(tab)["start"] != 1:
            pass


def test_a_slow_dream_leaves_the_server_quick(served):
    served.dream.slow = 0.5
    with player(served) as tab:
        next_frame(tab)
        time.sleep(0.1)
        started = time.perf_counter()
        assert raw_status(served, f"/?token={served.token}") == 303
        assert time.perf_counter() - started < 0.3


def test_a_recording_is_fetched_as_a_gif(served):
    assert raw_status(served, f"/recording.gif?token={served.token}") == 404
    with player(served) as tab:
        next_frame(tab)
        tab.send('{"type": "record", "on": true}')
        for _ in range(5):
            next_frame(tab)
        tab.send('{"type": "record", "on": false}')
        while next_text(tab, "state")["recording"] is not None:
            pass
    answer = httpx.get(f"{served.url}/recording.gif", params={"token": served.token})
    assert answer.content[:6] == b"GIF89a"
    assert answer.headers["content-disposition"] == 'attachment; filename="breakout-dream.gif"'


SCRIPT = """
import torch
from iris_wm.agent import Agent, AgentConfig
from iris_wm.envs.config import EnvConfig
from iris_wm.envs.make import make_env
from iris_wm.tokenizer.autoencoder import AutoencoderConfig
from iris_wm.tokenizer.tokenizer import VectorQuantizerConfig
from iris_wm.tokenizer.tokenizer import TokenizerConfig
from iris_wm.world.network import WorldConfig
from iris_wm.play.agent_dream import AgentDream
from iris_wm.play.server import serve

autoencoder = AutoencoderConfig(channels=8, latent_dim=8, num_residual_blocks=1, patch_size=4,
                                channel_multipliers=(1, 1, 1), attention_resolutions=())
config = AgentConfig((4,), (), TokenizerConfig(autoencoder, VectorQuantizerConfig(16, 8)),
                     WorldConfig(num_layers=1, num_heads=1, embed_dim=16))
serve(AgentDream(Agent(config).eval(), make_env(EnvConfig())), port=0, announce=lambda line: print(line, flush=True))
"""


def listening_addresses(pid: int) -> set[str]:
    """Local addresses of a process's listening TCP sockets, as Linux writes them in /proc/net/tcp."""
    inodes = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since the folder was read
            target = os.readlink(entry.path)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{table}") as lines:
            for line in list(lines)[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in inodes:
                    found.add(fields[1].split(":")[0])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_serve_is_local_prints_its_address_and_stops_on_ctrl_c():
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        port, token = re.fullmatch(
            r"Play the dream at http://127\.0\.0\.1:(\d+)/\?token=([\w-]{32})\n", line
        ).groups()
        assert f"ssh -L {port}:127.0.0.1:{port}" in process.stdout.readline()
        answer = None
        for _ in range(100):
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/?token={token}")
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        assert answer.status_code == 303
        assert listening_addresses(process.pid) == {"0100007F"}
        process.send_signal(signal.SIGINT)
        process.wait(15)
    finally:
        process.kill()
    assert token not in process.stderr.read()


def test_a_taken_port_and_a_bad_host_are_named(breakout):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ValueError, match=f"port: cannot listen on 127.0.0.1:{port}: .*try another --port"
        ):
            serve(breakout, port=port)
    with pytest.raises(ValueError, match=r"host: cannot use 'no\.such\.host\.invalid'"):
        serve(breakout, host="no.such.host.invalid")
    with pytest.raises(ValueError, match="port: expected 0 to 65535, got 70000"):
        serve(breakout, port=70000)


def test_the_command_names_what_is_no_run(tmp_path, capsys):
    assert main(["play", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("iris-wm play: ")
    assert "not a run folder" in message
    assert len(message.splitlines()) == 1
