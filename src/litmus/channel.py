"""Lines of JSON between two processes of one machine, over a socket that has a path.

A path reaches a forked child and the ranks that it starts alike. What comes in is read as plain values, never
unpickled. Imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any


class Closed(ConnectionError):
    """The other end is gone."""


class Channel:
    """One end. Not for several threads at once."""

    def __init__(self, connected: socket.socket):
        self._socket = connected
        self._read = b""

    @classmethod
    def to(cls, path: str) -> Channel:
        """Connect to the ``Door`` at ``path``. Raises ``Closed`` where nobody listens any more."""
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.connect(path)
        except OSError as error:
            connected.close()
            raise Closed(f"nobody listens at {path}: {error}") from None
        return cls(connected)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Closed(str(error)) from None

    def receive(self, timeout_sec: float | None = None) -> dict[str, Any] | None:
        """The next message; None if none comes within ``timeout_sec``. Raises ``Closed`` at the end."""
        while b"\n" not in self._read:
            if not select.select([self._socket], [], [], timeout_sec)[0]:
                return None
            try:
                part = self._socket.recv(65536)
            except OSError as error:
                raise Closed(str(error)) from None
            if not part:
                raise Closed("the other end is gone")
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return dict(json.loads(line))

    @property
    def holds_more(self) -> bool:
        """Whether a whole message was read already, of which ``select`` knows nothing."""
        return b"\n" in self._read

    def close(self) -> None:
        self._socket.close()


class Door:
    """Where one ``Channel`` is waited for, in a folder that only its owner may enter."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="litmus-")  # mode 0700; short, for a path may have 107 characters
        self.path = str(Path(self._folder) / "door")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen()

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> Channel:
        return Channel(self._socket.accept()[0])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()
            os.unlink(self.path)
        shutil.rmtree(self._folder, ignore_errors=True)
