"""What the benchmarks write from results, by hand."""

from __future__ import annotations

import json

import pytest
import torch
from scripts import ROOT, load, runs
from tensordict import TensorDict

from torchrl_alita.training import loop, parse_config

sparse_table = load("benchmarks", "sparse_table")


def test_a_text_between_markers_replaces_what_was_there_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x: begin -->\nold\n<!-- x: end -->\nafter\n")
    runs.write_between(page, "x", "new")
    assert page.read_text() == "before\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nafter\n"
    with pytest.raises(ValueError, match="unpack"):
        runs.write_between(page, "y", "new")


def test_a_table_has_a_row_for_each_and_numbers_to_the_right():
    assert runs.table(["team", "score"], [["a", "1"], ["b", "2"]]).splitlines() == [
        "| team | score |",
        "| --- | ---: |",
        "| a | 1 |",
        "| b | 2 |",
    ]


def test_a_span_is_the_mean_and_the_ends():
    assert runs.span([1.0, 2.0, 6.0], 1) == "3.0 [1.0, 6.0]"


def test_a_result_that_is_there_is_not_run_again(tmp_path):
    """The recipe does not exist: running it would be an error."""
    result = tmp_path / "one.json"
    result.write_text(json.dumps({"variant": "a"}))
    job = runs.Job("a", "no_such_recipe.py", (), result, ())
    runs.train_missing([job], workers=1)
    assert runs.results([job]) == {"a": [{"variant": "a"}]}


def test_a_run_leaves_its_command_summary_and_curves(tmp_path):
    options = (
        *("--algorithm", "maddpg", "--total-frames", "40", "--num-envs", "4", "--horizon", "5"),
        *("--frames-per-batch", "20", "--frames-per-update", "20", "--evaluation-interval", "20"),
        *("--evaluation-episodes", "3", "--exploration", "independent"),
    )
    curves = ("evaluation/boxes_per_episode", "exploration/state_coverage")
    job = runs.Job("row", "alita_push_box.py", options, tmp_path / "run.json", curves)
    runs.train_missing([job], workers=1)
    (content,) = runs.results([job])["row"]
    assert content["command"].startswith("python recipes/alita_push_box.py --algorithm maddpg")
    assert content["curves"]["boxes_per_episode"] == [[0, 0.0], [20, 0.0], [40, 0.0]]
    assert content["curves"]["state_coverage"][0] == [0, None]
    assert 0 < content["curves"]["state_coverage"][2][1] < 1e-3
    assert content["exploration"]["first_success_frame"] is None


@pytest.mark.parametrize(
    ("frames", "said"),
    [([None, None], "0 of 2"), ([1000.0, None, 3000.0], "2 of 3, frame 2,000")],
)
def test_the_first_success_is_averaged_over_the_runs_that_had_one(frames, said):
    found = [{"exploration": {"first_success_frame": frame}} for frame in frames]
    assert sparse_table.first_success(found) == said


def test_the_pages_tables_are_what_the_committed_results_say(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "sparse.md").read_text()
    (tmp_path / "docs").mkdir()
    copy = tmp_path / "docs" / "sparse.md"
    copy.write_text(page)
    runs.write_between(copy, "sparse tables", "")
    assert copy.read_text() != page
    (tmp_path / "sparse").symlink_to(ROOT / "benchmarks" / "results" / "sparse")
    monkeypatch.setattr(sparse_table, "ROOT", tmp_path)
    monkeypatch.setattr(sparse_table, "RESULTS", tmp_path)
    sparse_table.report(sparse_table.Config(report_only=True))
    assert copy.read_text() == page
    committed = (ROOT / "benchmarks" / "results" / "sparse.json").read_text()
    assert (tmp_path / "sparse.json").read_text() == committed


def battle_run(variant: str, won: list[float], frames: tuple[int, ...] = (0, 10)) -> dict:
    """A run's JSON, with what the figure of SMAX reads."""
    return {
        "variant": variant,
        "command": "python recipes/qmix_smac.py",
        "evaluation": {"win_rate": won[-1], "return_mean": 20 * won[-1]},
        "random_team": {"win_rate": 0.0, "return_mean": 1.5},
        "machine": {"torch": "1", "torchrl": "2", "python": "3", "cores": 2, "processor": "x"},
        "curves": {
            "win_rate": [list(pair) for pair in zip(frames, won, strict=True)],
            "return_mean": [[frame, 20 * share] for frame, share in zip(frames, won, strict=True)],
            "reward_mean": [[0, None], [frames[-1], 0.125]],
        },
    }


@pytest.fixture
def smax_figure(tmp_path, monkeypatch):
    script = load("benchmarks", "smax_figure")
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "smax").mkdir()
    page = tmp_path / "docs" / "starcraft.md"
    page.write_text("before\n<!-- smax: begin -->\n<!-- smax: end -->\nafter\n")
    return script


def test_quartiles_by_hand(smax_figure):
    assert smax_figure.quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    assert smax_figure.quartiles([7.0]) == (7.0, 7.0, 7.0)
    assert smax_figure.middle([0.0, 0.5, 1.0], 2) == "0.50 [0.25, 0.75]"


def test_a_job_of_the_figure_is_a_recipes_command(smax_figure, tmp_path):
    job = smax_figure.job("2s3z", "ALITA, no F", 1, 40_000)
    assert job.recipe == "alita_smac.py"
    assert job.result == tmp_path / "smax" / "2s3z-alita_no_f-40000-seed1.json"
    text = " ".join(job.options)
    assert text.startswith("--influence-coeff 0 --map 2s3z --seed 1 --total-frames 40000")
    assert "--evaluation-interval 2000" in text
    recipe = load("recipes", "alita_smac")
    config = parse_config(recipe.Config, job.options)
    assert (config.influence_coeff, config.total_frames) == (0.0, 40_000)


def test_the_report_has_a_row_for_each_variant_and_a_section_for_each_budget(smax_figure, tmp_path):
    found = {
        "2s3z-qmix-10-seed0.json": battle_run("QMIX", [0.0, 0.5]),
        "2s3z-qmix-10-seed1.json": battle_run("QMIX", [0.75, 0.25]),
        "2s3z-vdn-10-seed0.json": battle_run("VDN", [0.0, 1.0]),
        "5m_vs_6m-iql-30-seed4.json": battle_run("IQL", [0.0, 0.0]),
    }
    for name, content in found.items():
        (tmp_path / "smax" / name).write_text(json.dumps(content))
    smax_figure.report()
    page = (tmp_path / "docs" / "starcraft.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    lines = page.splitlines()
    assert "| random play |  | 0.00 |  | 1.5 |  |  |" in lines
    # 0.25 and 0.5 at the end, 0.75 and 0.5 at best.
    assert any(
        line.startswith("| QMIX | 2 | 0.38 [0.31, 0.44] | 0.62 [0.56, 0.69]") for line in lines
    )
    vdn = next(line for line in lines if line.startswith("| VDN | 1 | 1.00 [1.00, 1.00]"))
    # No algorithm here has a novelty.
    assert vdn.endswith("| 0.125 [0.125, 0.125] |  |")
    assert "### 2s3z, 10 frames" in lines
    assert "### 5m_vs_6m, 30 frames" in lines
    numbers = json.loads((tmp_path / "smax.json").read_text())
    assert numbers["2s3z, 10 frames"]["QMIX"]["win_rate"] == [0.5, 0.25]
    assert (tmp_path / "smax_2s3z_10.png").stat().st_size > 1000


def test_without_results_the_page_stays(smax_figure, tmp_path):
    before = (tmp_path / "docs" / "starcraft.md").read_text()
    smax_figure.report()
    assert (tmp_path / "docs" / "starcraft.md").read_text() == before


def test_the_scripts_attack_one_enemy_and_else_walk_east(smax_figure):
    """Ten actions: four ways, stop, five enemies."""
    mask = torch.tensor(
        [
            [1, 1, 1, 1, 1, 0, 1, 1, 0, 0],  # two enemies in reach
            [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],  # none
            [1, 0, 1, 1, 1, 0, 0, 0, 0, 0],  # none, and no way east
            [0, 0, 0, 0, 1, 0, 0, 0, 0, 0],  # dead
        ],
        dtype=torch.bool,
    )
    # They fight the battles that the runs are evaluated in.
    assert smax_figure.EVALUATION_SEED == loop._EVALUATION_SEED
    for last, attacked in ((False, 6), (True, 7)):
        batch = TensorDict({"agents": {"action_mask": mask}}, [])
        action = smax_figure.scripted(last)(batch)["agents", "action"]
        assert action.sum(-1).tolist() == [1.0] * 4
        assert action.argmax(-1).tolist() == [attacked, 1, 4, 4]


def test_the_page_has_a_row_for_each_script(smax_figure, tmp_path):
    (tmp_path / "smax" / "2s3z-vdn-10-seed0.json").write_text(
        json.dumps(battle_run("VDN", [0.0, 1.0]))
    )
    played = {"2s3z": {"a script": {"win_rate": 0.25, "return_mean": 8.0}}}
    (tmp_path / "smax_scripts.json").write_text(json.dumps(played))
    smax_figure.report()
    lines = (tmp_path / "docs" / "starcraft.md").read_text().splitlines()
    assert "| a script |  | 0.25 |  | 8.0 |  |  |" in lines


@pytest.fixture
def smax_settings():
    load("benchmarks", "smax_figure")
    return load("benchmarks", "smax_settings")


def test_every_setting_is_a_command_of_the_recipe_and_has_its_file(smax_settings):
    recipe = load("recipes", "alita_smac")
    jobs = [smax_settings.job(name) for name in smax_settings.SETTINGS]
    configs = [parse_config(recipe.Config, job.options) for job in jobs]
    assert {config.algorithm for config in configs} == {"maddpg"}
    assert (
        len({job.result for job in jobs}) == len({str(config) for config in configs}) == len(jobs)
    )


def test_a_settings_row_says_when_it_won_most_and_how_it_ended(smax_settings):
    run = {
        "evaluation": {"win_rate": 0.25, "return_mean": 7.0},
        "curves": {
            "win_rate": [[0, 0.0], [10, 0.5], [20, 0.25]],
            "saturated_share": [[0, None], [10, 0.5], [20, 0.75]],
        },
    }
    name = "one action drawn"
    assert smax_settings.row(name, run) == [
        "one action drawn `--own-actions policy`", "0.50", "10", "0.25", "7.0", "0.75",
    ]  # fmt: skip
