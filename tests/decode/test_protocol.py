from __future__ import annotations

import os
import socket
import threading

import pytest

from pipeline.decode.protocol import HEADER, receive, send


@pytest.fixture
def ends():
    """Both ends of a channel."""
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(10)
        right.settimeout(10)
        yield left, right


def test_messages_are_received_as_sent(ends):
    left, right = ends
    message = {"do": "index", "location": "/tmp/caf\udce9 🎬\n", "numbers": [1, 2.5, None]}

    send(left, message)
    send(left, {})

    assert receive(right) == (message, None)
    assert receive(right) == ({}, None)


def test_a_file_descriptor_is_received(ends, tmp_path):
    left, right = ends
    with (tmp_path / "a").open("w+b") as file:
        file.write(b"hello")
        file.flush()
        send(left, {"a": 1}, file.fileno())

    message, descriptor = receive(right)

    assert message == {"a": 1}
    assert os.pread(descriptor, 9, 0) == b"hello"
    os.close(descriptor)


def test_long_messages_are_received(ends):
    left, right = ends
    message = {"pts": list(range(300_000))}
    sender = threading.Thread(target=send, args=(left, message))
    sender.start()

    assert receive(right) == (message, None)
    sender.join()


def test_an_incomplete_message_fails(ends):
    left, right = ends
    left.sendall(HEADER.pack(100) + b"{")
    left.close()

    with pytest.raises(EOFError, match="the other side closed the channel"):
        receive(right)


def test_a_closed_channel_fails(ends):
    left, right = ends
    left.close()

    with pytest.raises(EOFError, match="the other side closed the channel"):
        receive(right)
