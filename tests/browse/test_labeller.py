from __future__ import annotations

import pandas as pd
import pytest
from starlette.testclient import TestClient

from pipeline.browse.clip_decoder import ClipDecoder
from pipeline.browse.label_file import LabelFile
from pipeline.browse.labeller import Labeller, Labelling
from pipeline.browse.server import make_app
from tests.browse.test_label_queue import make_candidates

TOKEN = "secret-token"


@pytest.fixture(scope="module")
def decoder():
    made = ClipDecoder(workers=1)
    yield made
    made.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.csv"


def open_client(path, decoder, *, whole_videos=False, **given):
    candidates, _ = make_candidates(**given)
    labelling = Labelling(candidates, LabelFile(path), ("hug", "kick"), whole_videos)
    app = make_app(Labeller(labelling, decoder).routes(), TOKEN)
    client = TestClient(app, base_url="http://127.0.0.1:8000")
    assert client.get("/", params={"token": TOKEN}).status_code == 200
    return client


@pytest.fixture
def client(path, decoder):
    return open_client(path, decoder)


def next_row(client):
    return client.post("/next", json={}).json()["clip"]["row"]


class TestAnswers:
    def test_an_answer_is_a_row_of_the_table(self, client, path):
        clip = client.post("/next", json={}).json()["clip"]

        client.post("/label", json={"row": clip["row"], "label": "hug"})

        (row,) = pd.read_csv(path).to_dict("records")
        assert (row["video"], row["label"]) == (f"/v/{clip['video']}.mp4", "hug")
        assert (row["start_seconds"], row["end_seconds"]) == (clip["start"], clip["end"])
        assert row["group"] == row["video"]

    def test_a_part_that_was_dragged(self, client, path):
        answer = {"row": next_row(client), "label": "hug", "start_seconds": 0.5, "end_seconds": 99}

        client.post("/label", json=answer)

        (row,) = pd.read_csv(path).to_dict("records")
        assert (row["start_seconds"], row["end_seconds"]) == (0.5, 8.0)  # the end of the video

    def test_new_labels_are_offered_from_then_on(self, client):
        client.post("/label", json={"row": next_row(client), "label": " shake hands "})

        state = client.post("/next", json={}).json()["state"]
        assert state["labels"] == ["hug", "kick", "shake hands"]
        assert state["counts"] == {"hug": 0, "kick": 0, "shake hands": 1}
        assert state["untilProbe"] == 19

    def test_undo_takes_an_answer_back_and_shows_its_clip(self, client, path):
        row = next_row(client)
        done = client.post("/label", json={"row": row, "label": "hug"}).json()
        next_row(client)

        shown = client.post("/undo", json=done).json()

        assert shown["clip"]["row"] == row
        assert shown["state"]["answered"] == 0
        assert len(pd.read_csv(path)) == 0

    def test_a_skipped_clip_has_no_row(self, client, path):
        row = next_row(client)
        done = client.post("/skip", json={"row": row}).json()

        assert next_row(client) != row
        assert not path.exists()
        assert client.post("/undo", json=done).json()["clip"]["row"] == row

    def test_the_last_clip(self, path, decoder):
        client = open_client(path, decoder, videos=1, clips=1)
        client.post("/label", json={"row": next_row(client), "label": "hug"})

        assert client.post("/next", json={}).json()["clip"] is None

    def test_whole_videos(self, path, decoder):
        client = open_client(path, decoder, clips=1, whole_videos=True)
        client.post("/label", json={"row": next_row(client), "label": "hug"})

        (row,) = pd.read_csv(path).to_dict("records")
        assert pd.isna(row["start_seconds"])

    def test_another_session_goes_on(self, client, path, decoder):
        rows = {next_row(client)}
        client.post("/label", json={"row": min(rows), "label": "jump"})

        again = open_client(path, decoder, videos=20)

        state = again.post("/next", json={}).json()
        assert state["state"]["labels"] == ["hug", "kick", "jump"]
        assert state["state"]["answered"] == 1
        assert state["state"]["open"] == 79
        assert state["clip"]["row"] not in rows

    def test_the_command_to_train_is_shown(self, client, path):
        command = client.post("/next", json={}).json()["state"]["command"]

        assert command == f"clipline train {path} -o RECOGNIZER --backbone NAME"


class TestRefusals:
    @pytest.mark.parametrize(
        "answer",
        [
            {"label": "hug"},
            {"row": -1, "label": "hug"},
            {"row": 10**6, "label": "hug"},
            {"row": "0", "label": "hug"},
            {"row": 0, "label": ""},
            {"row": 0, "label": "a|b"},
            {"row": 0, "label": "a\nb"},
            {"row": 0, "label": "x" * 1000},
            {"row": 0, "label": "hug", "start_seconds": 3, "end_seconds": 1},
            {"row": 0, "label": "hug", "start_seconds": "a"},
            [],
        ],
    )
    def test_invalid_answers_write_nothing(self, client, path, answer):
        assert client.post("/label", json=answer).status_code == 400
        assert not path.exists()

    def test_forms_of_other_pages_write_nothing(self, client, path):
        answer = client.post("/label", data={"row": "0", "label": "hug"})
        foreign = client.post(
            "/label", json={"row": 0, "label": "hug"}, headers={"origin": "https://example.org"}
        )

        assert (answer.status_code, foreign.status_code) == (415, 403)
        assert not path.exists()

    def test_a_page_cannot_write_by_an_address(self, client):
        assert client.get("/label").status_code == 405


def test_the_page_offers_no_other_source(client):
    policy = client.get("/").text.split('Content-Security-Policy" content="')[1].split('"')[0]

    assert "default-src &#39;none&#39;" in policy
    assert "unsafe" not in policy
