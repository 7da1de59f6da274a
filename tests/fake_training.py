"""A run of no learning that leaves what a run leaves: for sweeps that take no time.

It takes the options of ``torchrl-alita train``, counts to its total frames by tens, and writes a
checkpoint at every ten: a number that depends on all numbers before. What it does beside that, the
file ``orders`` in the working directory says: a line "NAME seed FRAMES kill" kills it there, once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("algorithm", nargs="?")
    for name in ("task", "run-dir", "resume", "algorithm.influence-coeff"):
        parser.add_argument(f"--{name}")
    for name in ("seed", "total-frames", "threads", "num-envs"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--no-progress", action="store_true")
    asked = vars(parser.parse_args())
    run = Path(asked["resume"] or asked["run_dir"])
    run.mkdir(parents=True, exist_ok=True)
    if asked["resume"]:
        config = json.loads((run / "config.json").read_text())
        newest = max((run / "checkpoints").glob("checkpoint-*"))
        state = json.loads((newest / "manifest.json").read_text())
        say(run, f"resumed at {state['frames']}")
    else:
        config = {name: asked[name] for name in ("algorithm", "task", "seed", "total_frames")}
        (run / "config.json").write_text(json.dumps(config))
        (run / "metrics.csv").write_text("frames,wall_seconds,evaluation/return_mean\n")
        state = {"frames": 0, "value": config["seed"]}
        say(run, "started")
    while state["frames"] < config["total_frames"]:
        time.sleep(0.02)
        state = {"frames": state["frames"] + 10, "value": (31 * state["value"] + 7) % 1009}
        obey(config, state["frames"])
        with (run / "metrics.csv").open("a") as file:
            file.write(f"{state['frames']},0.5,{state['value']}\n")
        folder = run / "checkpoints" / f"checkpoint-{state['frames']:012d}"
        unfinished = folder.with_name(f".{folder.name}")
        unfinished.mkdir(parents=True, exist_ok=True)
        (unfinished / "manifest.json").write_text(json.dumps(state))
        unfinished.rename(folder)
    value = {"return_mean": state["value"]}
    summary = {
        **config, "frames": state["frames"], "updates": 1, "wall_seconds": time.monotonic(),
        "evaluation": value, "random_team": {"return_mean": 0},
        "machine": {"torch": "2", "cores": 2},
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))


def say(run: Path, text: str) -> None:
    with (run / "history").open("a") as file:
        file.write(text + "\n")


def obey(config: dict, frames: int) -> None:
    """What the orders say of this run at this frame; an order is obeyed once."""
    orders = Path("orders")
    lines = orders.read_text().splitlines() if orders.exists() else []
    for line in lines:
        algorithm, seed, frame, what = line.split()
        if (algorithm, int(seed), int(frame)) != (config["algorithm"], config["seed"], frames):
            continue
        if what == "fail":
            raise SystemExit("it was told to fail")
        if what == "wait":
            time.sleep(600)
        orders.write_text("\n".join(other for other in lines if other != line))
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
