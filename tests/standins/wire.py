"""A wire to a host that can be cut: a proxy on loopback, which ssh goes through, and which spoils connections by dice."""

import contextlib
import random
import select
import socket
import struct
import threading
import time
from pathlib import Path

KINDS = ("closed", "reset", "stalled", "dropped")


class Wire:
    """Forwards connections to a port.

    Args:
        port: Of the sshd behind it.
        dice: Decides when and how connections are spoiled.
        after_s: The longest that a connection lives, in seconds.
        stall_s: How long a stalled or dropped connection stays open, unless the client gives it up.
    """

    def __init__(self, port: int, dice: random.Random, after_s: float, stall_s: float) -> None:
        self._target, self._dice, self._after_s, self._stall_s = port, dice, after_s, stall_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cuts = dict.fromkeys(KINDS, 0)
        self.given_up = 0  # connections that the client ended while they were stalled or dropped
        self.whole = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        kind, until = self._dice.choice(KINDS), time.monotonic() + self._dice.uniform(0, self._after_s)
        if kind in ("closed", "dropped") and not self.whole:
            self._spoil(kind, client)
            return
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as host, client:
            ends = {client: host, host: client}
            while self.whole or time.monotonic() < until:
                for ready in select.select(list(ends), [], [], 0.05)[0]:
                    if not (data := ready.recv(2048)):
                        return
                    ends[ready].sendall(data)
            self._spoil(kind, client)
            if kind == "reset":
                host.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _spoil(self, kind: str, client: socket.socket) -> None:
        self.cuts[kind] += 1
        if kind in ("stalled", "dropped"):
            began, hangup = time.monotonic(), select.poll()
            hangup.register(client, select.POLLRDHUP)  # what it sent before is not read
            while not self.whole and (stalled_s := time.monotonic() - began) < self._stall_s:
                if hangup.poll(50):
                    self.given_up += 1
                    break
                if stalled_s > self._stall_s / 2:  # behind more than a buffer holds, its going would not be seen
                    self._read_away(client)
        if kind == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    def _read_away(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while client.recv(1 << 16, socket.MSG_DONTWAIT):
                pass


def port_of(config: Path, name: str) -> int:
    """Return the port of a host in an ssh configuration."""
    lines = config.read_text(encoding="utf-8").partition(f"Host {name}\n")[2].splitlines()
    return next(int(line.split()[1]) for line in lines if "Port" in line)
