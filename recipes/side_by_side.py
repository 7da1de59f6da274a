"""Two teams learn cooperative navigation side by side: only one learns to share out the landmarks.

python recipes/side_by_side.py
python recipes/side_by_side.py --seed 1 --run-dir runs/both
python recipes/side_by_side.py --resume runs/both

Three agents are to cover three landmarks without touching each other. Both teams are MAPPO's with
the same budget, in a process and a thread each. The plain one has perceptrons, and learns fixed
roles. The other one has goal attention: its agents share out the landmarks by where everybody
stands. The directory of the run holds both runs, and side_by_side.gif with the same episode of
both.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from PIL import Image, ImageDraw, ImageSequence

from torchrl_alita.envs import get_task

TASK = "vmas/spread"
PLAIN = ("--algorithm.no-goal-attention", "--algorithm.num-cells", "64", "64")
TEAMS = {"plain": PLAIN, "goal attention": ()}
# Of the preset "spread".
TRAINING = (
    *("--num-envs", "512", "--frames-per-batch", "12800", "--total-frames", "998400"),
    *("--evaluation-interval", "102400", "--checkpoint-interval", "256000"),
)
ROWS = {
    "return_mean": "return",
    "landmark_distance": "distance to landmarks, summed",
    "contacts_per_episode": "contacts an episode",
    "occupied_share": "share of landmarks occupied",
}
SECONDS_BETWEEN_LOOKS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Train both teams, and print and draw what they do; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--run-dir", type=Path, help="directory of both runs")
    parser.add_argument("--resume", type=Path, help="directory of both runs to continue")
    parser.add_argument("training", nargs="*", help="after --: options of torchrl-alita train")
    given = parser.parse_args(arguments)
    folder = given.resume or given.run_dir
    folder = folder or Path("runs") / f"side-by-side-{datetime.now():%Y%m%d-%H%M%S}"
    print("Two teams of three learn to cover three landmarks, a core each: some two minutes.")
    folders = {name: folder / name.replace(" ", "-") for name in TEAMS}
    try:
        ended = train(folders, given.seed, given.training, resume=given.resume is not None)
    except KeyboardInterrupt:
        print(f"\nStopped. Go on with: python recipes/side_by_side.py --resume '{folder}'")
        return 130
    if ended:
        return ended
    summaries = {
        name: json.loads((path / "summary.json").read_text()) for name, path in folders.items()
    }
    print(f"\n{table(summaries)}\n")
    draw(
        folder / "side_by_side.gif", {name: path / "rollout.gif" for name, path in folders.items()}
    )
    print(f"The same episode of both teams: {folder}/side_by_side.gif")
    return 0


def train(folders: dict[str, Path], seed: int, training: Sequence[str], *, resume: bool) -> int:
    """Train all teams at once, and say how far they are; the first exit status but 0."""
    runs = {}
    for name, folder in folders.items():
        if (folder / "summary.json").exists():
            continue
        command = [sys.executable, "-m", "torchrl_alita", "train"]
        if resume and (folder / "config.json").exists():
            command += ["--resume", str(folder)]
        else:
            command += ["mappo", "--task", TASK, "--preset", "spread", *TEAMS[name], *TRAINING]
            command += ["--seed", str(seed), "--run-dir", str(folder), *training]
        command += ["--threads", "1", "--no-progress"]
        runs[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    said: dict[str, int] = {}
    try:
        while any(run.poll() is None for run in runs.values()):
            time.sleep(SECONDS_BETWEEN_LOOKS)
            said = say_evaluations(folders, said)
        say_evaluations(folders, said)
    finally:
        for run in runs.values():
            # After Ctrl-C each of them writes a checkpoint first.
            run.wait()
    return next((run.returncode for run in runs.values() if run.returncode), 0)


def say_evaluations(folders: dict[str, Path], said: dict[str, int]) -> dict[str, int]:
    """A line for each evaluation that was not said; the frames of the newest ones."""
    newest = dict(said)
    for name, folder in folders.items():
        path = folder / "metrics.csv"
        for row in csv.DictReader(path.read_text().splitlines() if path.exists() else ()):
            share, frames = row.get("evaluation/occupied_share"), int(row["frames"])
            if share and frames > newest.get(name, -1):
                newest[name] = frames
                print(
                    f"{frames:>9,} frames, {name + ':':<16}{float(share):4.0%} of landmarks covered"
                )
    return newest


def table(summaries: dict[str, dict]) -> str:
    """What the teams do at the end, beside a random one and the best that is known."""
    random = next(iter(summaries.values()))["random_team"]
    columns = {"random": random} | {name: each["evaluation"] for name, each in summaries.items()}
    task = get_task(TASK)
    lines = [f"{'':<32}" + "".join(f"{name:>16}" for name in (*columns, "a script"))]
    for key, title in ROWS.items():
        best = f"{task.ceiling:>16.2f}" if key == "return_mean" else ""
        values = "".join(f"{each[key]:>16.2f}" for each in columns.values())
        lines.append(f"{title:<32}{values}{best}")
    span = task.ceiling - task.floor
    scores = [(each["return_mean"] - task.floor) / span for each in columns.values()] + [1.0]
    title = "score (random 0, script 1)"
    return "\n".join(
        [*lines, f"{title:<32}" + "".join(f"{round(score, 2) + 0.0:>16.2f}" for score in scores)]
    )


def frames_of(path: Path) -> list[Image.Image]:
    """The frames of a picture, a step each: the file has those that are alike once."""
    with Image.open(path) as film:
        found = [(f.convert("RGB"), f.info["duration"]) for f in ImageSequence.Iterator(film)]
    step = min(duration for _, duration in found)
    return [frame for frame, duration in found for _ in range(round(duration / step))]


def draw(path: Path, rollouts: dict[str, Path]) -> None:
    """The teams' pictures side by side, with their names."""
    films = [frames_of(each) for each in rollouts.values()]
    frames = []
    for together in zip(*films, strict=True):
        width, height = together[0].size
        frame = Image.new("RGB", (width * len(films), height + 16), "white")
        canvas = ImageDraw.Draw(frame)
        for i, (name, picture) in enumerate(zip(rollouts, together, strict=True)):
            canvas.text((width * i + 8, 2), name, fill="black")
            frame.paste(picture, (width * i, 16))
        frames.append(frame)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=60, loop=0)


if __name__ == "__main__":
    sys.exit(main())
