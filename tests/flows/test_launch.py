"""What a command does around the flow."""

from __future__ import annotations


def test_heartbeats_are_sent_to_a_server_that_the_user_chose(api, tmp_path, monkeypatch):
    """Somebody may listen there; nobody does at one that ends with the run."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.launch import _heartbeats, call_served

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", api.url)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 180}):
        sent = call_served(
            lambda: lambda served: (served, PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value())
        )
        assert sent == (True, 180)
        with _heartbeats(api):
            assert PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() is None
