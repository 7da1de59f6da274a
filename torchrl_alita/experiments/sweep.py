"""Many runs side by side, each in a process of its own: ``torchrl-alita sweep``."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from torchrl_alita._checks import (
    check_at_least_one,
    check_choice,
    check_folder,
    check_integer,
    check_sequence,
    is_integer,
)
from torchrl_alita._extras import import_extra
from torchrl_alita._settings import plain_value
from torchrl_alita.algorithms import SidesSettings, get_algorithm
from torchrl_alita.envs import get_task
from torchrl_alita.experiments.cells import Attempt, Cell, CellFolder, run_cell
from torchrl_alita.experiments.results import Row, write_rows
from torchrl_alita.training.command import (
    OneLineParser,
    check_option,
    parse_arguments,
    refused,
)
from torchrl_alita.training.config import SIDE

try:
    import fcntl
except ImportError:  # Windows: there nobody keeps two sweeps out of one folder.
    fcntl = None  # type: ignore[assignment]

__all__ = ["LAUNCHERS", "Outcome", "main", "make_cells", "run_cells"]

# What a launcher needs, and which extra installs it.
_EXTRAS = {"ray": ("ray", "ray"), "submitit": ("submitit", "slurm")}
# How often a run is started again that a signal has ended, as when memory runs out.
_RESTARTS = 2
# The beginning of what is said of a run that ended with the status of a refusal.
_REFUSED = "status 2:"
# Parts of the settings that every algorithm has beside its own.
_SHARED = ("", "task", "wandb")
# Seconds between two looks at the processes.
_LOOK = 0.1
# Seconds for which a run that is asked to end may write its checkpoint.
_PATIENCE = 60.0


@dataclass
class Outcome:
    """What a sweep has left."""

    rows: list[Row] = field(default_factory=list)
    """Of all finished runs of the folder, by task, variant and seed."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why a cell has no row: by its name, the last line of its log."""


def run_cells(
    cells: Sequence[Cell],
    out: str | Path,
    *,
    workers: int = 1,
    progress: bool = False,
    launcher: str = "local",
) -> Outcome:
    """Train cells side by side, each in a process of one thread.

    A cell that has finished is not trained again; one with a checkpoint goes on from it, bit for
    bit. So a sweep that was stopped, or killed, is started again by the same call. A run that a
    signal ends is started again twice by the local launcher, and one whose node dies by Ray; one
    that ends in an error is reported, and the others go on. The processes end with this one, but
    for SLURM's jobs, which go on.

    Args:
        cells: to be trained, in this order.
        out: folder of the sweep; results.jsonl is written after each run that finishes.
        workers: processes side by side, each with its share of this process's cores.
        progress: show a progress bar, on a terminal.
        launcher: ``"local"``, ``"ray"`` for a Ray cluster, or ``"submitit"`` for SLURM; the
            last two need a folder that all machines see.

    Returns:
        The :class:`Outcome`.

    Raises:
        TypeError: if the cells are no sequence.
        ValueError: if there is less than one worker, or no such launcher; if another sweep works
            in the folder, or it holds a single run, or the folder of a cell holds another
            run, or two cells have the same task, variant and seed.
        ImportError: if the launcher's package is not installed; the extra is named.
        OSError: if the folder is a file, or the disk is full; what is there stays, and the same
            call goes on.
        KeyboardInterrupt: after Ctrl-C, when the runs have written their checkpoints.
    """
    cells = check_sequence("cells", cells)
    check_at_least_one(workers=workers)
    check_choice("launcher", launcher, sorted(LAUNCHERS))
    out = Path(out)
    if launcher in _EXTRAS:
        # Before there is a folder.
        import_extra(*_EXTRAS[launcher])
    names = [cell.name for cell in cells]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Two cells of the sweep have the same folder: {doubled[0]}.")
    check_folder(out)
    if (out / "config.json").exists():
        raise ValueError(f"{out} holds a single run; choose another folder for the sweep.")
    out.mkdir(parents=True, exist_ok=True)
    with _only_one(out) as lock:
        folders = [CellFolder(out, cell) for cell in cells]
        pending = [folder for folder in folders if not folder.finished]
        outcome = Outcome(_write_results(out))
        finished = partial(_finished, out, outcome)
        if pending:
            LAUNCHERS[launcher](
                out, folders, pending, workers=workers, progress=progress, lock=lock, ended=finished
            )
        return outcome


@contextmanager
def _only_one(out: Path) -> Iterator[int]:
    """Keep other sweeps out of a folder; the processes of this one hold the lock with it."""
    with (out / ".lock").open("w") as file:
        deadline = time.monotonic() + 5
        while fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ValueError(f"Another sweep works in {out}.") from None
                time.sleep(0.2)
        yield file.fileno()


def _write_results(out: Path) -> list[Row]:
    rows = [folder.row() for folder in CellFolder.all_of(out) if folder.finished]
    write_rows(out / "results.jsonl", rows)
    return rows


def _finished(out: Path, outcome: Outcome, folder: CellFolder, error: str | None) -> None:
    if error is not None:
        outcome.failures[folder.cell.name] = error
        return
    outcome.rows = _write_results(out)


Ended = Callable[[CellFolder, "str | None"], None]


def _run_local(
    out: Path,
    folders: Sequence[CellFolder],
    pending: Sequence[CellFolder],
    *,
    workers: int,
    progress: bool,
    lock: int,
    ended: Ended,
) -> None:
    """Processes on this machine."""
    free = list(range(workers))
    waiting = list(pending)
    working: dict[int, Attempt] = {}
    starts: dict[str, int] = {}
    with _bar(folders, progress) as show:
        try:
            while waiting or working:
                while waiting and free:
                    slot, folder = free.pop(0), waiting.pop(0)
                    starts[folder.cell.name] = starts.get(folder.cell.name, 0) + 1
                    working[slot] = Attempt(
                        folder, cores=_cores(slot, workers), gpu=_gpu(slot), inherited=[lock]
                    )
                for slot, attempt in list(working.items()):
                    status = attempt.poll()
                    if status is None:
                        continue
                    folder = attempt.folder
                    del working[slot]
                    free.append(slot)
                    if status < 0 and starts[folder.cell.name] <= _RESTARTS:
                        waiting.insert(0, folder)
                    elif status or not folder.finished:
                        ended(folder, f"status {status}: {folder.last_words()}")
                    else:
                        ended(folder, None)
                show()
                time.sleep(_LOOK)
        finally:
            _stop(list(working.values()))


def _stop(attempts: Sequence[Attempt]) -> None:
    """Let runs write a checkpoint; those that take too long are killed."""
    for attempt in attempts:
        attempt.interrupt()
    deadline = time.monotonic() + _PATIENCE
    for attempt in attempts:
        while attempt.poll() is None:
            if time.monotonic() > deadline:
                attempt.process.kill()
            time.sleep(_LOOK)


def _cores(slot: int, workers: int) -> list[int]:
    """The share of a worker; all where there are more workers than cores."""
    known = _known_cores()
    return known[slot::workers] if workers <= len(known) else [known[slot % len(known)]]


def _known_cores() -> list[int]:
    """The cores that this process may use; all where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _gpu(slot: int) -> int | None:
    """The GPU of a worker, where there are several."""
    count = torch.cuda.device_count()
    return slot % count if count > 1 else None


@contextmanager
def _bar(folders: Sequence[CellFolder], progress: bool) -> Iterator[Callable[[], None]]:
    """Shows how many frames all runs have made, and how many have finished."""
    tqdm = import_extra("tqdm", "recipes").tqdm
    total = sum(folder.cell.frames for folder in folders)
    # None: it is shown on a terminal alone.
    shown = None if progress else True
    with tqdm(total=total, unit=" frames", unit_scale=True, disable=shown) as bar:
        last = float("-inf")

        def show() -> None:
            nonlocal last
            if bar.disable or time.monotonic() - last < 1:
                return
            last = time.monotonic()
            bar.n = sum(min(folder.frames, folder.cell.frames) for folder in folders)
            done = sum(folder.finished for folder in folders)
            bar.set_postfix_str(f"{done} of {len(folders)} runs")

        yield show
        last = float("-inf")
        show()


def _run_ray(
    out: Path,
    folders: Sequence[CellFolder],
    pending: Sequence[CellFolder],
    *,
    workers: int,
    progress: bool,
    lock: int,
    ended: Ended,
) -> None:
    """Tasks of a Ray cluster; one whose node dies is started again elsewhere."""
    ray = import_extra(*_EXTRAS["ray"])
    begun = not ray.is_initialized()
    if begun:
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False)
    remote = ray.remote(num_cpus=1, max_retries=_RESTARTS + 1)(_run_there)
    tasks = {remote.remote(str(out.resolve()), folder.cell, sys.path): folder for folder in pending}
    try:
        with _bar(folders, progress) as show:
            while tasks:
                done, _ = ray.wait(list(tasks), timeout=1)
                for task in done:
                    folder = tasks.pop(task)
                    try:
                        ray.get(task)
                        ended(folder, None)
                    except ray.exceptions.RayError as error:
                        ended(folder, str(error).strip().splitlines()[-1])
                show()
    finally:
        for task in tasks:
            ray.cancel(task, force=True)
        if begun:
            ray.shutdown()


def _run_there(out: str, cell: Cell, path: Sequence[str]) -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    run_cell(out, cell)


def _run_submitit(
    out: Path,
    folders: Sequence[CellFolder],
    pending: Sequence[CellFolder],
    *,
    workers: int,
    progress: bool,
    lock: int,
    ended: Ended,
) -> None:
    """Jobs of SLURM, or processes of submitit where there is no SLURM."""
    submitit = import_extra(*_EXTRAS["submitit"])
    executor = submitit.AutoExecutor(out / "submitit")
    executor.update_parameters(cpus_per_task=1, slurm_array_parallelism=workers)
    jobs = executor.map_array(partial(run_cell, out.resolve()), [f.cell for f in pending])
    with _bar(folders, progress) as show:
        for folder, job in zip(pending, jobs, strict=True):
            while not job.done():
                show()
                time.sleep(1)
            ended(folder, None if job.exception() is None else folder.last_words())


LAUNCHERS: dict[str, Callable[..., None]] = {
    "local": _run_local,
    "ray": _run_ray,
    "submitit": _run_submitit,
}


def make_cells(
    tasks: Sequence[str],
    algorithms: Sequence[str],
    *,
    study: str,
    seeds: int | Sequence[int],
    frames: int,
    grid: Mapping[str, Sequence[Any]] | None = None,
) -> list[Cell]:
    """All combinations of tasks, algorithms, settings and seeds, a round of seeds at a time.

    Args:
        tasks: names of tasks.
        algorithms: names of algorithms.
        study: name of the sweep.
        seeds: how many, from 0 on, or which.
        frames: environment steps of each run.
        grid: values by setting: ``"alita.influence_coeff"`` of one algorithm,
            ``"task.size"`` of the task, ``"num_envs"`` of the training, ``"wandb.project"``. Of
            the algorithm ``sides`` ``"side.good"`` is what a side follows,
            ``"side.good.gamma"`` an option of that. One with several values is part of a
            variant's name.

    Returns:
        The cells.

    Raises:
        TypeError: if names, seeds or the values of a setting are no sequence.
        ValueError: if there is none of them, or one is given twice, a value also if it is written
            otherwise; if an algorithm is unknown, a setting is of another algorithm or said
            elsewhere, as ``"seed"``; if frames are below 1, or a seed is negative.

    Examples:
        >>> grid = {"alita.influence_coeff": [0.0, 0.1]}
        >>> cells = make_cells(
        ...     ["vmas/spread"], ["maddpg", "alita"], study="s", seeds=1, frames=100, grid=grid
        ... )
        >>> [cell.variant for cell in cells]
        ['maddpg', 'alita, influence_coeff=0.0', 'alita, influence_coeff=0.1']
    """
    tasks, algorithms = check_sequence("tasks", tasks), check_sequence("algorithms", algorithms)
    for name, given in (("tasks", tasks), ("algorithms", algorithms)):
        if not given:
            raise ValueError(f"{name} must name at least one.")
        _check_once(name, given)
    for algorithm in algorithms:
        get_algorithm(algorithm)
    check_at_least_one(frames=frames)
    which: Any = seeds
    if is_integer(which):
        check_at_least_one(seeds=which)
        which = range(int(which))
    seeds = [check_integer("seeds", seed) for seed in check_sequence("seeds", which)]
    if not seeds or min(seeds) < 0:
        raise ValueError(f"seeds must be at least 0, and at least one, got {seeds}.")
    _check_once("seeds", seeds)
    _check_once("grid", [name.replace("-", "_") for name in grid or {}])
    grid = {
        name: plain_value(check_sequence(f"The values of {name}", values))
        for name, values in (grid or {}).items()
    }
    for name, values in grid.items():
        if not values:
            raise ValueError(f"{name} has no value.")
        _check_once(name, values)
        if not any(_as_setting(name, algorithm) for algorithm in algorithms):
            owner = name.rpartition(".")[0].replace("-", "_")
            raise ValueError(f"{name} is of {owner!r}, which is not among {algorithms}.")
    variants = [
        (algorithm, settings)
        for algorithm in algorithms
        for settings in _settings_of(algorithm, grid)
    ]
    return [
        Cell(
            study=study,
            variant=_variant(algorithm, settings, grid),
            task=task,
            algorithm=algorithm,
            seed=seed,
            frames=frames,
            settings=settings,
        )
        for seed in seeds
        for task in tasks
        for algorithm, settings in variants
    ]


def _check_once(name: str, values: Sequence[Any]) -> None:
    """Refuse a value that is there twice, also as ``0.1`` and ``"0.10"``."""
    meant = [_meaning(value) for value in values]
    for i, value in enumerate(meant):
        if value in meant[:i]:
            raise ValueError(f"{name} has {values[i]!r} twice.")


def _meaning(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_meaning(member) for member in value]
    text = str(value).lower()
    try:
        return float(text)
    except ValueError:
        return text


def _settings_of(algorithm: str, grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values that concern an algorithm."""
    named = {_as_setting(name, algorithm): values for name, values in grid.items()}
    mine = {name: values for name, values in named.items() if name is not None}
    return [dict(zip(mine, values, strict=True)) for values in itertools.product(*mine.values())]


def _as_setting(name: str, algorithm: str) -> str | None:
    """What a run of an algorithm calls a setting of the grid; None if it has none."""
    name = name.replace("-", "_")
    owner, _, option = name.rpartition(".")
    if owner in _SHARED or (_is_of_side(name) and _has_sides(algorithm)):
        return name
    return f"algorithm.{option}" if owner == algorithm else None


def _is_of_side(name: str) -> bool:
    return name.startswith(f"{SIDE}.")


def _has_sides(algorithm: str) -> bool:
    return get_algorithm(algorithm).Settings is SidesSettings


def _variant(algorithm: str, settings: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> str:
    """The algorithm, and the settings that have several values."""
    varied = {
        option.replace("-", "_").rpartition(".")[2] for option, v in grid.items() if len(v) > 1
    }
    parts = [algorithm]
    for name, value in settings.items():
        if name.rpartition(".")[2] in varied:
            text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            parts.append(f"{name.removeprefix('algorithm.')}={text}")
    return ", ".join(parts)


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="torchrl-alita sweep",
        description="Train every combination of tasks, algorithms, settings and seeds. The same "
        "command goes on with what was stopped or killed.",
    )
    parser.add_argument("--tasks", nargs="+", required=True, help="names of tasks")
    parser.add_argument("--algorithms", nargs="+", required=True, help="names of algorithms")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0 on (default: 10)")
    parser.add_argument("--total-frames", type=int, default=250_000, help="of each run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the sweep")
    parser.add_argument(
        "--set", nargs="+", action="append", default=[], metavar=("NAME", "VALUE"),
        help="values of a setting: alita.influence-coeff 0 0.1 of one algorithm, num-envs 50 of "
        "the training, task.size 9 of the task, side.good maddpg of the algorithm sides; a value of "
        "several numbers as 64,64",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=None, help="default: a core each")
    parser.add_argument("--launcher", choices=sorted(LAUNCHERS), default="local")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``torchrl-alita sweep``.

    Args:
        arguments: of the command line. Default: the process's own.

    Returns:
        0; 1 if runs have failed; 2 if what was asked for cannot be done, as all runs of it say or
        one line of the sweep's own; 130 after Ctrl-C.
    """
    try:
        config = _parser().parse_args(arguments)
        cells = _cells_of(config)
        workers = config.workers or len(_known_cores())
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        outcome = run_cells(
            cells,
            config.out,
            workers=workers,
            progress=not config.no_progress,
            launcher=config.launcher,
        )
    except (TypeError, ValueError, ImportError, OSError) as error:
        return refused(error, "torchrl-alita sweep")
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the checkpoints.", file=sys.stderr)
        return 130
    for name, reason in outcome.failures.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    print(f"{len(outcome.rows)} runs have finished; their rows: {config.out / 'results.jsonl'}")
    if not outcome.failures:
        return 0
    # What a run refuses, or a full disk, is no crash.
    return 2 if all(text.startswith(_REFUSED) for text in outcome.failures.values()) else 1


def _cells_of(config: argparse.Namespace) -> list[Cell]:
    """The sweep's cells, each checked by the command that will train it."""
    for name, value in (("seeds", config.seeds), ("total-frames", config.total_frames)):
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}.")
    if config.workers is not None and config.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {config.workers}.")
    for task in config.tasks:
        get_task(task)
    grid: dict[str, list[Any]] = {}
    for name, *values in config.set:
        if not values:
            raise ValueError(f"--set {name} has no value.")
        if name in grid:
            raise ValueError(f"--set {name} is given twice; give all its values at once.")
        grid[name] = [_value(text) for text in values]
        _check_setting(name, config.algorithms)
    cells = make_cells(
        config.tasks,
        config.algorithms,
        study=config.out.resolve().name,
        seeds=config.seeds,
        frames=config.total_frames,
        grid=grid,
    )
    for cell in cells:
        if cell.seed == 0:
            parse_arguments(cell.arguments)
    return cells


def _check_setting(name: str, algorithms: Sequence[str]) -> None:
    owner, _, option = name.replace("_", "-").rpartition(".")
    owners = {algorithm.replace("_", "-"): algorithm for algorithm in algorithms}
    with_sides = [algorithm for algorithm in algorithms if _has_sides(algorithm)]
    if owner == "":
        _check_training_option(option, algorithms)
    elif owner in owners:
        check_option(owners[owner], f"algorithm.{option}")
    elif owner == "algorithm":
        raise ValueError(
            f"--set {name} names no algorithm: write {algorithms[0]}.{option}, and the same of "
            f"each other one."
        )
    elif _is_of_side(name) and with_sides:
        check_option(with_sides[0], name)
    elif owner in _SHARED:
        check_option(algorithms[0], name)
    else:
        raise ValueError(f"--set {name} is of {owner!r}, which is not among --algorithms.")


def _check_training_option(option: str, algorithms: Sequence[str]) -> None:
    """Refuse what is no option of the training; one of an algorithm is said to be its."""
    try:
        check_option(algorithms[0], option)
    except ValueError:
        field = option.replace("-", "_")
        owners = [
            name
            for name in algorithms
            if field in {known.name for known in dataclasses.fields(get_algorithm(name).Settings)}
        ]
        if not owners:
            raise
        raise ValueError(
            f"--set {option} is no option of the training: of the algorithm it is "
            f"{owners[0]}.{option}."
        ) from None


def _value(text: str) -> Any:
    """A number, a truth value, several values, or the text."""
    if "," in text:
        return [_value(part) for part in text.split(",") if part]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
