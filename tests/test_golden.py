"""The updates of every algorithm give the numbers of the first version."""

from __future__ import annotations

import json

import pytest
from golden.make import CASES, PATH, numbers

GOLDEN = json.loads(PATH.read_text())
# Three updates in single precision: the order of a sum differs between processors and numbers of
# threads, and Adam's first steps divide by gradients that are near to zero.
RELATIVE, ABSOLUTE = 1e-4, 1e-5


def renamed(logged: dict[str, float]) -> dict[str, float]:
    """What was logged, with one name for the influence's loss.

    The first version called it loss_influence_0, loss_influence_0_1_2, or by several names, by
    how it was computed; it is the sum.
    """
    parts = [name for name in logged if name.startswith("loss_influence")]
    rest = {name: value for name, value in logged.items() if name not in parts}
    return rest | ({"loss_influence": sum(logged[name] for name in parts)} if parts else {})


@pytest.mark.parametrize("case", CASES)
def test_updates_give_the_numbers_of_the_first_version(case):
    found, expected = numbers(case), GOLDEN[case]
    assert found["parameters"].keys() == expected["parameters"].keys()
    for name, digest in expected["parameters"].items():
        assert found["parameters"][name] == pytest.approx(digest, rel=RELATIVE, abs=ABSOLUTE), name
    for update, (logs, logged) in enumerate(zip(found["logs"], expected["logs"], strict=True)):
        assert logs == pytest.approx(renamed(logged), rel=RELATIVE, abs=ABSOLUTE), update
