"""Who may talk to the page's server: only pages that it served itself, opened by who knows the run's token."""

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


class Guard:
    """ASGI middleware for HTTP and WebSocket: allowlists of Host and Origin, the token, and no request bodies.

    A foreign Host means that another site's name points here (DNS rebinding), a foreign Origin that another
    site's page sent the request: both get 403. The port of Host is free, because an SSH tunnel may change it; an
    Origin must be the very host and port that the request went to. Without the token in the cookie or the query
    the answer is 401.

    hosts: names that may stand in Host. allows_addresses: any IP address may, for a server that is bound to
    one; rebinding needs a name, so this does not let it in.
    """

    def __init__(self, app: App, *, token: str, hosts: Iterable[str], allows_addresses: bool = False) -> None:
        if len(token) < 16:
            raise ValueError(f"token: expected at least 16 characters, got {len(token)}")
        self.app = app
        self.token, self.cookie = token, cookie_name(token)
        self.hosts = frozenset(host.lower() for host in hosts)
        self.allows_addresses = allows_addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        status, reason = self._verdict(scope)
        if status:
            await _refuse(scope, receive, send, status, reason)
            return
        await self.app(scope, receive, send)

    def _verdict(self, scope: Scope) -> tuple[int, str]:
        """(0, "") where the request may pass, else a status and a sentence."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self._is_allowed(hosts[0]):
            return 403, "this Host is not served here; open the address that the command printed"
        origins = headers.get("origin", [])
        is_websocket = scope["type"] == "websocket"
        if len(origins) > 1 or (is_websocket and not origins):
            return 403, "expected one Origin"
        if origins and not _is_same_place(origins[0], hosts[0]):
            return 403, "requests from other sites' pages are refused"
        if not self._knows_token(scope, headers):
            return 401, "open the address with the token that the command printed"
        if not is_websocket and scope["method"] not in ("GET", "HEAD"):
            return 405, "only GET is served"
        if headers.get("content-length", ["0"]) != ["0"] or "transfer-encoding" in headers:
            return 413, "requests with a body are refused"
        return 0, ""

    def _is_allowed(self, host_and_port: str) -> bool:
        host = _split_host(host_and_port)
        if host is None:
            return False
        if host in self.hosts:
            return True
        if not self.allows_addresses:
            return False
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def _knows_token(self, scope: Scope, headers: dict[str, list[str]]) -> bool:
        offered = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [])
        for header in headers.get("cookie", []):
            cookie: SimpleCookie = SimpleCookie()
            try:
                cookie.load(header)
            except Exception:  # a malformed cookie is no cookie
                continue
            if self.cookie in cookie:
                offered.append(cookie[self.cookie].value)
        expected = self.token.encode()
        return any(hmac.compare_digest(one.encode("utf-8", "replace"), expected) for one in offered)


def cookie_name(token: str) -> str:
    """The token's cookie: ports share cookies, so two servers on one machine need two names."""
    return f"iris_wm_play_{hashlib.sha256(token.encode()).hexdigest()[:12]}"


class RateLimit:
    """A bucket of `burst` messages that fills at `per_second`."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self.burst, self.clock = per_second, burst, clock
        self._level, self._at = float(burst), clock()

    def allows(self) -> bool:
        """Takes one message; False where there are too many."""
        now = self.clock()
        self._level = min(self.burst, self._level + (now - self._at) * self.per_second)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True


def _split_host(host_and_port: str) -> str | None:
    """The host of "host", "host:port" or "[v6]:port", in lower case; None where it is malformed."""
    try:
        parts = urlsplit(f"//{host_and_port}")
        _ = parts.port
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment or not parts.hostname:
        return None
    return parts.hostname.rstrip(".")


def _is_same_place(origin: str, host_and_port: str) -> bool:
    """Whether an Origin is a web page of this very host and port."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https") and parts.netloc.lower() == host_and_port.lower() and not parts.path
    )


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
            return
        kind = "websocket.http.response"
    else:
        kind = "http.response"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    body = f"{status}: {reason}\n".encode()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
