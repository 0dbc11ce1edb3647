"""The command `view`: look at results in a browser."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flows.cli.derive import integer
from flows.cli.options import SWITCH
from flows.cli.retry import ResultsFolder

if TYPE_CHECKING:
    from starlette.routing import Route

    from pipeline.browse.clip_decoder import ClipDecoder


def view(
    out: ResultsFolder,
    /,
    *,
    port: Annotated[
        int, integer(0), Parameter(help="Port of the server.", show_default="a free one")
    ] = 0,
    no_open: Annotated[
        bool, SWITCH, Parameter(help="Print the address only; open no browser.")
    ] = False,
) -> None:
    """Look at results in a browser: play clips, see all scores, find similar clips.

    The server reads only, listens on this machine only, and ends with Ctrl-C. To look from another
    machine: ssh -L PORT:127.0.0.1:PORT HOST, and open the printed address there.
    """
    from pipeline.browse.results_view import ResultsView
    from pipeline.browse.server import Viewer

    results = ResultsView(out)
    serve_until_stopped(lambda decoder: Viewer(results, decoder).routes(), port, no_open=no_open)


def serve_until_stopped(
    make_routes: Callable[[ClipDecoder], list[Route]], port: int, *, no_open: bool
) -> None:
    """
    Print the address of a local server, and serve until a signal arrives.

    Args:
        make_routes: makes the routes, given the decoder of their media.
        port: 0 takes a free one.
        no_open: open no browser.
    """
    from flows.cli.console import print_line
    from flows.signals import Interrupted, exit_now
    from pipeline.browse.access import make_token
    from pipeline.browse.clip_decoder import ClipDecoder
    from pipeline.browse.serve import HOST, serve
    from pipeline.browse.server import make_app

    decoder = ClipDecoder()
    token = make_token()
    try:
        with serve(make_app(make_routes(decoder), token), port) as used_port:
            address = f"http://{HOST}:{used_port}/?token={token}"
            print_line(f"{address}   (Ctrl-C ends the server)")
            sys.stdout.flush()
            if not no_open:
                open_browser(address)
            threading.Event().wait()
    except Interrupted as interrupted:
        decoder.close()
        exit_now(interrupted.exit_code)


def open_browser(address: str) -> None:
    """Open a browser if there is one; the address is printed in any case."""
    import webbrowser

    webbrowser.open(address)
