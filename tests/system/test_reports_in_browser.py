"""The HTML reports as a browser shows them, on phones and in dark mode."""

from __future__ import annotations

import pytest

from pipeline.evaluation.report import write_report
from tests.evaluation.example_evaluation import FRAMES, make_evaluation
from tests.results.example_report import MIXED, failed, labelled, write_example
from tests.system.browser import open_browser

pytestmark = pytest.mark.system

LONG = "a_folder_name_without_any_space/" * 4 + "camera-17.mkv"
ROWS = [*MIXED, labelled(LONG, [0, 1, 2] * 20), failed(LONG * 2, "partial", LONG, 10**6)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    evaluation = make_evaluation(seeds=(0, 1), frames=[FRAMES], warnings=[LONG])
    return {
        "run": write_example(folder / "run", ROWS),
        "evaluation": write_report(evaluation, folder / "evaluation"),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
@pytest.mark.parametrize("name", ["run", "evaluation"])
class TestLayout:
    def test_the_page_fits_the_window(self, browser, reports, name, width, scheme):
        browser.open(reports[name], width, scheme)

        assert browser.evaluate("innerWidth") == width
        assert browser.evaluate("document.documentElement.scrollWidth") <= width

    def test_text_is_readable(self, browser, reports, name, width, scheme):
        """WCAG asks for a contrast of 4.5 between text and background."""
        browser.open(reports[name], width, scheme)

        background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (luminance(background) < 0.5) == (scheme == "dark")
        for selector in ("body", ".lead", "th"):
            element = f"document.querySelector('{selector}')"
            colour = browser.evaluate(f"getComputedStyle({element}).color")
            dark, light = sorted([luminance(colour), luminance(background)])
            assert (light + 0.05) / (dark + 0.05) >= 4.5, selector


@pytest.mark.parametrize("name", ["run", "evaluation"])
def test_the_legend_has_colours(browser, reports, name):
    browser.open(reports[name], 1440)
    browser.wait("document.querySelectorAll('.swatch').length >= 2")

    swatches = browser.evaluate(
        "[...document.querySelectorAll('#labels .swatch, .legend .swatch')].map(swatch => {"
        "const { width, height } = swatch.getBoundingClientRect();"
        "const rect = swatch.querySelector('rect');"
        "const style = getComputedStyle(rect ?? swatch);"
        "return [width, height, rect ? style.fill : style.backgroundColor] })"
    )
    assert len(swatches) >= 2
    assert len({colour for _, _, colour in swatches}) == len(swatches)
    assert all(width > 8 and height > 8 for width, height, _ in swatches)


def test_plots_are_shown(browser, reports):
    browser.open(reports["evaluation"], 768)

    widths = browser.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 3
    assert all(width > 100 for width in widths)


def luminance(colour):
    """Return the relative luminance of `rgb(r, g, b)` as WCAG defines it."""
    channels = [int(value) / 255 for value in colour.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
