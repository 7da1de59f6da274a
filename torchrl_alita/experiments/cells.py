"""The runs of a sweep, and the folder of each."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchrl_alita._checks import check_integer
from torchrl_alita._settings import differences, plain_value
from torchrl_alita.experiments.results import Row, row_of_run
from torchrl_alita.saving import find_checkpoint, write_whole
from torchrl_alita.training.config import option_text

__all__ = ["Attempt", "Cell", "CellFolder", "run_cell"]

# What a cell says by itself.
_OWN = ("task", "seed", "total_frames", "run_dir", "resume")
_START = Path(__file__).with_name("_start_worker.py")
_TRAIN = ("-m", "torchrl_alita", "train")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep.

    Args:
        study: name of the study or sweep.
        variant: line of its table.
        task: name of the task.
        algorithm: name of the algorithm.
        seed: of the run.
        frames: environment steps of the run.
        settings: what differs from the defaults, by its name on the command line, as
            ``"algorithm.influence_coeff"`` or ``"num_envs"``.
        program: script that trains it, from the working directory, with the options of
            ``torchrl-alita train``. Default: that command.
        keep: beginnings of the metrics whose curves are kept.

    Raises:
        ValueError: if a setting is one of the above, as the seed, or is given twice, or seed or
            frames are no whole number.

    Examples:
        >>> cell = Cell(
        ...     study="s", variant="no F", task="vmas/spread", algorithm="alita", seed=3,
        ...     frames=100, settings={"algorithm.influence_coeff": 0.0, "num_envs": 10},
        ... )
        >>> cell.name
        'vmas_spread/no_f/seed3'
        >>> print(cell.command)
        torchrl-alita train alita --task vmas/spread --seed 3 --total-frames 100 --threads 1
        --algorithm.influence-coeff 0.0 --num-envs 10
    """

    study: str
    variant: str
    task: str
    algorithm: str
    seed: int
    frames: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    program: Sequence[str] | None = None
    keep: Sequence[str] = ("evaluation/", "exploration/")

    def __post_init__(self):
        named = [name.replace("-", "_").removeprefix("training.") for name in self.settings]
        if own := sorted(set(named).intersection(_OWN)):
            raise ValueError(
                f"{own[0]} is no setting here: a cell has its own task, seed and frames."
            )
        # On a command line the last one would count.
        if twice := sorted(name for name in set(named) if named.count(name) > 1):
            raise ValueError(f"The setting {twice[0]} is given twice.")
        # Of NumPy and torch too, and paths, which neither JSON nor a command line has.
        plain = {
            name: str(value) if isinstance(value, Path) else plain_value(value)
            for name, value in self.settings.items()
        }
        object.__setattr__(self, "settings", plain)
        for name in ("seed", "frames"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name)))

    @property
    def name(self) -> str:
        """Of its folder."""
        return "/".join((_slug(self.task), _slug(self.variant), f"seed{self.seed}"))

    @property
    def arguments(self) -> list[str]:
        """Of ``torchrl-alita train``, but for the run's folder."""
        words = [self.algorithm, "--task", self.task, "--seed", str(self.seed)]
        words += ["--total-frames", str(self.frames), "--threads", "1"]
        for name, value in self.settings.items():
            words += _option(name, value)
        return words

    @property
    def command(self) -> str:
        """Makes the run again."""
        program = ["python", *self.program] if self.program else ["torchrl-alita", "train"]
        return shlex.join([*program, *self.arguments])


def _slug(text: str) -> str:
    """A name as part of a path: letters of any language, digits and a few signs."""
    slug = re.sub(r"(?:[^\w.=+-]|_)+", "_", text.lower()).strip("_")
    return slug or f"{zlib.crc32(text.encode()):08x}"


def _option(name: str, value: Any) -> list[str]:
    *prefix, last = option_text(name).removeprefix("training.").split(".")
    if isinstance(value, bool):
        return [f"--{'.'.join([*prefix, last if value else f'no-{last}'])}"]
    option = f"--{'.'.join([*prefix, last])}"
    several = value if isinstance(value, (list, tuple)) else [value]
    # That there are none must be said, too.
    values = [str(one) for one in several] or ["[]"]
    # By itself -1e-05 reads like an option.
    if len(values) == 1 and values[0].startswith("-"):
        return [f"{option}={values[0]}"]
    return [option, *values]


class CellFolder:
    """What a cell leaves: ``cell.json``, ``log.txt``, ``attempts.json`` and its ``run/``.

    Args:
        sweep: folder of the sweep.
        cell: of the folder.

    Raises:
        ValueError: if the folder is of another cell; what differs is named.
    """

    def __init__(self, sweep: str | Path, cell: Cell):
        self.cell = cell
        self.path = Path(sweep) / "runs" / cell.name
        self.run = self.path / "run"
        self.log = self.path / "log.txt"
        self._attempts = self.path / "attempts.json"
        saved = self.path / "cell.json"
        asked = json.loads(json.dumps(dataclasses.asdict(cell)))
        if saved.exists():
            if differing := differences(json.loads(saved.read_text()), asked):
                raise ValueError(
                    f"{self.path} holds another run; (there, asked): {differing}. Choose "
                    f"another folder."
                )
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(saved, json.dumps(asked, indent=1) + "\n")

    @classmethod
    def all_of(cls, sweep: str | Path) -> list[CellFolder]:
        """Those of a sweep, ordered by task, variant and seed."""
        paths = (Path(sweep) / "runs").glob("*/*/*/cell.json")
        cells = [Cell(**json.loads(path.read_text())) for path in paths]
        cells.sort(key=lambda cell: (cell.task, cell.variant, cell.seed))
        return [cls(sweep, cell) for cell in cells]

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.run / "summary.json").is_file()

    @property
    def frames(self) -> int:
        """How far the run has come, as its metrics say."""
        try:
            lines = (self.run / "metrics.csv").read_text().splitlines()
            place = lines[0].split(",").index("frames")
            return int(lines[-1].split(",")[place])
        except (OSError, ValueError, IndexError):
            return 0

    def command(self) -> list[str]:
        """Starts the run, or goes on from its newest checkpoint."""
        program = [*(self.cell.program or _TRAIN)]
        if _newest_checkpoint(self.run) is not None:
            return [sys.executable, *program, "--resume", str(self.run), "--no-progress"]
        arguments = [*self.cell.arguments, "--run-dir", str(self.run), "--no-progress"]
        return [sys.executable, *program, *arguments]

    def begin_attempt(self) -> None:
        """Note that a process is about to work on it."""
        before = self._read_attempts()
        # A process whose end nobody saw has spent a time that nobody knows.
        lost = before["open"] or before["process_seconds"] is None
        spent = None if lost else before["process_seconds"]
        self._write_attempts(spent, open_=True)

    def end_attempt(self, process_seconds: float | None) -> None:
        """Add what the process has spent."""
        before = self._read_attempts()["process_seconds"]
        known = before is not None and process_seconds is not None
        self._write_attempts(before + process_seconds if known else None, open_=False)

    def _read_attempts(self) -> dict[str, Any]:
        if self._attempts.exists():
            return json.loads(self._attempts.read_text())
        return {"process_seconds": 0.0, "open": False}

    def _write_attempts(self, seconds: float | None, *, open_: bool) -> None:
        content = {"process_seconds": seconds, "open": open_}
        write_whole(self._attempts, json.dumps(content) + "\n")

    def last_words(self) -> str:
        """The last line of the log that says something."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return next((line.strip() for line in reversed(lines) if line.strip()), "an empty log")

    def row(self) -> Row:
        """Of the finished run.

        Raises:
            ValueError: if it has not finished.
        """
        return row_of_run(
            self.run,
            study=self.cell.study,
            variant=self.cell.variant,
            command=self.cell.command,
            settings=self.cell.settings,
            keep=lambda name: name.startswith(tuple(self.cell.keep)),
            process_seconds=self._read_attempts()["process_seconds"],
        )


def _newest_checkpoint(run_dir: Path) -> Path | None:
    try:
        return find_checkpoint(run_dir)
    except ValueError:
        return None


class Attempt:
    """A process that trains a cell.

    Args:
        folder: of the cell.
        cores: that it may use. Default: all.
        gpu: index of the GPU that it sees. Default: all.
        inherited: file descriptors that stay open in it.
    """

    def __init__(
        self,
        folder: CellFolder,
        *,
        cores: Sequence[int] = (),
        gpu: int | None = None,
        inherited: Sequence[int] = (),
    ):
        self.folder = folder
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
        command = folder.command()
        folder.begin_attempt()
        start = [sys.executable, "-I", str(_START), str(os.getpid()), ",".join(map(str, cores))]
        with folder.log.open("ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                [*start, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=tuple(inherited),
            )

    def poll(self, *, wait: bool = False) -> int | None:
        """Its exit status, negative for a signal; None while it works."""
        if self.process.returncode is not None:
            return self.process.returncode
        pid, status, usage = os.wait4(self.process.pid, 0 if wait else os.WNOHANG)
        if not pid:
            return None
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.folder.end_attempt(usage.ru_utime + usage.ru_stime)
        return self.process.returncode

    def interrupt(self) -> None:
        """Ask it to write a checkpoint and end."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGINT)


def run_cell(sweep: str | Path, cell: Cell) -> None:
    """Train a cell to its end in a process of its own, from its newest checkpoint on.

    Args:
        sweep: folder of the sweep, which all machines that train must see.
        cell: to be trained; one that has finished is left alone.

    Raises:
        RuntimeError: if the process fails; the last line of its log is given.
    """
    folder = CellFolder(sweep, cell)
    if folder.finished:
        return
    status = Attempt(folder).poll(wait=True)
    if status or not folder.finished:
        raise RuntimeError(f"{cell.name} ended with {status}: {folder.last_words()}")
