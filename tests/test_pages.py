"""The pages' tables are what the committed results say: all of them, by one test."""

from __future__ import annotations

import importlib

import pytest
from scripts import ROOT, load

from torchrl_alita.experiments import write_between

STUDIES = load("benchmarks", "study").NAMES
# The script for a GPU is of its own form.
MEASURED = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")} - {"gpu"}
# What writes the tables of scripts that have another form.
REPORTS = {
    "algorithm_pages": lambda script: script.main(),
    "headlines": lambda script: script.main(),
    "peer_quality": lambda script: script.report(),
}


def is_there(page, name: str, text: str) -> bool:
    return f"<!-- {name}: begin -->\n\n{text}\n\n<!-- {name}: end -->" in page.read_text()


def tables_are_there(report, script, monkeypatch) -> None:
    written = []
    monkeypatch.setattr(script, "write_between", lambda *arguments: written.append(arguments))
    if hasattr(script, "draw"):
        monkeypatch.setattr(script, "draw", lambda *arguments: None)
    report(script)
    assert written
    for page, marker, text in written:
        assert is_there(page, marker, text), (page.name, marker)


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_a_measurements_texts_are_what_its_results_say(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    measurement = load("benchmarks", name, known_as=f"benchmark_{name}").MEASUREMENT
    assert measurement.name == name
    for marker, text in measurement.texts(measurement.results()).items():
        assert is_there(ROOT / measurement.page, marker, text), marker


@pytest.mark.parametrize("name", REPORTS)
def test_a_scripts_tables_are_what_its_results_say(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = load("benchmarks", name, known_as=f"benchmark_{name}")
    tables_are_there(REPORTS[name], script, monkeypatch)


@pytest.mark.parametrize("name", ["coverage", "influence_bias"])
def test_an_experiments_tables_are_what_its_results_say(name, monkeypatch):
    script = importlib.import_module(f"benchmarks.{name}.report")
    tables_are_there(lambda script: script.report(), script, monkeypatch)


@pytest.mark.parametrize("name", STUDIES)
def test_a_studys_tables_and_pictures_are_those_of_its_rows(studies, name, tmp_path):
    study = studies.load(name)
    assert is_there(ROOT / study.page, name, studies.text(study, tmp_path))
    drawn = {path.name for path in tmp_path.glob("*.png")}
    committed = (path.name for path in studies.FIGURES.glob(f"{name}_*.png"))
    others = tuple(f"{other}_" for other in STUDIES if other.startswith(f"{name}_"))
    assert drawn == {file for file in committed if not others or not file.startswith(others)}


def test_a_changed_result_is_seen(studies, monkeypatch, tmp_path):
    study = studies.load("smax_settings")
    copy = tmp_path / "smax_settings.jsonl"
    text = (studies.RESULTS / copy.name).read_text()
    copy.write_text(text.replace('"evaluation/win_rate": 0.578125', '"evaluation/win_rate": 0.9'))
    monkeypatch.setattr(studies, "RESULTS", tmp_path)
    assert not is_there(ROOT / study.page, study.name, studies.text(study, tmp_path))


def test_a_text_between_markers_replaces_what_was_there_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x: begin -->\nold\n<!-- x: end -->\nafter\n")
    write_between(page, "x", "new")
    assert page.read_text() == "before\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nafter\n"
    with pytest.raises(ValueError, match="must have <!-- y: begin --> and"):
        write_between(page, "y", "new")


def test_results_are_few_files():
    assert len([p for p in (ROOT / "benchmarks" / "results").rglob("*") if p.is_file()]) <= 32
