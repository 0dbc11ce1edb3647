"""Flows with a server, started from the command line."""

from __future__ import annotations

import gc

from flows.server.launch import _loading


def test_imported_objects_are_excluded_from_garbage_collection():
    frozen = gc.get_freeze_count()
    try:
        with _loading():
            assert not gc.isenabled()
            loaded = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen + 1000
        assert len(loaded) == 1000
    finally:
        gc.unfreeze()


def test_heartbeats_are_sent_to_a_server_that_the_user_selected(api, tmp_path, monkeypatch):
    """There automations may depend on them; a server that ends with the run has none."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.server.launch import _heartbeats, with_server

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", api.url)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", api.api.auth_string)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 180}):
        sent = with_server(
            lambda: lambda has_api: (has_api, PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value())
        )
        assert sent == (True, 180)
        with _heartbeats(api):
            assert PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() is None
