"""The report: what it says of rows, and what it refuses, in one line."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from fake_cells import cells
from PIL import Image
from result_rows import SHARE, make_row, run_of

from torchrl_alita import __main__ as command_line
from torchrl_alita.experiments import read_marl_eval, run_cells, write_rows
from torchrl_alita.experiments.report import write_report

RETURN = "evaluation/return_mean"


def rows(seeds: int, task: str = "games") -> list:
    found = []
    for variant, gain in (("a", 0.0), ("b <i>", 10.0)):
        for seed in range(seeds):
            points = [
                {"frames": frames, "wall_seconds": 1.0, "metrics": {RETURN: value, SHARE: 0.5}}
                for frames, value in ((0, 0.0), (50, seed + gain))
            ]
            found.append(
                make_row(
                    variant=variant, seed=seed, task=task, frames=50, curve=points, settings={},
                    final=points[-1]["metrics"], references={"random": {RETURN: -1.0}},
                )
            )  # fmt: skip
    return found


class Page(HTMLParser):
    """What a page holds: texts, and where its pictures come from."""

    def __init__(self, text: str):
        super().__init__()
        self.words: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_tables_curves_and_a_page_that_needs_no_network(tmp_path):
    report = write_report(rows(5), tmp_path, title="t & u")
    text = report.markdown.read_text()
    # Of 0, 1, 2, 3, 4 the middle three; the band is of the mean of five drawn ones.
    assert re.search(
        r"\| a \| 5 \| 2\.00 \[\d\.\d\d, \d\.\d\d\] \| 0\.500 \[0\.500, 0\.500\]", text
    )
    assert "| random team |  | -1.00 |  |" in text
    pictures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert len(pictures) == 2
    assert all((tmp_path / name).stat().st_size > 5_000 for name in pictures)
    page = Page(report.page.read_text())
    assert not page.open
    assert len(page.sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "b <i>" in page.words
    assert "python recipes/alita_spread.py --influence-coeff 0" in page.words
    assert "http" not in report.page.read_text()


def test_pictures_of_a_task_of_ones_own_are_no_addresses(tmp_path):
    found = [replace(row, task="my_tasks:big cats") for row in rows(5)]
    text = write_report(found, tmp_path).markdown.read_text()
    pictures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert len(pictures) == 2
    assert not any(" " in name or ":" in name for name in pictures)
    assert all((tmp_path / unquote(name)).is_file() for name in pictures)


def test_few_seeds_are_shown_one_by_one_and_never_compared(tmp_path):
    text = write_report(rows(2), tmp_path).markdown.read_text()
    assert "| a | 2 | 0.00, 1.00 | 0.500, 0.500 |" in text
    assert "Fewer than five seeds make no interval" in text
    with pytest.raises(ValueError, match="at least 5 seeds of each variant and task, got 2"):
        write_report(rows(2), tmp_path, compare=("a", "b <i>"))


def test_a_comparison_is_of_all_tasks_that_both_have(tmp_path):
    found = rows(5) + rows(5, "other")
    text = write_report(found, tmp_path, compare=("b <i>", "a")).markdown.read_text()
    assert (
        "above that of a run of a with probability 1.00 (95 % interval 1.00 to 1.00, 2 tasks)"
        in text
    )


def command(*words: object) -> int:
    return command_line.main(["report", *map(str, words)])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere holds no rows"),
        (["run"], "run is a single run"),
        (["."], "line 3, is damaged: it lacks algorithm"),
        (["good", "--metrics", "evaluation/retrun_mean"], "Did you mean 'evaluation/return_mean'?"),
        (["good", "--compare", "a", "c"], "Unknown variant 'c'. Known: ['a', 'b <i>']"),
        (["good", "--compare", "a", "b <i>"], "at least 5 seeds"),
        (["empty"], "There is no finished run"),
        (["twice"], "There are two rows of games, 50 frames, a, seed 0."),
        (["good", "--nonsense"], "unrecognized arguments: --nonsense"),
        ([], "the following arguments are required: dir"),
    ],
)
def test_what_cannot_be_reported_is_one_line_and_status_2(
    words, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "results.jsonl", rows(1))
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write("{}\n")
    write_rows(tmp_path / "good" / "results.jsonl", rows(2))
    write_rows(tmp_path / "twice" / "results.jsonl", rows(3) + rows(3))
    write_rows(tmp_path / "empty" / "results.jsonl", [])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    assert command(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("torchrl-alita report: ")
    assert said in captured.err
    assert [file.name for file in (tmp_path / "twice").iterdir()] == ["results.jsonl"]


def test_a_sweeps_report_has_its_episodes_and_marl_evals_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_cells(cells(2), tmp_path / "out", workers=2)
    for folder in (tmp_path / "out").glob("runs/games/*/*/run"):
        Image.new("P", (4, 4)).save(folder / "rollout.gif")
    assert command("out", "--marl-eval", "eval.json") == 0
    assert capsys.readouterr().out.split() == ["out/report.md", "out/report.html"]
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert [source[:14] for source in page.sources].count("data:image/gif") == 2
    assert "alita, seed 0" in page.words
    assert len(read_marl_eval(tmp_path / "eval.json", study="s")) == 4


def test_a_full_disk_is_said_and_the_rows_stay(tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "results.jsonl", rows(2))
    before = (tmp_path / "results.jsonl").read_bytes()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchrl_alita.experiments.report.draw_curves", full)
    assert command(tmp_path) == 2
    assert capsys.readouterr().err == "torchrl-alita report: [Errno 28] No space left on device\n"
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_a_metric_that_only_some_runs_have_is_shown_where_it_is(tmp_path):
    found = [run_of("x", 0, 1.0, 2.0), run_of("y", 0, 1.0, 2.0, final={})]
    assert "| y | 1 |  |" in write_report(found, tmp_path).markdown.read_text()


def test_the_command_line_knows_its_commands(capsys):
    assert command_line.main(["--help"]) == 0
    assert "sweep" in capsys.readouterr().out
    assert command_line.main(["sweeep"]) == 2
    assert capsys.readouterr().err.startswith("torchrl-alita: unknown command 'sweeep'")
