"""A door between a client and its broker that slams: connections break, and what was said just before may be lost."""

from __future__ import annotations

import contextlib
import socket
import threading


class Door:
    """Carries connections from a port of its own to a broker's; `deaf` swallows what clients say."""

    def __init__(self, port: int) -> None:
        self.deaf = False
        self.swallowed = 0
        self._target = port
        self._pairs: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                broker = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._pairs += [client, broker]
            for each in (client, broker):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._carry, args=(client, broker, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(broker, client, False), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, said: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if said and self.deaf:
                    self.swallowed += len(data)
                else:
                    sink.sendall(data)
        # One way only: what the other end had still to say is heard.
        for each, way in ((source, socket.SHUT_RD), (sink, socket.SHUT_WR)):
            with contextlib.suppress(OSError):
                each.shutdown(way)

    def slam(self) -> None:
        """Break every connection; new ones get through, and are heard."""
        pairs, self._pairs = self._pairs, []
        self.deaf = False
        for each in pairs:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        """Carry no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.slam()
