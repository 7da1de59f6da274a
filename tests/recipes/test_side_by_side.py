"""The main job: two teams side by side, what it prints and what it draws."""

from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import Image
from scripts import ROOT, load

pytest.importorskip("vmas", reason="vmas is not installed: the extra vmas")

FIGURES = {
    "return_mean": -586.3, "landmark_distance": 2.0, "contacts_per_episode": 1.0,
    "occupied_share": 0.0,
}  # fmt: skip


@pytest.fixture
def recipe():
    return load("recipes", "side_by_side")


def test_the_table_has_the_random_team_and_the_best_that_is_known(recipe):
    """Halfway between the random team's -586.3 and the script's -84.8 is -335.55."""
    half = FIGURES | {"return_mean": -335.55, "occupied_share": 0.5}
    summaries = {
        "plain": {"random_team": FIGURES, "evaluation": FIGURES},
        "goal attention": {"random_team": FIGURES, "evaluation": half},
    }
    lines = [line.split() for line in recipe.table(summaries).splitlines()]
    assert lines[0] == ["random", "plain", "goal", "attention", "a", "script"]
    assert lines[1] == ["return", "-586.30", "-586.30", "-335.55", "-84.80"]
    assert lines[4][-3:] == ["0.00", "0.00", "0.50"]
    assert lines[5][-4:] == ["0.00", "0.00", "0.50", "1.00"]


def test_the_same_step_of_both_teams_stands_side_by_side(recipe, tmp_path):
    """A file has equal frames once, and shows them for longer: here the red team's first two."""
    red, blue = (Image.new("RGB", (40, 30), color) for color in ("red", "blue"))
    for name, frames, durations in (
        ("a", [red, blue], [200, 100]),
        ("b", [blue, red, blue], [100, 100, 100]),
    ):
        frames[0].save(
            tmp_path / f"{name}.gif", save_all=True, append_images=frames[1:], duration=durations
        )
    recipe.draw(tmp_path / "both.gif", {name: tmp_path / f"{name}.gif" for name in "ab"})
    frames = recipe.frames_of(tmp_path / "both.gif")
    assert [frame.size for frame in frames] == [(80, 46)] * 3
    seen = [(frame.getpixel((20, 30)), frame.getpixel((60, 30))) for frame in frames]
    colors = {(254, 0, 0): "red", (255, 0, 0): "red", (0, 0, 254): "blue", (0, 0, 255): "blue"}
    assert [tuple(colors[pixel] for pixel in pair) for pair in seen] == [
        ("red", "blue"), ("red", "red"), ("blue", "blue"),
    ]  # fmt: skip


def test_the_command_shows_both_teams_and_no_line_of_another_library(tmp_path):
    short = ("--num-envs", "10", "--frames-per-batch", "200", "--total-frames", "400")
    more = ("--evaluation-interval", "200", "--evaluation-episodes", "3")
    command = [sys.executable, str(ROOT / "recipes" / "side_by_side.py"), "--run-dir", "both"]
    result = subprocess.run(
        [*command, "--", *short, *more], cwd=tmp_path, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert sum("of landmarks covered" in line for line in lines) == 6
    assert lines[-1] == "The same episode of both teams: both/side_by_side.gif"
    assert (tmp_path / "both" / "side_by_side.gif").is_file()
    for word in ("INFO", "Warning", "warn"):
        assert word not in result.stdout
