"""Serves the page: one person, one dream, at 127.0.0.1 unless told otherwise."""

import asyncio
import contextlib
import json
import secrets
import socket
import time
import webbrowser
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

from iris_wm.play.agent_dream import AgentDream
from iris_wm.play.game import Game
from iris_wm.play.guard import LOCAL_HOSTS, App, Guard, RateLimit, cookie_name

MAX_MESSAGE_BYTES = 4096
MESSAGES_PER_SECOND = 200.0
_BURST = 400
_MAX_CONNECTIONS = 32
_UNSEEN = 3
_TAKEN_OVER, _TOO_MANY = 4001, 1008


class _Table:
    """The one game of a server, and the tab that plays it. The newest tab takes over from the one before."""

    def __init__(self, game: Game) -> None:
        self.game = game
        # One worker: the dream is never called twice at once, not even while a closed tab's last step still runs.
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="dream")
        self.tab: Any = None

    async def play(self, socket_: Any) -> None:
        """Plays with one tab until it closes, floods, or another takes over."""
        previous, self.tab = self.tab, socket_
        if previous is not None:
            with contextlib.suppress(Exception):
                await previous.close(_TAKEN_OVER, "another tab plays now")
        await socket_.send_text(json.dumps(self.game.describe()))
        if (shown := self.game.last_frame()) is not None:
            await socket_.send_bytes(self.game.encode(shown))
        player = _Player(self, socket_)
        tasks = [asyncio.create_task(player.listen()), asyncio.create_task(player.show())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.tab is socket_:
                self.tab = None


class _Player:
    """One tab's messages in and frames out."""

    def __init__(self, table: _Table, socket_: Any) -> None:
        self.table, self.game, self.socket = table, table.game, socket_
        self.changed = asyncio.Event()
        self.sent, self.seen = 0, 0

    async def listen(self) -> None:
        """Takes messages until the tab closes; too many in a short time close it."""
        limit = RateLimit(MESSAGES_PER_SECOND, _BURST)
        while True:
            event = await self.socket.receive()
            if event["type"] != "websocket.receive":
                return
            if not limit.allows():
                await self.socket.close(_TOO_MANY, "too many messages")
                return
            await self._take(event.get("text"))
            self.changed.set()

    async def _take(self, text: str | None) -> None:
        try:
            message = json.loads(text or "null")
            if isinstance(message, dict) and message.get("type") == "seen":
                self.seen = self.sent
                return
            self.game.command(message)
            answer = self.game.state()
        except (ValueError, RecursionError) as error:
            answer = {"type": "error", "message": str(error).splitlines()[0]}
        await self.socket.send_text(json.dumps(answer))

    async def show(self) -> None:
        """Sends frames at the game's speed, and none while the tab has not shown the last few."""
        loop = asyncio.get_running_loop()
        due = time.perf_counter()
        while True:
            self.changed.clear()
            if not self.game.has_work or self.sent - self.seen >= _UNSEEN:
                await self.changed.wait()
                due = max(due, time.perf_counter() - 0.1)
                continue
            try:
                shown = await loop.run_in_executor(self.table.worker, self.game.tick)
            except Exception as error:  # whatever the dream raises, the page must say it and live on
                self.game.is_paused = True
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                await self.socket.send_text(json.dumps({"type": "error", "message": reason}))
                continue
            if shown is not None:
                self.sent += 1
                await self.socket.send_bytes(self.game.encode(shown))
            due += 1 / self.game.frames_per_second
            now = time.perf_counter()
            if due < now - 0.25:
                due = now
            await asyncio.sleep(max(0.0, due - now))


def create_app(
    game: Game, *, token: str, hosts: Iterable[str] = LOCAL_HOSTS, allows_addresses: bool = False
) -> App:
    """The ASGI application: the page at /, its websocket at /play, its recording at /recording.gif.

    Everything else is 404; nothing that the browser sends names a file. ValueError where FastAPI is missing.
    """
    try:
        from fastapi import FastAPI, Request, WebSocket
        from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
        from starlette.websockets import WebSocketDisconnect
    except ImportError:
        raise ValueError("play: needs FastAPI and uvicorn; pip install 'iris-wm[play]'") from None
    template = resources.files("iris_wm.play").joinpath("page.html").read_text(encoding="utf-8")
    table = _Table(game)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    safe = {
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }

    async def page(request: Request) -> Response:
        # The token moves from the address to a cookie, so that it stays out of screenshots and copied links.
        if "token" in request.query_params:
            answer: Response = RedirectResponse("/", status_code=303, headers=safe)
            answer.set_cookie(cookie_name(token), token, httponly=True, samesite="lax", path="/")
            return answer
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        text = template.replace("{{nonce}}", nonce)
        return HTMLResponse(text, headers=safe | {"Content-Security-Policy": policy})

    async def recording() -> Response:
        try:
            data = await asyncio.to_thread(game.recording_gif)
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", status_code=404, headers=safe)
        name = "".join(letter if letter.isalnum() else "-" for letter in game.dream.title.lower()) or "dream"
        headers = safe | {"Content-Disposition": f'attachment; filename="{name[:60]}.gif"'}
        return Response(data, media_type="image/gif", headers=headers)

    async def play(socket_: WebSocket) -> None:
        await socket_.accept()
        # A tab may vanish at any moment; sending to it then raises one of these.
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, ConnectionError):
            await table.play(socket_)

    app.add_api_route("/", page, methods=["GET"])
    app.add_api_route("/recording.gif", recording, methods=["GET"])
    app.add_api_websocket_route("/play", play)
    return Guard(app, token=token, hosts=hosts, allows_addresses=allows_addresses)


def serve(
    dream: AgentDream,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    names: Iterable[str] = (),
    frames_per_second: float = 15.0,
    seed: int = 0,
    opens_browser: bool = False,
    announce: Callable[[str], None] = print,
) -> None:
    """Serves the page until interrupted, and announces its address, which holds the run's token.

    host: 127.0.0.1 keeps the page on this machine, reachable from another by an SSH tunnel. Anything else is open
    to the network; the token is asked for all the same. port: 0 takes a free one. token: of at least 16
    characters; None draws one. names: further names under which a browser may call this host.

    Raises ValueError for an address that cannot be bound.
    """
    try:
        import uvicorn
    except ImportError:
        raise ValueError("play: needs FastAPI and uvicorn; pip install 'iris-wm[play]'") from None
    listener = _bind(host, port)
    port = listener.getsockname()[1]
    is_local = host in LOCAL_HOSTS
    token = token or secrets.token_urlsafe(24)
    allowed = {*LOCAL_HOSTS, *names} | (set() if is_local else {socket.gethostname().lower(), host})
    game = Game(dream, frames_per_second=frames_per_second, seed=seed)
    app = create_app(game, token=token, hosts=allowed, allows_addresses=not is_local)
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_max_queue=16,
        limit_concurrency=_MAX_CONNECTIONS,
        h11_max_incomplete_event_size=16384,
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    shown_host = "127.0.0.1" if is_local or host in ("0.0.0.0", "::") else host
    url = f"http://{f'[{shown_host}]' if ':' in shown_host else shown_host}:{port}/?token={token}"
    announce(f"Play the dream at {url}")
    if is_local:
        announce(
            f"From another machine: ssh -L {port}:127.0.0.1:{port} <this machine>, then open the same address."
        )
    else:
        announce(f"Open to the network at {host}:{port}: whoever has the address with the token can play.")
    announce("Stop with Ctrl+C.")
    if opens_browser:
        webbrowser.open(url)
    with contextlib.closing(listener):
        uvicorn.Server(config).run(sockets=[listener])


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket; ValueError in one line where that cannot be."""
    if not isinstance(port, int) or not 0 <= port <= 65535:
        raise ValueError(f"port: expected 0 to 65535, got {port!r}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ValueError(f"host: cannot use {host!r}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise ValueError(
            f"port: cannot listen on {host}:{port}: {error.strerror}; try another --port"
        ) from None
    return listener
