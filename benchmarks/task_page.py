"""Every task that is installed: agents, spaces and speed, written to docs/tasks.md.

Each task is built once and stepped with random actions on one thread; what was measured is kept in
``results/tasks.jsonl``, one line a task, so that a run that was stopped goes on. ``--write-only``
writes the page from these lines. SMAC's maps need StarCraft II: where it is missing, their rows
hold what is known of a map without playing it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from pathlib import Path

import torch

from torchrl_alita.envs import get_task, layout_of, make_env, task_names

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "tasks.jsonl"
PAGE = ROOT / "docs" / "tasks.md"
NUM_ENVS, STEPS = 16, 40
# Numbers that an agent of SMAC's maps observes by its code's defaults, and enemies on the map: there
# are six actions beside the attacks.
SMAC = {
    "2s3z": (80, 5),
    "5m_vs_6m": (55, 6),
    "3s_vs_5z": (48, 5),
    "corridor": (156, 24),
    "3s5z_vs_3s6z": (136, 9),
}
# Suite: title, extra, what is paid, source.
SUITES = {
    "": (
        "Sparse games",
        "none",
        "Push-Box: 1000 to everybody for each box at a wall (CMAE's rules: 1, and the end). Secret "
        "Room: 1000 when all are in the target room (CMAE's: 1).",
        "https://arxiv.org/abs/1910.05512, https://arxiv.org/abs/2107.11444",
    ),
    "mpe": (
        "The paper's particle tasks",
        "none",
        "Distances to landmarks or the goal, and collisions, by the original's rules; see "
        "`torchrl_alita.envs.particles`.",
        "https://arxiv.org/abs/1706.02275",
    ),
    "vmas": ("VMAS", "vmas", "The scenario's own.", "https://arxiv.org/abs/2207.03530"),
    "smax": (
        "SMAX",
        "smax",
        "Damage to the enemies as a share of their health, and 1 for a victory.",
        "https://arxiv.org/abs/2311.10090",
    ),
    "jaxmarl": (
        "JaxMARL",
        "smax",
        "The environment's own.",
        "https://arxiv.org/abs/2311.10090",
    ),
    "smac": (
        "SMAC",
        "StarCraft II and its package",
        "SMAC's, at most 20.",
        "https://arxiv.org/abs/1902.04043",
    ),
    "mpe2": ("mpe2", "pettingzoo", "The environment's own.", "https://arxiv.org/abs/1706.02275"),
    "sisl": (
        "PettingZoo, SISL",
        "pettingzoo, and pettingzoo[sisl]",
        "The environment's own.",
        "https://arxiv.org/abs/2009.14471",
    ),
    "butterfly": (
        "PettingZoo, Butterfly",
        "pettingzoo, and pettingzoo[butterfly]",
        "The environment's own; images are made gray and shrunk to 16 x 16.",
        "https://arxiv.org/abs/2009.14471",
    ),
    "mamujoco": (
        "MaMuJoCo",
        "mamujoco",
        "The robot's, to each of its parts.",
        "https://arxiv.org/abs/2003.06709",
    ),
    "lbforaging": (
        "Level-based foraging",
        "foraging",
        "The level of the food that an agent helps to collect.",
        "https://arxiv.org/abs/2006.07869",
    ),
    "rware": (
        "Robot warehouse",
        "foraging",
        "1 for a requested shelf that is brought.",
        "https://arxiv.org/abs/2006.07869",
    ),
    "pybullet": (
        "PyBullet",
        "pybullet",
        "The robot's own.",
        "https://arxiv.org/abs/2108.12581",
    ),
}


def measure(name: str) -> dict:
    """What one task is, and how fast it is stepped."""
    task = get_task(name)
    num_envs = 1 if name.startswith("butterfly/") else NUM_ENVS
    env = make_env(task, num_envs=num_envs, seed=0)
    layout = layout_of(env)
    step = env.reset()
    # The first step compiles where something is compiled.
    step = env.step_and_maybe_reset(env.rand_action(step))[1]
    steps, begun = 0, time.process_time()
    while steps < STEPS and time.process_time() - begun < 5:
        step = env.step_and_maybe_reset(env.rand_action(step))[1]
        steps += 1
    seconds = time.process_time() - begun
    env.close()
    return {
        "task": name,
        **layout._asdict(),
        "horizon": task.horizon,
        "floor": task.floor,
        "ceiling": task.ceiling,
        "num_envs": num_envs,
        "steps_per_second": round(steps * num_envs / seconds, 1),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {platform.processor() or platform.system()}, 1 thread",
    }


def smac_rows() -> dict[str, dict]:
    """What is known of SMAC's maps without StarCraft II: all but their speed."""
    rows = {}
    for name, (observation_size, enemies) in SMAC.items():
        task = get_task(f"smac/{name}")
        rows[f"smac/{name}"] = {
            "task": f"smac/{name}",
            "num_agents": task.n_agents,
            "observation_size": observation_size,
            "action_size": 6 + enemies,
            "discrete": True,
            "masked": True,
            "horizon": task.horizon,
            "floor": None,
            "ceiling": None,
            "steps_per_second": None,
        }
    return rows


def read() -> dict[str, dict]:
    """Rows by task."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return smac_rows() | {row["task"]: row for row in map(json.loads, lines)}


def page(rows: dict[str, dict]) -> str:
    """The page, in Markdown."""
    lines = [
        "# Tasks",
        "",
        "Written by `python benchmarks/task_page.py`. A task is trained by name, "
        "`torchrl-alita train alita --task vmas/balance`, and built by name, "
        '`make_env("vmas/balance", num_envs=16)`. N agents observe O numbers each and have A '
        "actions: choices, or numbers. Horizon: steps of an episode, unless another is asked for. "
        "Floor and ceiling: mean return of a random team and of the best script, where known. "
        f"Speed: environment steps a second of {NUM_ENVS} environments (of image tasks, 1) with "
        "random actions and resets, CPU time of one thread on a machine that others used too: "
        "orders of magnitude. Of SMAC's maps, which StarCraft II plays, the figures are by SMAC's "
        "code, not measured.",
    ]
    for suite, (title, extra, reward, source) in SUITES.items():
        own = [row for name, row in sorted(rows.items()) if suite == name.rpartition("/")[0]]
        if not own:
            continue
        lines += ["", f"## {title}", "", f"Extra: {extra}. Reward: {reward} Source: {source}.", ""]
        lines += [
            "| task | N | O | A | masked | horizon | floor | ceiling | steps/s |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in own:
            kind = "choices" if row["discrete"] else "numbers"
            known = ["" if row[end] is None else f"{row[end]:g}" for end in ("floor", "ceiling")]
            speed = row["steps_per_second"]
            cells = [
                f"`{row['task']}`", row["num_agents"], row["observation_size"],
                f"{row['action_size']} {kind}", "yes" if row["masked"] else "", row["horizon"],
                *known, "" if speed is None else f"{speed:,.0f}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write-only", action="store_true", help="from results/tasks.jsonl alone")
    parser.add_argument("tasks", nargs="*", help="default: all that are installed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not options.write_only:
        known = read()
        for name in options.tasks or task_names():
            if name in known or name.startswith("smac/"):
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    row = measure(name)
            except ImportError as error:
                print(f"{name}: {error}")
                continue
            print(f"{name}: {row['steps_per_second']:,} steps/s", flush=True)
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
    PAGE.write_text(page(read()))


if __name__ == "__main__":
    main()
