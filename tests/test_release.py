"""The check of a release knows every extra."""

from __future__ import annotations

from release import LINES, extras


def test_every_extra_has_a_line_that_needs_it():
    assert set(LINES) == {"", *extras()}
