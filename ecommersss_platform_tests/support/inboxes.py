"""Real receivers of alerts on loopback: a webhook whose behaviour a test chooses, and a mailbox."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope

from ecommersss_platform.local.ports import free_port


class Webhook:
    """An HTTP server that takes what `json://` sends. `status` and `delay` are those of its next answers.

    `received`: what it answered with 200, in order. `asked`: how often something came. `on_request` is
    called before an answer.
    """

    def __init__(self, port: int = 0) -> None:
        self.status, self.delay = 200, 0.0
        self.received: list[dict[str, Any]] = []
        self.asked = 0
        self.on_request: Callable[[], None] = lambda: None
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                inbox.asked += 1
                inbox.on_request()
                time.sleep(inbox.delay)
                if inbox.status == 200:
                    inbox.received.append(body)
                self.send_response(inbox.status)
                self.end_headers()

            def log_message(self, *arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.port}/hook"

    @property
    def titles(self) -> list[str]:
        return [body["title"] for body in self.received]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def webhook(port: int = 0) -> Iterator[Webhook]:
    server = Webhook(port)
    try:
        yield server
    finally:
        server.close()


class Mailbox:
    """An SMTP server. `answer` is what it says to a message; `mails` has those that it took."""

    def __init__(self) -> None:
        self.answer = "250 OK"
        self.mails: list[dict[str, str]] = []
        self.port = free_port(0)
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    async def handle_DATA(self, server: object, session: object, envelope: Envelope) -> str:
        if self.answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            mail = message_from_bytes(envelope.content, policy=default)
            body = mail.get_body(("plain", "html"))
            assert body is not None
            self.mails.append({"subject": str(mail["Subject"]), "body": str(body.get_content())})
        return self.answer

    @property
    def url(self) -> str:
        return (
            f"mailto://127.0.0.1:{self.port}/?from=platform@example.com&to=oncall@example.com&mode=insecure"
        )

    def close(self) -> None:
        self._controller.stop()


@contextmanager
def mailbox() -> Iterator[Mailbox]:
    server = Mailbox()
    try:
        yield server
    finally:
        server.close()
