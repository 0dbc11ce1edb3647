"""Run a local server in a thread, until its block ends."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette

from pipeline.errors import MachineError

HOST = "127.0.0.1"
START_SECONDS = 30.0


@contextlib.contextmanager
def serve(app: Starlette, port: int = 0) -> Iterator[int]:
    """
    Serve an application on the loopback interface.

    Args:
        app: the application.
        port: 0 takes a free one.

    Yields:
        The port, once the server answers.

    Raises:
        MachineError: the port is in use, or the server does not start.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise MachineError(
                f"port {port} cannot be used: {error.strerror}; choose another one with --port"
            ) from error
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", server_header=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="view", daemon=True
        )
        listener.listen()  # connections wait until the server accepts them
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join(START_SECONDS)
