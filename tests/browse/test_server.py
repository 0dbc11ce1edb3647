from __future__ import annotations

import urllib.request

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

from pipeline.browse.clip_decoder import ClipDecoder
from pipeline.browse.media import parse_range
from pipeline.browse.results_view import ResultsView
from pipeline.browse.serve import serve
from pipeline.browse.server import Viewer, make_app
from pipeline.errors import MachineError, SourceError
from tests.results.example_report import LABELS
from tests.videos import read_number

TOKEN = "secret-token"
ADDRESS = "http://127.0.0.1:8000"
NAMES = ["h264", "avi", "prores", "images", "turned"]


@pytest.fixture(scope="module")
def app(out):
    decoder = ClipDecoder(workers=1)
    yield make_app(Viewer(ResultsView(out), decoder).routes(), TOKEN)
    decoder.close()


@pytest.fixture
def stranger(app):
    """A client without the token."""
    return TestClient(app, base_url=ADDRESS, follow_redirects=False)


@pytest.fixture
def client(stranger):
    stranger.get("/", params={"token": TOKEN})
    return stranger


def read_webp(answer):
    assert answer.status_code == 200, answer.text
    image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(image[:, :, ::-1])


class TestAccess:
    @pytest.mark.parametrize("path", ["/", "/videos/0", "/clips/0.mp4", "/clips/0", "/none"])
    @pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x"])
    def test_nothing_without_the_token(self, stranger, path, token):
        headers = {"cookie": f"clipline={token}"}
        answer = stranger.get(path, params={"token": token}, headers=headers)

        assert answer.status_code == 403
        assert b"plain.mp4" not in answer.content

    def test_the_token_becomes_a_cookie_that_other_sites_cannot_send(self, stranger):
        answer = stranger.get("/", params={"token": TOKEN})

        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert "SameSite=strict" in answer.headers["set-cookie"]
        assert stranger.get("/").status_code == 200

    @pytest.mark.parametrize("host", ["example.org", "example.org:8000", "", "127.0.0.1.evil.org"])
    def test_foreign_hosts_are_refused(self, client, host):
        assert client.get("/", headers={"host": host}).status_code == 403

    @pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1:1234", "[::1]:8000"])
    def test_ports_may_be_forwarded(self, client, host):
        cookie = {"cookie": f"clipline={TOKEN}"}

        assert client.get("/", headers={"host": host, **cookie}).status_code == 200

    @pytest.mark.parametrize(
        "origin", ["https://example.org", "null", "http://127.0.0.1:9999", "http://localhost:8000"]
    )
    def test_foreign_origins_are_refused(self, client, origin):
        assert client.get("/", headers={"origin": origin}).status_code == 403

    def test_its_own_origin_is_allowed(self, client):
        assert client.get("/", headers={"origin": ADDRESS}).status_code == 200

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
    def test_requests_only_read(self, client, method):
        assert client.request(method, "/").status_code == 405

    @pytest.mark.parametrize(
        "path",
        [
            *("/videos/99", "/videos/-1", "/videos/../run.json", "/videos/%2e%2e%2frun.json"),
            *("/run.json", "/clips/99.mp4", "/clips/0/8-of-8.webp", "/clips/0/0-of-99.webp"),
            *("/videos//etc/passwd", "/videos/%2fetc%2fpasswd"),
        ],
    )
    def test_no_other_file_can_be_read(self, client, path):
        assert client.get(path).status_code in (404, 405)

    def test_headers_forbid_embedding_and_guessing(self, client):
        headers = client.get("/").headers

        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"


class TestMedia:
    @pytest.mark.parametrize("row", range(2 * len(NAMES)))
    def test_frames_of_a_clip_are_at_equal_distances(self, client, row):
        if NAMES[row // 2] == "turned":
            pytest.skip("its bar code is turned as well")

        images = [read_webp(client.get(f"/clips/{row}/{k}-of-3.webp")) for k in range(3)]

        first = 30 * (row % 2)
        assert [read_number(image) for image in images] == [first + 5, first + 15, first + 25]

    def test_a_frame_of_a_video(self, client):
        image = read_webp(client.get("/videos/0/image.webp", params={"seconds": 1.01}))

        assert read_number(image) == 30

    def test_a_file_is_given_as_it_is_and_in_ranges(self, client, sources):
        data = sources["h264"].read_bytes()

        assert client.get("/videos/0").content == data
        part = client.get("/videos/0", headers={"range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, data[100:200])
        assert part.headers["content-range"] == f"bytes 100-199/{len(data)}"

    def test_converted_clips_are_given_in_ranges(self, client):
        data = client.get("/clips/2.mp4").content
        part = client.get("/clips/2.mp4", headers={"range": f"bytes=10-{10**9}"})

        assert data[4:8] == b"ftyp"
        assert (part.status_code, part.content) == (206, data[10:])
        assert client.get("/clips/2.mp4", headers={"range": f"bytes={10**9}-"}).status_code == 416

    def test_a_folder_of_images_is_no_file(self, client):
        assert client.get(f"/videos/{NAMES.index('images')}").status_code == 404

    def test_a_file_that_is_gone_has_a_reason(self, out, tmp_path):
        results, decoder = ResultsView(out), ClipDecoder(workers=1)
        results._videos = results._videos.set_column(
            0, "path", [[str(tmp_path / "gone.mp4")] * results.num_videos]
        )
        client = TestClient(make_app(Viewer(results, decoder).routes(), TOKEN), base_url=ADDRESS)
        client.get("/", params={"token": TOKEN})

        answer = client.get("/clips/0.mp4")
        decoder.close()

        assert answer.status_code == 422
        assert "No such file" in answer.text


class TestDetails:
    def test_all_scores(self, client):
        scores = client.get("/clips/1").json()["scores"]

        assert list(scores) == list(LABELS)
        np.testing.assert_allclose(list(scores.values()), [0.1, 0.8, 0.1], atol=1e-6)

    def test_similar_clips_come_first(self, client):
        similar = client.get("/clips/1").json()["similar"]

        assert set(similar[:4]) == {3, 5, 7, 9}
        assert 1 not in similar

    def test_without_embeddings_there_are_none(self, tmp_path, sources):
        from tests.results.example_report import MIXED, write_example

        write_example(tmp_path, MIXED)

        assert ResultsView(tmp_path).similar(0) is None


@pytest.mark.parametrize(
    ("header", "bounds"),
    [
        (None, None),
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-200", (90, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=0-1,5-6", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
        ("bytes=-", None),
    ],
)
def test_ranges(header, bounds):
    assert parse_range(header, 100) == bounds


class TestServe:
    def test_the_server_answers_on_loopback_until_the_block_ends(self, app):
        with serve(app) as port:
            address = f"http://127.0.0.1:{port}/?token={TOKEN}"
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            assert b"Clipline" in opener.open(address, timeout=30).read()

        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(address, timeout=30)

    def test_a_port_in_use_is_an_error(self, app):
        with serve(app) as port, pytest.raises(MachineError, match="choose another"):
            with serve(app, port):
                pass


def test_a_folder_without_results_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="no results"):
        ResultsView(tmp_path)
