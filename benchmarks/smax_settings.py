"""What MADDPG's wins in a battle of SMAX depend on: one setting changed at a time.

    python benchmarks/smax_settings.py                # train what is missing, report
    python benchmarks/smax_settings.py --report-only  # report from the committed results

One seed each, so that differences between rows say little; what all rows have in common is what
the table is for. Beside them stand the two scripts of smax_figure.py, which learn nothing. Each
run is a process of its own and leaves one JSON in results/smax_settings/; an existing one is not
run again. The report writes the table between the markers of docs/starcraft.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import tyro
from runs import RESULTS, ROOT, Job, results, slug, table, train_missing, versions, write_between
from smax_figure import BATTLES, WON, script_rows

MAP, SEED, FRAMES, INTERVAL = "2s3z", 1, 100_000, 10_000
# Of all rows, beside the recipe's defaults: wider critics than its own.
COMMON = ("--algorithm", "maddpg", "--num-cells", "128", "128")
FASTER_VALUES = ("--tau", "0.05", "--critic-lr", "1e-3")
SETTINGS: dict[str, tuple[str, ...]] = {
    "the recipe's": (),
    "the paper's steps of the actors": ("--actor-lr", "5e-4"),
    "one action drawn": ("--own-actions", "policy"),
    "targets 5 times faster, more updates": (
        *("--tau", "0.05", "--frames-per-update", "50"),
        *("--batch-size", "320"),
    ),
    "targets 5 times faster, critics 4 times": ("--tau", "0.05", "--critic-lr", "2e-3"),
    "faster values, others' present actions": (*FASTER_VALUES, "--others-actions", "policy"),
    "the same, larger steps, penalized logits": (
        *(*FASTER_VALUES, "--others-actions", "policy"),
        *("--actor-lr", "2e-4", "--logits-coeff", "0.0005"),
    ),
    "faster values, 20,000 newest frames": (*FASTER_VALUES, "--buffer-size", "20000"),
    "faster values, no memory": (*FASTER_VALUES, "--no-recurrent"),
}


@dataclass
class Config:
    """Which runs to make."""

    workers: int = 2
    """Runs side by side, each with one thread."""
    report_only: bool = False
    """Train nothing, report what is there."""


def job(setting: str) -> Job:
    """The run of one row."""
    options = (*COMMON, *SETTINGS[setting], "--map", MAP, "--seed", str(SEED))
    options += ("--total-frames", str(FRAMES), "--evaluation-interval", str(INTERVAL))
    options += ("--evaluation-episodes", str(BATTLES))
    name = slug(setting).replace("'", "").replace(",", "") + ".json"
    curves = (f"evaluation/{WON}", "training/saturated_share")
    return Job(setting, "alita_smac.py", options, RESULTS / "smax_settings" / name, curves)


def row(setting: str, run: dict) -> list[str]:
    """When it won most, and what became of it."""
    curve = run["curves"][WON]
    frames, best = max(curve, key=lambda pair: pair[1])
    saturated = [value for _, value in run["curves"]["saturated_share"] if value is not None]
    options = " ".join(SETTINGS[setting])
    return [
        f"{setting} `{options}`" if options else setting,
        f"{best:.2f}",
        f"{frames:,}",
        f"{run['evaluation'][WON]:.2f}",
        f"{run['evaluation']['return_mean']:.1f}",
        f"{saturated[-1]:.2f}",
    ]


def report() -> None:
    """Write the table of all that is there."""
    found = {name: runs[0] for name, runs in results([job(name) for name in SETTINGS]).items()}
    if not found:
        return
    titles = ["2s3z", "won at best", "at frame", "won at the end", "return at the end", "certain"]
    rows = [[name, "", "", won, paid, ""] for name, won, paid in script_rows(MAP)]
    rows += [row(name, run) for name, run in found.items()]
    note = (
        f"MADDPG, critics with hidden layers of 128 and 128, but for the scripts. Of {BATTLES} greedy battles from the same starts, "
        f"{FRAMES:,} frames, one seed; certain: share of the policies' probabilities above 0.99 at "
        f"the end. Made by `python benchmarks/smax_settings.py`: {versions(next(iter(found.values()))['machine'])}."
    )
    text = f"{table(titles, rows)}\n\n{note}"
    write_between(ROOT / "docs" / "starcraft.md", "smax settings", text)


def main() -> None:
    """Train and play what is missing, and report."""
    config = tyro.cli(Config)
    if not config.report_only:
        train_missing([job(name) for name in SETTINGS], config.workers)
    report()


if __name__ == "__main__":
    main()
