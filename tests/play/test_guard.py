"""Who is let in: Host, Origin, token, method, body; and the bucket that holds back floods."""

import asyncio
from typing import Any

import pytest

from iris_wm.play.guard import LOCAL_HOSTS, Guard, RateLimit, cookie_name

TOKEN = "a-token-for-tests-only"


def ask(
    headers: list[tuple[str, str]],
    *,
    kind: str = "http",
    method: str = "GET",
    query: str = f"token={TOKEN}",
    **options: Any,
) -> int:
    """The status of a request; 200 where it was let through, 1008 for a refused WebSocket."""
    sent: list[dict] = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    options.setdefault("hosts", LOCAL_HOSTS)
    scope = {
        "type": kind,
        "method": method,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }
    asyncio.run(Guard(app, token=TOKEN, **options)(scope, receive, send))
    return sent[0].get("status") or sent[0]["code"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8765", "localhost:1", "LOCALHOST:80", "[::1]:8765"])
def test_local_names_and_any_tunnel_port_are_let_in(host):
    assert ask([("host", host)]) == 200


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "attacker.example:8765", "127.0.0.1.attacker.example", "localhost@evil.example",
     "evil.example#localhost", "192.168.0.7:8765", "", "localhost:99999", "localhost/x", "[::1", "localhost\tx"],
)  # fmt: skip
def test_foreign_and_malformed_hosts_get_403(host):
    assert ask([("host", host)]) == 403


def test_a_missing_or_second_host_gets_403():
    assert ask([]) == 403
    assert ask([("host", "localhost"), ("host", "localhost")]) == 403


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://localhost.evil.example:8765", "http://localhost:9999", "null", "",
     "file://localhost:8765", "http://localhost:8765/x", "http://[::1"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_foreign_origins_get_403(origin, kind):
    status = ask([("host", "localhost:8765"), ("origin", origin)], kind=kind)
    assert status == (403 if kind == "http" else 1008)


def test_own_origin_is_let_in():
    headers = [("host", "localhost:8765"), ("origin", "http://localhost:8765")]
    assert ask(headers) == 200
    assert ask(headers, kind="websocket") == 200


def test_a_websocket_without_origin_is_refused():
    assert ask([("host", "localhost:8765")], kind="websocket") == 1008


@pytest.mark.parametrize(
    "query", ["", "token=", "token=wrong", f"token={TOKEN}x", f"token={TOKEN[:-1]}", "token=%ff"]
)
def test_without_the_token_401(query):
    assert ask([("host", "localhost")], query=query) == 401


def test_the_token_may_come_as_a_cookie_named_after_it():
    name = cookie_name(TOKEN)
    assert TOKEN not in name
    assert ask([("host", "localhost"), ("cookie", f"other=1; {name}={TOKEN}")], query="") == 200
    assert ask([("host", "localhost"), ("cookie", f"{name}=wrong")], query="") == 401
    assert ask([("host", "localhost"), ("cookie", f"iris={TOKEN}")], query="") == 401
    assert ask([("host", "localhost"), ("cookie", "=;;\x01=;=")], query="") == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_only_get_is_served(method):
    assert ask([("host", "localhost")], method=method) == 405


def test_bodies_are_refused_unread():
    assert ask([("host", "localhost"), ("content-length", "100000000")]) == 413
    assert ask([("host", "localhost"), ("transfer-encoding", "chunked")]) == 413
    assert ask([("host", "localhost"), ("content-length", "0")]) == 200


def test_addresses_are_let_in_only_where_the_server_is_bound_to_one():
    headers = [("host", "192.168.0.7:8765")]
    assert ask(headers) == 403
    assert ask(headers, allows_addresses=True) == 200
    assert ask([("host", "attacker.example")], allows_addresses=True) == 403
    assert ask([("host", "my-box")], hosts={"my-box"}) == 200


def test_a_short_token_is_an_error():
    with pytest.raises(ValueError, match="token: expected at least 16 characters, got 3"):
        Guard(None, token="abc", hosts=())  # type: ignore[arg-type]


def test_rate_limit_holds_back_a_flood_and_forgives():
    now = [0.0]
    limit = RateLimit(10, 20, clock=lambda: now[0])
    assert [limit.allows() for _ in range(25)] == [True] * 20 + [False] * 5
    now[0] += 0.55
    assert [limit.allows() for _ in range(6)] == [True] * 5 + [False]
    now[0] += 1000
    assert [limit.allows() for _ in range(21)] == [True] * 20 + [False]
