"""A network that answers soon or not at all: downloads must fail, never hang."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def impatient_network(seconds: float = 15.0) -> Iterator[None]:
    """Within: a connection or a read that stalls for ``seconds`` fails, and so does a name look-up.

    The socket timeout does not cover the resolver, which can block for minutes on a machine without a network; it
    runs in a thread of its own that is left behind when it does not answer. Both settings are the process's: they
    are put back at the end.
    """
    patience, resolve = socket.getdefaulttimeout(), socket.getaddrinfo

    def resolve_soon(*args: Any, **kwargs: Any) -> Any:
        answer: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answer.put((True, resolve(*args, **kwargs)))
            except Exception as error:
                answer.put((False, error))

        threading.Thread(target=ask, daemon=True).start()
        try:
            found, value = answer.get(timeout=seconds)
        except queue.Empty:
            raise socket.gaierror(socket.EAI_AGAIN, f"no answer from the resolver in {seconds:g} s") from None
        if not found:
            raise value
        return value

    socket.setdefaulttimeout(seconds)
    socket.getaddrinfo = resolve_soon
    try:
        yield
    finally:
        socket.setdefaulttimeout(patience)
        socket.getaddrinfo = resolve
