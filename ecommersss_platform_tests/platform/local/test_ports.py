"""Ports on the loopback address: the wanted one, the next free one, or a sentence."""

from __future__ import annotations

import socket

import pytest

from ecommersss_platform.local import ports
from streaming.errors import PlatformError


def test_the_next_free_port_is_taken_and_never_one_beyond_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: port == 65_532)
    assert ports.free_port(65_530) == 65_532
    with pytest.raises(PlatformError, match=r"^the ports 65533 to 65535 are all taken"):
        ports.free_port(65_533)


def test_a_port_for_root_only_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(PlatformError, match=r"^port 80 is for root only: choose one from 1024 to 65535$"):
        ports.free_port(80)
