from __future__ import annotations

import inspect
import re

import pytest

from pipeline import errors
from pipeline.errors import (
    DecoderLost,
    EngineError,
    InputError,
    MachineError,
    OptionError,
    PipelineError,
    RecognizerError,
    SourceError,
    VideoError,
)
from pipeline.records import STATUSES


def classes():
    return {
        name: found
        for name, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, Exception)
    }


def drawn_tree():
    """Read the tree in the docstring: each name with the name above it."""
    above, path = {}, []
    for line in errors.__doc__.splitlines():
        found = re.match(r"    ([│├└─ ]*)([A-Z][A-Za-z]+)( |$)", line)
        if found:
            depth = len(found[1]) // 4
            path = [*path[:depth], found[2]]
            above[found[2]] = path[-2] if depth else None
    return above


def test_the_tree_is_as_drawn():
    drawn = drawn_tree()

    assert set(drawn) == set(classes())
    for name, above in drawn.items():
        base = classes()[name].__mro__[1].__name__
        assert base == (above or "Exception")


def test_every_error_is_a_pipeline_error():
    assert all(issubclass(found, PipelineError) for found in classes().values())


@pytest.mark.parametrize("kind", [SourceError, OptionError, RecognizerError])
def test_what_the_user_gave_is_told_from_what_the_machine_did(kind):
    assert issubclass(kind, InputError)
    assert not issubclass(kind, MachineError)


@pytest.mark.parametrize("kind", [DecoderLost, EngineError])
def test_machine_errors_are_no_input_errors(kind):
    assert issubclass(kind, MachineError)
    assert not issubclass(kind, InputError)


def test_a_wrong_option_is_a_value_error_too():
    """Whoever makes options in Python may catch what Python raises for bad values."""
    assert issubclass(OptionError, ValueError)


def test_a_video_error_carries_its_status():
    error = VideoError("too_large", "9 × 9 pixels")

    assert error.status == "too_large"
    assert error.status in STATUSES
    assert str(error) == "9 × 9 pixels"
