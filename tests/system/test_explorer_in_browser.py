"""The report of a run as users operate it in a browser: search, filters, keys, and its address."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.results.tables import load
from tests.results.example_report import EVIL, LABELS, failed, labelled, write_example
from tests.system.browser import open_browser

pytestmark = pytest.mark.system

RIGHT_TO_LEFT = "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe\N{HEBREW LETTER ALEF}.mp4"
LONG = "x" * 251 + ".mp4"
QUOTES = 'it\'s "quoted", with commas.mp4'
NAMES = ["a/plain.mp4", f"{EVIL}.mp4", RIGHT_TO_LEFT, LONG, QUOTES, "\\xff undecodable.mp4"]
CLIPS_PER_VIDEO = 6


def make_rows():
    """Videos with different scores, and one without a clip."""
    rng = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(NAMES):
        row = labelled(name, [(number + clip) % 3 for clip in range(CLIPS_PER_VIDEO)])
        clips = row.recognition.clips
        for index, clip in enumerate(clips):
            scores = clip.probabilities.copy()
            scores[scores.argmax()] = rng.uniform(0.4, 1)
            clips[index] = replace(clip, probabilities=scores, novelty=float(rng.normal()))
        rows.append(row)
    return [*rows, failed("b/cut.mp4", "partial", f"cut off {EVIL}")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_example(folder, make_rows())
    return folder


@pytest.fixture
def page(browser, out):
    return open_page(browser, out)


def open_page(browser, out, address="", **window):
    browser.open(out / "report.html", window.pop("width", 1440), address=address, **window)
    browser.wait("document.body.dataset.ready === 'true'")
    return browser


def shown(page, cell="name"):
    """Return the texts of a cell of the visible rows."""
    return page.evaluate(
        f"[...document.querySelectorAll('.row .row-{cell}')].map(cell => cell.textContent)"
    )


def result(page):
    return page.evaluate("document.getElementById('result').textContent")


def press(page, key):
    page.evaluate(
        "(document.activeElement ?? document.body).dispatchEvent(new KeyboardEvent('keydown', "
        f"{{key: {json.dumps(key)}, bubbles: true, cancelable: true}}))"
    )


def type_into(page, selector, value, event="input"):
    page.evaluate(
        f"(element => {{ element.value = {json.dumps(value)}; "
        f"element.dispatchEvent(new Event('{event}', {{bubbles: true}})) }})"
        f"(document.querySelector({json.dumps(selector)}))"
    )


def click(page, selector, text=""):
    """Click the first element that has this text in it."""
    page.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        f".find(element => element.textContent.includes({json.dumps(text)})).click()"
    )


class TestRows:
    def test_every_clip_is_shown(self, page):
        assert result(page) == "36 of 36 clips"
        assert shown(page)[:6] == [NAMES[0]] * 6
        assert shown(page, "time")[:2] == ["0.00–1.00 s", "1.00–2.00 s"]
        assert shown(page, "label")[:3] == list(LABELS)

    def test_names_are_shown_as_they_are(self, page):
        click(page, "[role=tab]", "Videos")

        assert shown(page) == [*NAMES, "b/cut.mp4"]

    def test_hostile_names_run_nothing_and_stay_in_their_cells(self, page):
        click(page, "[role=tab]", "Not fully decoded")

        assert page.evaluate("document.querySelectorAll('script').length") == 2
        assert shown(page, "score") == [f"cut off {EVIL}"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def test_failures_have_their_reasons(self, page):
        click(page, "[role=tab]", "Not fully decoded")
        click(page, ".row")

        assert shown(page, "label") == ["partial"]
        details = page.evaluate("document.getElementById('details').textContent")
        assert f"cut off {EVIL}" in details
        assert "the file is cut off or damaged" in details


class TestFilters:
    def test_search(self, page):
        type_into(page, "#search", "PLAIN")

        assert result(page) == "6 of 36 clips"
        assert set(shown(page)) == {NAMES[0]}

    def test_labels(self, page):
        click(page, "#labels .chip", "pan left")
        click(page, "#labels .chip", "still")

        assert result(page) == "24 of 36 clips"
        assert set(shown(page, "label")) == {"pan left", "still"}

    def test_a_range_of_scores(self, page, out):
        type_into(page, "#score input", "0.7")

        assert result(page) == f"{(load(out).score >= 0.7).sum()} of 36 clips"

    def test_a_range_of_novelty(self, page, out):
        type_into(page, "#novelty input:last-of-type", "0.5")

        novelty = load(out).novelty
        middle = (novelty.min() + novelty.max()) / 2
        assert result(page) == f"{(novelty <= middle).sum()} of 36 clips"

    def test_statuses(self, page):
        click(page, "[role=tab]", "Videos")
        click(page, "#statuses .chip", "partial")

        assert shown(page) == ["b/cut.mp4"]

    def test_nothing_matches(self, page):
        type_into(page, "#search", "no such name")

        assert result(page).startswith("No clips match")
        assert shown(page) == []

    def test_reset(self, page):
        type_into(page, "#search", "plain")
        click(page, "#labels .chip", "still")
        click(page, "#reset")

        assert result(page) == "36 of 36 clips"


class TestOrder:
    def test_the_lowest_scores_first(self, page, out):
        type_into(page, "#sort", "least", event="change")

        scores = [float(text.split()[0]) for text in shown(page, "score")]
        assert scores == sorted(scores)
        assert scores[0] == pytest.approx(load(out).score.min(), abs=0.006)

    def test_the_highest_novelty_first(self, page, out):
        type_into(page, "#sort", "novel", event="change")

        values = [float(text.split(" · ")[1]) for text in shown(page, "score")]
        assert values == sorted(values, reverse=True)
        assert values[0] == pytest.approx(load(out).novelty.max(), rel=1e-3)

    def test_by_name(self, page):
        click(page, "[role=tab]", "Videos")
        type_into(page, "#sort", "name", event="change")

        assert shown(page) == sorted([*NAMES, "b/cut.mp4"])


class TestDetails:
    def test_a_segment_leads_to_its_clips(self, page):
        click(page, "[role=tab]", "Videos")
        page.evaluate(
            "(canvas => canvas.dispatchEvent(new MouseEvent('click', {bubbles: true, "
            "clientX: canvas.getBoundingClientRect().left + canvas.clientWidth * 0.6, "
            "clientY: canvas.getBoundingClientRect().top + 5})))"
            "(document.querySelector('.row .row-timeline'))"
        )

        assert result(page) == "1 of 36 clips"
        assert (shown(page), shown(page, "time")) == ([NAMES[0]], ["3.00–4.00 s"])

    def test_segments_are_drawn_in_their_colours(self, page):
        click(page, "[role=tab]", "Videos")

        pixels = page.evaluate(
            "(canvas => [0.5, 1.5, 2.5].map(second => [...canvas.getContext('2d').getImageData("
            "Math.round(canvas.width * second / 6), canvas.height / 2, 1, 1).data]))"
            "(document.querySelector('.row .row-timeline'))"
        )
        assert pixels == [[0x4E, 0x79, 0xA7, 255], [0xF2, 0x8E, 0x2B, 255], [0x59, 0xA1, 0x4F, 255]]

    def test_the_selected_clip_has_its_values_and_a_link(self, page):
        click(page, ".row", "1.00–2.00")

        details = page.evaluate("document.getElementById('details').textContent")
        assert "clip_index1" in details
        link = page.evaluate("document.querySelector('#details a').href")
        assert link == "file:///v/a/plain.mp4#t=1.00,2.00"


class TestKeys:
    def test_keys_move_the_selection_and_change_the_view(self, page):
        for key in ("j", "j", "ArrowDown", "k"):
            press(page, key)
        assert page.evaluate("explorer.list.selected") == 1
        press(page, "End")
        assert page.evaluate("explorer.list.selected") == 35
        press(page, "Escape")
        assert page.evaluate("document.getElementById('details').hidden")
        press(page, "2")
        assert result(page) == "7 of 7 videos"
        press(page, "/")
        assert page.evaluate("document.activeElement.id") == "search"
        press(page, "j")
        assert page.evaluate("explorer.list.selected") == -1

    def test_the_last_row_is_reached_by_scrolling(self, page):
        page.evaluate("document.getElementById('rows').scrollTop = 1e9")
        page.wait(f"document.querySelector('#rows').textContent.includes({json.dumps('xff')})")

        assert shown(page)[-1] == NAMES[-1]


class TestAddress:
    def test_the_address_keeps_the_state(self, page, browser, out):
        type_into(page, "#search", "plain")
        click(page, "#labels .chip", "still")
        type_into(page, "#sort", "most", event="change")
        click(page, ".row")
        before = (result(page), shown(page, "score"))
        address = page.evaluate("location.hash")

        again = open_page(browser, out, address)

        assert (result(again), shown(again, "score")) == before
        assert not again.evaluate("document.getElementById('details').hidden")

    @pytest.mark.parametrize(
        "address", ["#view=none&sort=constructor", "#score=a~b&row=x", "#part=1&row=1e9", "#%FF"]
    )
    def test_invalid_addresses_show_the_page(self, browser, out, address):
        assert result(open_page(browser, out, address)) == "36 of 36 clips"


def test_the_selection_is_saved_as_csv(page, out):
    type_into(page, "#search", "quoted")
    text = page.evaluate("explorer.csvOfSelection()")

    rows = list(csv.DictReader(text.splitlines()))
    expected = load(out)
    expected = expected[expected.video == QUOTES]
    assert [row["video"] for row in rows] == [QUOTES] * CLIPS_PER_VIDEO
    assert [int(row["clip_index"]) for row in rows] == expected.clip_index.tolist()
    assert [row["label"] for row in rows] == expected.label.tolist()
    for column in ("start_seconds", "end_seconds", "score", "novelty"):
        found = [float(row[column]) for row in rows]
        np.testing.assert_allclose(found, expected[column], rtol=1 / 4096, atol=1e-4)


def test_no_request_leaves_the_page(browser, out):
    requests = browser.record_requests(lambda: open_page(browser, out))

    assert [url for url in requests if not url.startswith("data:")] == [
        (out / "report.html").as_uri()
    ]


def test_the_policy_blocks_what_is_injected(page):
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', "
        '\'<img src="https://example.org/x.png" onerror="window.injected = 1">\'); '
        "const script = document.createElement('script'); script.textContent = "
        "'window.injected = 2'; document.body.append(script); 0"
    )

    assert page.evaluate("window.injected") is None


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    rows = [labelled(f"folder/{n:04}.mp4", [n % 3, 1, 2] * 10) for n in range(1000)]
    write_example(folder, rows)
    return folder


class TestManyClips:
    def test_only_visible_rows_are_elements(self, browser, many):
        page = open_page(browser, many)

        assert result(page).startswith("30,000 of 30,000 clips in ")
        assert shown(page)[0] == "0000.mp4"
        assert page.evaluate("document.querySelectorAll('*').length") < 800
        page.evaluate("document.getElementById('rows').scrollTop = 5e5")
        page.wait("!document.querySelector('#rows').textContent.includes('0000.mp4')")
        assert page.evaluate("document.querySelectorAll('*').length") < 800

    def test_the_page_is_small(self, many):
        assert (many / "report.html").stat().st_size < 400_000


@pytest.mark.parametrize("width", [360, 768, 1440])
@pytest.mark.parametrize("view", ["clips", "videos", "failures", "run"])
def test_every_view_fits_the_window(browser, out, width, view):
    page = open_page(browser, out, f"#view={view}&row=0", width=width, height=740)

    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
