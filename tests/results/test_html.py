from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.results import html
from pipeline.results.html import COLOURS, label_colours
from tests.evaluation.example_evaluation import FRAMES, make_evaluation
from tests.results.example_report import MIXED, write_example

TEMPLATES = Path(html.__file__).parent / "templates"
SHARED, EXPLORER = (
    (TEMPLATES / name).read_text("utf-8") for name in ("style.css", "explorer/explorer.css")
)
STYLE = SHARED + EXPLORER
SCRIPTS = "".join(path.read_text("utf-8") for path in TEMPLATES.glob("explorer/*.js"))
TEMPLATE_TEXT = SCRIPTS + "".join(path.read_text("utf-8") for path in TEMPLATES.glob("*.j2"))
DECLARATION = re.compile(r"(--)?[a-z]+(-[a-z]+)*: \S[^;{}]*")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Return the HTML of the report of a run and of an evaluation."""
    from pipeline.evaluation.report import write_report

    folder = tmp_path_factory.mktemp("reports")
    evaluation = make_evaluation(seeds=(0, 1), frames=[FRAMES], warnings=["beware"])
    paths = [write_example(folder / "run", MIXED), write_report(evaluation, folder / "evaluation")]
    return [path.read_text("utf-8") for path in paths]


class TestStyle:
    def test_no_identifier_is_broken(self):
        """A line break inside an identifier makes a browser ignore the whole declaration."""
        assert re.findall(r"[a-z]-\s", STYLE) == []

    def test_every_declaration_is_well_formed(self):
        blocks = re.findall(r"\{([^{}]*)\}", STYLE)
        declarations = [d.strip() for block in blocks for d in block.split(";") if d.strip()]

        assert len(declarations) > 50
        assert [d for d in declarations if not DECLARATION.fullmatch(d)] == []
        assert STYLE.count("{") == STYLE.count("}")

    def test_media_features_are_known(self):
        features = re.findall(r"@media \(([a-z-]+): [a-z0-9.]+\) \{", STYLE)

        assert features == ["prefers-color-scheme", "max-width", "max-width"]
        assert STYLE.count("@") == len(features)

    def test_every_colour_is_defined(self):
        used = set(re.findall(r"var\((--[a-z]+)\)", STYLE)) - {"--row"}

        for scheme in re.findall(r":root \{([^{}]*)\}", STYLE):
            assert set(re.findall(r"(--[a-z]+):", scheme)) == used

    def test_it_is_part_of_the_pages(self, pages):
        for page in pages:
            assert SHARED.strip() in page
        assert [EXPLORER.strip() in page for page in pages] == [True, False]

    def test_every_class_has_a_rule(self, pages):
        """Each page is complete without another file."""
        classes = {
            name
            for page in pages
            for names in re.findall(r'class="(.*?)"', page)
            for name in names.split()
        }
        classes |= {
            name
            for names in re.findall(r'makeElement\("[a-z]+", "([a-z -]+)"', SCRIPTS)
            for name in names.split()
        }

        rules = set(re.findall(r"\.([a-z]+(?:-[a-z]+)*)", STYLE))
        assert classes <= rules
        assert [name for name in rules if name not in TEMPLATE_TEXT] == []


def test_colours_repeat_when_labels_are_many():
    labels = [str(number) for number in range(len(COLOURS) + 1)]

    assert label_colours(labels)["0"] == label_colours(labels)[labels[-1]] == COLOURS[0]
    assert len(set(label_colours(labels).values())) == len(COLOURS)
