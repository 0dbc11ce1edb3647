"""Imported by Python at the start of every process: records connections, forbids remote ones."""

from __future__ import annotations

import os
import sys

OURS = {"127.0.0.1", "::1", "localhost"}


def watch(record: int) -> None:
    """Record every address that a socket of this process binds, connects or sends to."""

    def hook(event, given):
        if event in ("socket.connect", "socket.bind", "socket.sendto"):
            address = given[1]
            if not isinstance(address, tuple):
                return  # a path, or a number: of this machine
            host, port = address[:2]
        elif event == "socket.getaddrinfo":
            host, port = given[0] or "localhost", given[1]
        else:
            return
        host = host.decode() if isinstance(host, bytes) else host
        os.write(record, f"{event} {host} {port}\n".encode())
        if host not in OURS:
            raise PermissionError(f"{event} {host} is forbidden here")

    sys.addaudithook(hook)


if "AUDIT" in os.environ:
    watch(os.open(os.environ["AUDIT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC))
