"""A server that answers a CONNECT with given bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say to whoever connects, and whether to hang up afterwards."""

    payload: bytes
    closes: bool = False


class AnsweringServer:
    """Listens on a free port and counts who came."""

    def __init__(self, answer: Answer) -> None:
        self.connections = 0
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Answer one after the other until the listener is closed."""
        kept = []
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            self.connections += 1
            with contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(self._answer.payload)
            if self._answer.closes:
                connection.close()
            else:
                kept.append(connection)
        for connection in kept:
            connection.close()

    def close(self) -> None:
        """Listen no more; `shutdown` wakes a thread that waits in `accept`."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def answering(answer: Answer) -> Iterator[AnsweringServer]:
    """The server on a thread of its own."""
    server = AnsweringServer(answer)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(60.0)
