"""Serves the page: only to who has the token, and no files but those that it shows."""

from __future__ import annotations

import hmac
import os
import socket
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

from finetune.errors import ConfigError
from finetune.ui.roots import Roots

FIRST_PORT, _PORTS = 7860, 20
_REFUSED = (
    b"This page needs the token of its address.\n"
    b"Open the address that finetune ui has written to the terminal, all of it.\n"
)


class Guard:
    """An ASGI application that lets through who gives the token: in the address, or in the cookie set then.

    Args:
        app: What is guarded.
        token: The token.
        cookie: Name of the cookie; those of one machine are shared by all ports.
    """

    def __init__(self, app: Any, token: str, cookie: str) -> None:
        self.app, self.token, self.cookie = app, token, cookie

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers a request."""
        if scope["type"] == "lifespan" or self._known(self._cookie_of(scope)):
            await self.app(scope, receive, send)
            return
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token")
        if scope["type"] == "http" and scope["method"] == "GET" and self._known(given):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            # Lax: no other site can make the browser send more than a visit of the page.
            cookie = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Lax"
            where = f"{scope['path']}?{rest}" if rest else scope["path"]
            headers = [(b"location", where.encode("latin-1", "replace")), (b"set-cookie", cookie.encode())]
            await _answer(send, 303, b"", headers)
        elif scope["type"] == "http":
            await _answer(send, 403, _REFUSED, [])
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _known(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def _cookie_of(self, scope: Any) -> str | None:
        for name, value in scope.get("headers", ()):
            if name == b"cookie":
                found = SimpleCookie(value.decode("latin-1")).get(self.cookie)
                if found is not None:
                    return found.value
        return None


async def _answer(send: Any, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    own = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    own.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": body})


def bound(host: str, port: int | None) -> socket.socket:
    """A socket that listens for the page.

    Args:
        host: The address, such as 127.0.0.1.
        port: The port; the first free one from 7860 on if None.

    Raises:
        ConfigError: If it is taken, or this machine has no such address.
    """
    ports = [port] if port is not None else range(FIRST_PORT, FIRST_PORT + _PORTS)
    reason = ""
    for number in ports:
        try:
            return socket.create_server((host, number))
        except (OSError, OverflowError) as error:
            reason = str(getattr(error, "strerror", None) or error)
    raise ConfigError(
        f"The page cannot be served here: {reason}.",
        where=f"--host {host}" + (f" --port {port}" if port is not None else ""),
        fix="Choose another port, or stop what is using it.",
    )


def application(roots: Roots, token: str, cookie: str) -> Any:
    """The page as an ASGI application, guarded.

    Args:
        roots: What it may look into.
        token: Who has it may do all that the page can.
        cookie: As of `Guard`.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing is told to anybody
    import gradio as gr
    from fastapi import FastAPI

    from finetune.ui.page import look, make_page, style

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page = make_page(roots)
    # No folder is served; Gradio copies the pictures that the page shows.
    mounted = gr.mount_gradio_app(
        app,
        page,
        path="/",
        css=style(),
        theme=look(),
        footer_links=[],
        ssr_mode=False,
        show_error=True,
        allowed_paths=[],
        enable_monitoring=False,
    )
    return Guard(mounted, token, cookie)


def serve(listening: socket.socket, roots: Roots, token: str) -> None:
    """Serves the page until the process is asked to end.

    Args:
        listening: Of `bound`.
        roots: What the page may look into.
        token: As of `application`.
    """
    import uvicorn

    app = application(roots, token, f"finetune-{listening.getsockname()[1]}")
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, lifespan="on")
    uvicorn.Server(config).run(sockets=[listening])
