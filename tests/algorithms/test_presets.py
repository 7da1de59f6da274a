"""The presets named "paper": what the pages say of them, and a run that asks for one."""

from __future__ import annotations

import dataclasses
import re

import pytest
from scripts import ROOT

from torchrl_alita import ALITA, MADDPG, TwinALITA
from torchrl_alita.algorithms import ALGORITHMS, DDPG
from torchrl_alita.training import parse_arguments

ROW = re.compile(r"\| `(\w+)` \| (.+?) \| (.+?) \|")


@pytest.mark.parametrize("name", ["maddpg", "alita", "twin_alita"])
def test_the_page_says_what_the_preset_has_and_where_the_paper_says_it(name):
    """What it does not list is as by default."""
    text = (ROOT / "docs" / "algorithms" / f"{name}.md").read_text()
    rows = ROW.findall(text.partition("## The paper's settings")[2].partition("## What is")[0])
    assert len(rows) >= 8
    assert all(re.match(r"Sec|Appendix|Eq|Table", place) for _, _, place in rows)
    known = ALGORITHMS[name]
    preset = dataclasses.asdict(known.presets["paper"])
    listed = {option for option, _, _ in rows}
    assert {option: str(preset[option]) for option in listed} == {o: v for o, v, _ in rows}
    default = dataclasses.asdict(known.Settings())
    assert {o for o in preset if preset[o] != default[o]} <= listed


def test_the_papers_numbers_are_those_of_its_appendix():
    for known in (MADDPG, DDPG, ALITA, TwinALITA):
        paper = known.presets["paper"]
        assert (paper.gamma, paper.max_grad_norm) == (0.95, 0.5)
        assert (paper.buffer_size, paper.batch_size, paper.frames_per_update) == (10**6, 1024, 100)
    for known, coefficient in ((ALITA, 0.01), (TwinALITA, 0.1)):
        paper = known.presets["paper"]
        assert (paper.novelty_coeff, paper.omega) == (coefficient, coefficient)
        assert (paper.influence_coeff, paper.diversity_coeff) == (0.1, 1.0)


@pytest.mark.parametrize("name", ["maddpg", "ddpg", "alita", "twin_alita"])
def test_a_preset_is_asked_for_on_the_command_line_and_single_options_beside_it(name):
    config = parse_arguments([name, "--preset", "paper", "--algorithm.tau", "0.5"])
    preset = ALGORITHMS[name].presets["paper"]
    assert config.algorithm == dataclasses.replace(preset, tau=0.5)
