"""
Messages between a decode process and its parent: JSON with a length prefix, over a socket.

Frames do not pass here: they lie in a ring of shared memory, whose descriptor is sent once.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

HEADER = struct.Struct("!I")
"""Length of the JSON that follows, in bytes."""
Message = dict[str, Any]


def send(channel: socket.socket, message: Message, descriptor: int | None = None) -> None:
    """Send one message, and a file descriptor with it if given."""
    data = json.dumps(message).encode()
    data = HEADER.pack(len(data)) + data
    if descriptor is not None:
        socket.send_fds(channel, [data[: HEADER.size]], [descriptor])
        data = data[HEADER.size :]
    channel.sendall(data)


def receive(channel: socket.socket) -> tuple[Message, int | None]:
    """
    Wait for one message, and the file descriptor that was sent with it.

    Raises:
        EOFError: the other side closed the channel.
        TimeoutError: the channel has a timeout, and it passed.
    """
    head, descriptors, _, _ = socket.recv_fds(channel, HEADER.size, 1)
    head += _receive_exactly(channel, HEADER.size - len(head))
    (length,) = HEADER.unpack(head)
    message = json.loads(_receive_exactly(channel, length))
    return message, descriptors[0] if descriptors else None


def _receive_exactly(channel: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        count = channel.recv_into(view[done:])
        if not count:
            raise EOFError("the other side closed the channel")
        done += count
    return bytes(data)
