"""What a sweep's rows say, in Markdown, pictures and one page: ``torchrl-alita report``."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from torchrl_alita._checks import did_you_mean
from torchrl_alita.experiments.cells import CellFolder
from torchrl_alita.experiments.pictures import (
    DASHES,
    colors,
    draw_curves,
    draw_profiles,
    references_of,
)
from torchrl_alita.experiments.results import Row, check_distinct, read_rows
from torchrl_alita.experiments.statistics import (
    FEWEST_RUNS,
    estimate,
    probability_of_improvement,
    write_marl_eval,
)
from torchrl_alita.experiments.tables import (
    RETURN,
    Column,
    by_variant,
    markdown_table,
    results_table,
    score,
    sections,
    versions_text,
)
from torchrl_alita.training.command import OneLineParser, refused

__all__ = ["Report", "main", "write_report"]

# Metrics of evaluations that are no figure of merit.
_NOT_SHOWN = ("evaluation/return_std",)
_MOST_CURVES = 6


@dataclass(frozen=True)
class Report:
    """The files of a report."""

    markdown: Path
    """Tables and links to the pictures."""
    page: Path
    """All in one file of HTML, which needs no network."""


@dataclass(frozen=True)
class _Section:
    """What is shown of one task and budget."""

    title: str
    rows: Sequence[Row]
    titles: Sequence[str]
    cells: Sequence[Sequence[str]]
    pictures: Sequence[tuple[str, Path]]


def write_report(
    rows: Sequence[Row],
    folder: str | Path,
    *,
    metrics: Sequence[str] | None = None,
    compare: Sequence[str] | None = None,
    pictures: Mapping[str, Path] | None = None,
    title: str = "Report",
) -> Report:
    """Write tables, curves and one page of HTML.

    Args:
        rows: of all runs.
        folder: of report.md, report.html and the pictures.
        metrics: columns and curves. Default: those of the evaluations.
        compare: two variants, of which it is said how probably a run of the first is better.
        pictures: GIFs by the name of a run, for the page.
        title: of the page.

    Returns:
        The :class:`Report`.

    Raises:
        ValueError: if there are no rows, or two have the same task, frames, variant and seed; if
            a metric or a variant is unknown, or there are fewer than five seeds of a variant that
            is to be compared.
        ImportError: if matplotlib is not installed; the extra is named.
        OSError: if a file cannot be written.
    """
    if not any(row.frames for row in rows):
        raise ValueError("There is no finished run to report.")
    check_distinct(rows)
    chosen = _metrics_of(rows, metrics)
    comparison = _comparison(rows, compare) if compare else None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        _section(folder, task, frames, of, chosen) for (task, frames), of in sections(rows).items()
    ]
    overall = _overall(rows, folder)
    markdown, page = folder / "report.md", folder / "report.html"
    text = _markdown(title, parts, overall, comparison)
    markdown.write_text(text, encoding="utf-8")
    page.write_text(
        _page(title, parts, overall, comparison, rows, pictures or {}), encoding="utf-8"
    )
    return Report(markdown, page)


def _metrics_of(rows: Sequence[Row], asked: Sequence[str] | None) -> dict[str, str]:
    """Titles by metric."""
    known = dict.fromkeys(name for row in rows for name in row.final)
    for row in rows:
        known |= dict.fromkeys(name for point in row.curve for name in point["metrics"])
    for name in asked or ():
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"Unknown metric {name!r}.{hint} Known: {sorted(known)}.")
    names = asked or [
        name
        for name in known
        if name.startswith("evaluation/") and name not in (*_NOT_SHOWN, "evaluation/step")
    ]
    return {name: _plain(name) for name in names}


def _plain(metric: str) -> str:
    words = metric.removeprefix("evaluation/").replace("/", ": ").replace("_", " ")
    return words.removesuffix(" mean")


def _digits(rows: Iterable[Row], metric: str) -> int:
    """So many that the largest figure has about four."""
    sizes = [abs(value) for row in rows if (value := row.final.get(metric)) is not None]
    largest = max(sizes, default=0)
    return 0 if largest >= 1_000 else 1 if largest >= 100 else 2 if largest >= 1 else 3


def _section(
    folder: Path, task: str, frames: int, rows: Sequence[Row], metrics: Mapping[str, str]
) -> _Section:
    there = {
        metric: title
        for metric, title in metrics.items()
        if any(row.final.get(metric) is not None or row.column(metric)[0] for row in rows)
    }
    columns = [Column(title, metric, _digits(rows, metric)) for metric, title in there.items()]
    titles, cells = results_table(rows, columns, first="variant")
    drawn = []
    for metric, name in list(there.items())[:_MOST_CURVES]:
        if not any(row.column(metric)[0] for row in rows):
            continue
        # Two names may differ in nothing but the signs that a file's name cannot have; with a
        # colon a link would be an address.
        file = f"{task}_{frames}_{metric}".replace("_", "__").replace("/", "_")
        file = file.replace(":", "_-") + ".png"
        draw_curves(folder / file, rows, {metric: name}, legend=False, dpi=160)
        drawn.append((name, folder / file))
    return _Section(f"{task}, {frames:,} frames", rows, titles, cells, drawn)


@dataclass(frozen=True)
class _Overall:
    """The score over several tasks."""

    cells: Sequence[Sequence[str]]
    picture: Path


def _overall(rows: Sequence[Row], folder: Path) -> _Overall | None:
    """Score of each variant over all tasks whose best and random team are known."""
    scores: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        value = score(row)
        if row.frames and value is not None:
            tasks = scores.setdefault(row.variant, {})
            tasks.setdefault(f"{row.task}, {row.frames}", []).append(value)
    if not scores:
        return None
    picture = folder / "score_profile.png"
    draw_profiles(picture, scores)
    cells = [
        [variant, str(len(tasks)), str(sum(map(len, tasks.values()))), estimate(tasks).text(2)]
        for variant, tasks in scores.items()
    ]
    return _Overall(cells, picture)


_OVERALL_TITLES = ("variant", "tasks", "runs", "score")


def _comparison(rows: Sequence[Row], compare: Sequence[str]) -> str:
    """How probably a run of the first variant is better than one of the second."""
    known = {row.variant for row in rows if row.frames}
    for name in compare:
        if name not in known:
            raise ValueError(f"Unknown variant {name!r}. Known: {sorted(known)}.")
    found: list[dict[str, list[float]]] = [{}, {}]
    for tasks, name in zip(found, compare, strict=True):
        for row in rows:
            value = row.final.get(RETURN)
            if row.variant == name and value is not None:
                tasks.setdefault(f"{row.task}, {row.frames}", []).append(value)
    shared = found[0].keys() & found[1].keys()
    if not shared:
        raise ValueError(
            f"{compare[0]!r} and {compare[1]!r} have no task of the same frames in common: "
            f"{sorted(found[0])}, {sorted(found[1])}."
        )
    first, second = ({task: tasks[task] for task in sorted(shared)} for tasks in found)
    fewest = min(len(runs) for tasks in (first, second) for runs in tasks.values())
    if fewest < FEWEST_RUNS:
        raise ValueError(
            f"A comparison needs at least {FEWEST_RUNS} seeds of each variant and task, got "
            f"{fewest}."
        )
    chance, interval = probability_of_improvement(first, second)
    low, high = interval or (chance, chance)
    over = _count(shared, "task")
    return (
        f"The return of a run of {compare[0]} is above that of a run of {compare[1]} with "
        f"probability {chance:.2f} (95 % interval {low:.2f} to {high:.2f}, {over})."
    )


def _how_to_read(rows: Sequence[Row]) -> str:
    groups = [runs for of in sections(rows).values() for runs in by_variant(of).values()]
    few = [runs for runs in groups if len(runs) < FEWEST_RUNS]
    said = "Tables: interquartile mean [95 % stratified bootstrap interval] over the seeds at the "
    said += "end. Curves: the same at each evaluation, as line and band."
    if few:
        said = (
            "Fewer than five seeds make no interval: tables show each seed's figure at the end, "
            "and curves show every run, with the interquartile mean as the thick line."
            if len(few) == len(groups)
            else f"{said} Of fewer than five seeds each one is shown."
        )
    return f"{said} Score: 0 is a random team, 1 the best that is known of the task."


def _markdown(
    title: str, parts: Sequence[_Section], overall: _Overall | None, comparison: str | None
) -> str:
    rows = [row for part in parts for row in part.rows]
    blocks = [f"# {title}", _how_to_read(rows)]
    if comparison:
        blocks.append(comparison)
    if overall is not None:
        blocks += ["## Score over all tasks", markdown_table(_OVERALL_TITLES, overall.cells)]
        blocks.append(f"![Performance profile]({quote(overall.picture.name)})")
    for part in parts:
        blocks += [f"## {part.title}", markdown_table(part.titles, part.cells)]
        blocks += [f"![{name}]({quote(path.name)})" for name, path in part.pictures]
    blocks.append(f"Made with {versions_text(row for row in rows if row.frames)}.")
    return "\n\n".join(blocks) + "\n"


_STYLE = """
:root { color-scheme: light; --line: #d8dbe0; --soft: #f5f6f8; --text: #1c1f24; --dim: #5b616b; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 4rem; color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; } p { max-width: 48rem; margin: .5rem 0; }
p.dim, figcaption, .dim { color: var(--dim); font-size: .875rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: .9rem; }
th, td { padding: .4rem .75rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { background: var(--soft); font-weight: 600; } tbody tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff;
  min-width: 11rem; max-width: 20rem; white-space: normal; }
th:first-child { background: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1rem 0 .5rem; padding: 0;
  list-style: none; font-size: .9rem; }
.swatch { display: inline-block; width: 1.4rem; height: .25rem; margin-right: .4rem;
  vertical-align: middle; border-radius: 2px; }
.legend svg { margin-right: .4rem; vertical-align: middle; stroke: gray; stroke-width: 1.5; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr));
  gap: 1rem; margin-top: 1rem; }
.small { grid-template-columns: repeat(auto-fill, minmax(min(46%, 13rem), 1fr)); }
figure { margin: 0; } img { display: block; width: 100%; height: auto; }
.small img { border: 1px solid var(--line); border-radius: 6px; }
details { margin: .75rem 0; border: 1px solid var(--line); border-radius: 6px; }
summary { cursor: pointer; padding: .5rem .75rem; background: var(--soft); }
details > div { padding: .25rem .75rem .75rem; }
@media (max-width: 40rem) { th, td { padding: .35rem .5rem; }
  th:first-child, td:first-child { min-width: 8rem; max-width: 10rem; overflow-wrap: break-word; } }
code { font: .8rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
"""


def _page(
    title: str,
    parts: Sequence[_Section],
    overall: _Overall | None,
    comparison: str | None,
    rows: Sequence[Row],
    gifs: Mapping[str, Path],
) -> str:
    """All of it in one file."""
    trained = [row for row in rows if row.frames]
    body = [f"<h1>{_escaped(title)}</h1>", f"<p>{_escaped(_how_to_read(rows))}</p>"]
    body.append(
        f'<p class="dim">{len(trained)} runs, {_count({r.task for r in trained}, "task")}, '
        f"{_count({row.variant for row in trained}, 'variant')}; "
        f"{_escaped(versions_text(trained))}.</p>"
    )
    if comparison:
        body.append(f"<p><strong>{_escaped(comparison)}</strong></p>")
    if overall is not None:
        body += ["<h2>Score over all tasks</h2>", _table(_OVERALL_TITLES, overall.cells)]
        body.append(f'<div class="grid">{_figure("Performance profile", overall.picture)}</div>')
    for part in parts:
        body += [f"<h2>{_escaped(part.title)}</h2>", _table(part.titles, part.cells)]
        body.append(_legend(part.rows))
        curves = "".join(_figure(name, path, caption=False) for name, path in part.pictures)
        body.append(f'<div class="grid">{curves}</div>')
        episodes = "".join(
            _figure(f"{row.variant}, seed {row.seed}", gifs[name])
            for row in part.rows
            if (name := _run_name(row)) in gifs
        )
        if episodes:
            body += ["<h3>An episode of each variant</h3>"]
            body.append(f'<div class="grid small">{episodes}</div>')
        body.append(_runs(part.rows))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _count(things: Collection[str], word: str) -> str:
    return f"{len(things)} {word}{'s' * (len(things) != 1)}"


def _escaped(text: object) -> str:
    return html.escape(str(text))


def _run_name(row: Row) -> str:
    return f"{row.task}, {row.frames}, {row.variant}, {row.seed}"


def _table(titles: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_escaped(title)}</th>" for title in titles)
    lines = (
        "<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in line) + "</tr>" for line in cells
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _legend(rows: Sequence[Row]) -> str:
    marks = [
        f'<li><span class="swatch" style="background:{color}"></span>{_escaped(name)}</li>'
        for name, color in colors(list(by_variant(rows))).items()
    ]
    for dashes, name in zip(DASHES, references_of(rows), strict=False):
        line = f'<line x2="24" y1="3" y2="3" stroke-dasharray="{" ".join(map(str, dashes))}"/>'
        shown = "random team" if name == "random" else name
        marks.append(f'<li><svg width="24" height="6">{line}</svg>{_escaped(shown)}</li>')
    return f'<ul class="legend">{"".join(marks)}</ul>'


def _figure(name: str, path: Path, *, caption: bool = True) -> str:
    kind = path.suffix.removeprefix(".")
    data = base64.b64encode(path.read_bytes()).decode()
    below = f"<figcaption>{_escaped(name)}</figcaption>" if caption else ""
    image = f'<img alt="{_escaped(name)}" src="data:image/{kind};base64,{data}">'
    return f"<figure>{image}{below}</figure>"


def _runs(rows: Sequence[Row]) -> str:
    """Command, settings and times of every run, folded in."""
    trained = [row for row in rows if row.frames]
    lines = []
    for row in trained:
        times = f"{row.wall_seconds:,.0f} s" if row.wall_seconds is not None else "time unknown"
        if row.process_seconds is not None:
            times += f", {row.process_seconds:,.0f} s of processor"
        settings = json.dumps(dict(row.settings)) if row.settings else "defaults"
        lines.append(
            f"<h3>{_escaped(row.variant)}, seed {row.seed}</h3>"
            f"<code>{_escaped(row.command)}</code>"
            f'<p class="dim">Settings: {_escaped(settings)}. Commit '
            f"{_escaped(row.commit or 'unknown')}, {_escaped(times)}, "
            f"{_escaped(versions_text(row))}.</p>"
        )
    return (
        f"<details><summary>The {len(trained)} runs: commands, settings, times</summary>"
        f"<div>{''.join(lines)}</div></details>"
    )


def _gifs(folder: Path) -> dict[str, Path]:
    """An episode of the first seed of each variant and task of a sweep."""
    found: dict[str, Path] = {}
    shown: set[tuple[str, str]] = set()
    for cell_folder in CellFolder.all_of(folder):
        cell, gif = cell_folder.cell, cell_folder.run / "rollout.gif"
        if (cell.task, cell.variant) in shown or not (cell_folder.finished and gif.is_file()):
            continue
        shown.add((cell.task, cell.variant))
        found[_run_name(cell_folder.row())] = gif
    return found


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="torchrl-alita report",
        description="Write tables, curves and one page of HTML of what is in DIR/results.jsonl.",
    )
    parser.add_argument("dir", type=Path, help="folder of a sweep, or a file of rows")
    parser.add_argument("--out", type=Path, default=None, help="default: the sweep's folder")
    parser.add_argument("--metrics", nargs="+", default=None, help="default: the evaluations'")
    parser.add_argument(
        "--compare", nargs=2, default=None, metavar=("A", "B"),
        help="how probably a run of variant A is better than one of B; from five seeds on",
    )  # fmt: skip
    parser.add_argument(
        "--marl-eval", type=Path, default=None, help="write marl-eval's JSON too, to this file"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``torchrl-alita report``.

    Args:
        arguments: of the command line. Default: the process's own.

    Returns:
        0; 2 if what was asked for cannot be done, with one line that says why.
    """
    try:
        config = _parser().parse_args(arguments)
        file = config.dir / "results.jsonl" if config.dir.is_dir() else config.dir
        if (config.dir / "config.json").is_file():
            raise ValueError(f"{config.dir} is a single run: give the folder of a sweep.")
        if not file.is_file():
            raise ValueError(f"{config.dir} holds no rows: there is no {file}.")
        report = write_report(
            read_rows(file),
            config.out or file.parent,
            metrics=config.metrics,
            compare=config.compare,
            pictures=_gifs(config.dir) if config.dir.is_dir() else None,
            title=file.parent.resolve().name if config.dir.is_dir() else file.stem,
        )
        if config.marl_eval is not None:
            write_marl_eval(config.marl_eval, read_rows(file))
    except (ValueError, ImportError, OSError) as error:
        return refused(error, "torchrl-alita report")
    print(f"{report.markdown}\n{report.page}")
    return 0
