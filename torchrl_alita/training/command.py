"""The command line of ``torchrl-alita train``, which the recipes share."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import shutil
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from torchrl_alita._checks import MissingKey
from torchrl_alita._settings import field_docs, parse_option, type_hints
from torchrl_alita.algorithms import ALGORITHMS, SidesSettings, algorithm_of, get_algorithm
from torchrl_alita.envs import get_task, task_names
from torchrl_alita.saving import check_same, read_config
from torchrl_alita.training.config import (
    PARTS,
    SIDE,
    Config,
    TrainingSettings,
    config_from_plain,
    make_config,
    option_text,
    unknown_option,
)
from torchrl_alita.training.evaluation import side_returns
from torchrl_alita.training.learning import NotFinite
from torchrl_alita.training.logging import WandbSettings
from torchrl_alita.training.loop import start

__all__ = [
    "OneLineParser",
    "check_option",
    "closing_table",
    "launch",
    "main",
    "parse_arguments",
    "quiet_libraries",
    "refused",
]

_PACKAGE = Path(__file__).parents[1]
# What is not the user's own code.
_INSTALLED = (
    _PACKAGE,
    *{Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")},
)
# What is wrong with what was asked for; everything else is a fault and shows its traceback.
REFUSALS = (ValueError, TypeError, KeyError, ImportError, OSError)


def refused(error: Exception, program: str = "torchrl-alita", *, own_code: bool = False) -> int:
    """Say in one line what is wrong with a command line; the exit status of that, 2.

    With ``own_code``, where the user's own code was at work, an environment of theirs for
    example, it says on which of its lines.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    print(
        f"{program}: {' '.join(text.split())}{_in_own_code(error) if own_code else ''}",
        file=sys.stderr,
    )
    return 2


def _in_own_code(error: Exception) -> str:
    """The innermost line of the user's own code that this package called, and the error's name."""
    frames = traceback.extract_tb(error.__traceback__)
    package = [Path(frame.filename).is_relative_to(_PACKAGE) for frame in frames]
    called = frames[package.index(True) :] if any(package) else []
    own = [f for f in called if not any(Path(f.filename).is_relative_to(p) for p in _INSTALLED)]
    own = [frame for frame in own if not frame.filename.startswith("<")]
    if not own:
        return ""
    return f" ({type(error).__name__}, {Path(own[-1].filename).name}:{own[-1].lineno})"


def quiet_libraries() -> None:
    """Keep what other libraries report about themselves off the console."""
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", module=r"torchrl_alita(\..*)?")
    warnings.formatwarning = _in_one_line


def _in_one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"torchrl-alita: {' '.join(str(message).split())}\n"


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def launch(defaults: Mapping[str, Config], arguments: Sequence[str] | None = None) -> dict:
    """Train from a recipe's command line: an algorithm and its options.

    Args:
        defaults: a config for each algorithm; the first one is the recipe's own.
        arguments: Default: the process's own.

    Returns:
        The same as :func:`torchrl_alita.training.train`.

    Raises:
        SystemExit: with 2 for a wrong option, which one line on stderr names; with 130 after
            Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    return _train(arguments, defaults, program="recipe")


def main(arguments: Sequence[str]) -> int:
    """``torchrl-alita train``: the exit status.

    Args:
        arguments: what follows on the command line.
    """
    try:
        _train(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _train(
    arguments: Sequence[str],
    defaults: Mapping[str, Config] | None = None,
    *,
    program: str = "torchrl-alita",
) -> dict[str, Any]:
    """Train as a command line says, and print the trained team beside a random one."""
    try:
        with ExitStack() as opened:
            try:
                config = parse_arguments(arguments, defaults)
                quiet_libraries()
                run = opened.enter_context(start(config))
            except REFUSALS as error:
                raise SystemExit(refused(error, program, own_code=True)) from None
            try:
                summary = run.to_end()
            # The disk is full; a reward is NaN; nothing writes a bonus that was asked for.
            except (OSError, NotFinite, MissingKey) as error:
                raise SystemExit(refused(error, program)) from None
    except KeyboardInterrupt:
        print(f"{program}: stopped by Ctrl-C.", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"\n{closing_table(summary)}\n\nEverything is in {summary['run_dir']}/")
    return summary


def closing_table(summary: Mapping[str, Any]) -> str:
    """A run's figures of merit, beside those of a random team and the best that is known.

    Args:
        summary: content of summary.json.

    Returns:
        The lines; the last one is the share of the way from the random team to the best.

    Examples:
        >>> means = {"return_mean": -40.0}, {"return_mean": -80.0}
        >>> summary = {"evaluation": means[0], "random_team": means[1], "ceiling": -30.0}
        >>> print(closing_table(summary))
                                     trained      random     ceiling
        return_mean                  -40.000     -80.000     -30.000
        score                          0.800       0.000       1.000
    """
    trained, random = summary["evaluation"], summary["random_team"]
    best = summary.get("ceiling")
    ceilings = {} if best is None else {"return_mean": best}
    # Of sides that are paid against each other the mean over all agents says nothing.
    hidden = ("return_mean", "return_std") if side_returns(trained) and best is None else ()
    rows = [
        [name, value, random[name], ceilings.get(name)]
        for name, value in trained.items()
        if name not in hidden
    ]
    floor = random["return_mean"]
    if best is not None and best != floor:
        rows.append(["score", (trained["return_mean"] - floor) / (best - floor), 0.0, 1.0])
    titles = ["", "trained", "random", *(["ceiling"] if ceilings else [])]
    lines = ["".join(f"{title:<24}" if not title else f"{title:>12}" for title in titles)]
    for name, *values in rows:
        cells = ["" if value is None else f"{value:.3f}" for value in values[: len(titles) - 1]]
        lines.append(f"{name:<24}{''.join(f'{cell:>12}' for cell in cells)}".rstrip())
    return "\n".join(lines)


def parse_arguments(
    arguments: Sequence[str], defaults: Mapping[str, Config] | None = None
) -> Config:
    """The config of a command line; with --resume, that of the run and the command line.

    Options of how it is trained have no prefix, those of the algorithm begin with
    ``--algorithm.``, those of the task with ``--task.``. Of the algorithm ``sides``,
    ``--side.NAME`` is what a side follows and ``--side.NAME.`` precedes its options. A yes or no
    is ``--algorithm.normalize``, ``--algorithm.no-normalize`` or ``--algorithm.normalize=true``;
    several values are ``64 64`` or ``[64,64]``.

    Args:
        arguments: what follows the name of the command.
        defaults: a config for each algorithm, of which the first counts where none is named.
            Default: those of the classes.

    Returns:
        The :class:`Config`.

    Raises:
        ValueError: for a name that is not known, or a value out of its range.
        TypeError: for a value of another type.
        ImportError: if the task's extra is missing; it is named.
        SystemExit: after --help.

    Examples:
        >>> config = parse_arguments(["maddpg", "--seed", "3", "--algorithm.gamma=0.9"])
        >>> config.training.seed, config.algorithm.gamma
        (3, 0.9)
    """
    arguments = list(arguments)
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    if "--" in arguments:
        raise ValueError("'--' stands before no option.")
    first = _peek(arguments)
    if first.resume is not None:
        base = _saved_config(first.resume)
        if name not in (None, base.algorithm_name):
            raise ValueError(f"{first.resume} is a run of {base.algorithm_name}, not of {name}.")
    elif name is None and defaults is None:
        if first.help:
            print(_overview())
            raise SystemExit(0)
        raise ValueError(f"Name an algorithm, one of {', '.join(ALGORITHMS)}; see train --help.")
    else:
        name = name or next(iter(defaults or {}))
        get_algorithm(name)
        base = (defaults or {}).get(name) or Config(
            task=first.task or get_algorithm(name).default_task,
            algorithm=get_algorithm(name).Settings(),
        )
    name = base.algorithm_name if name is None else name
    task = first.task or base.task
    base = make_config(name, task, _sides_in(arguments), preset=first.preset, default=base)
    parser = _parser(base)
    given, others = parser.parse_known_args(_normal(arguments, base))
    if others:
        raise ValueError(unknown_option(others[0].partition("=")[0], _options(base)))
    named = ("task", "preset", "help")
    options = {option: value for option, value in vars(given).items() if option not in named}
    try:
        return make_config(name, task, options, default=base)
    except ValueError:
        if first.resume is not None:
            # What is wrong may follow from an option that is not to be given at all.
            _check_given(first.resume, options, base)
        raise


def _saved_config(run_dir: str) -> Config:
    """The config of an earlier run, all of it checked."""
    saved = read_config(run_dir)
    try:
        return config_from_plain(saved)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{run_dir}/config.json: {error}") from error


def _check_given(run_dir: str, options: Mapping[str, Any], base: Config) -> None:
    """Refuse options that differ from those of the run that is resumed."""
    # Where it is and what it tells Weights & Biases is no part of what a run was started with.
    apart = ("resume", "run_dir")
    for prefix, settings in _parts(base).items():
        if prefix == "wandb.":
            continue
        hints, part = type_hints(type(settings)), prefix.removesuffix(".") or "training"
        given = [n for n in hints if f"{prefix}{n}" in options and n not in apart]
        saved = {name: getattr(settings, name) for name in given}
        asked = {n: parse_option(f"{prefix}{n}", options[f"{prefix}{n}"], hints[n]) for n in given}
        check_same(run_dir, {part: saved}, {part: asked})


def check_option(algorithm: str, name: str) -> None:
    """Refuse an option that no run of an algorithm has.

    Args:
        algorithm: its name.
        name: ``"num-envs"``, ``"algorithm.influence-coeff"`` or ``"wandb.project"``. Those of a
            task and of a side are not looked at.

    Raises:
        ValueError: if there is none; the nearest is given.

    Examples:
        >>> check_option("alita", "algorithm.influence-coef")
        Traceback (most recent call last):
        ...
        ValueError: Unknown option algorithm.influence_coef. Did you mean
        algorithm.influence_coeff?
    """
    part, _, option = name.replace("-", "_").rpartition(".")
    settings = get_algorithm(algorithm).Settings
    of_side = part.split(".")[0] == SIDE
    if part == "task" or (of_side and settings is SidesSettings):
        # Which options a task or a side has follows from what it is, which is an option itself.
        return
    if of_side:
        raise ValueError(f"{name} is an option of the algorithm 'sides', not of {algorithm!r}.")
    kinds: dict[str, Any] = {
        "": TrainingSettings,
        "training": TrainingSettings,
        "wandb": WandbSettings,
    }
    if settings is not SidesSettings:
        kinds["algorithm"] = settings
    if part not in kinds:
        known = [one for one in PARTS if one in (*kinds, "task")]
        known += [SIDE] if settings is SidesSettings else []
        raise ValueError(f"Unknown option {name}: its part must be one of {known}.")
    prefix = f"{part}." if part else ""
    known = [field.name for field in dataclasses.fields(kinds[part])]
    if option not in known:
        raise ValueError(unknown_option(f"{prefix}{option}", [f"{prefix}{k}" for k in known]))


def _sides_in(arguments: Sequence[str]) -> dict[str, str]:
    """What each side follows, by ``"side.NAME"``: it decides which options there are."""
    found = {}
    for i, argument in enumerate(arguments):
        if match := re.fullmatch(rf"--({SIDE}\.[\w-]+)(?:=(.+))?", argument):
            option, value = option_text(match[1]), match[2]
            if value is None:
                value = arguments[i + 1] if i + 1 < len(arguments) else "--"
            if value.startswith("--"):
                raise ValueError(f"--{option} must be followed by what the side follows.")
            found[option] = value
    return found


def _peek(arguments: Sequence[str]) -> argparse.Namespace:
    """What decides which options there are."""
    parser = OneLineParser(add_help=False, allow_abbrev=False)
    for option in ("--task", "--preset", "--resume"):
        parser.add_argument(option)
    parser.add_argument("--help", "-h", action="store_true")
    return parser.parse_known_args(arguments)[0]


def _parts(config: Config) -> dict[str, Any]:
    """Settings by the prefix of their options."""
    own = config.task_settings or get_task(config.task).settings
    parts = {"": config.training, "algorithm.": config.algorithm, "task.": own}
    if isinstance(config.algorithm, SidesSettings):
        del parts["algorithm."]
        learning = config.algorithm.learning.items()
        parts |= {f"{SIDE}.{name}.": settings for name, settings in learning}
    return {prefix: settings for prefix, settings in parts.items() if settings is not None} | {
        "wandb.": config.training.wandb
    }


def _options(config: Config) -> list[str]:
    """Every option of its settings, as a command line has it."""
    return [
        f"--{option_text(f'{prefix}{field.name}')}"
        for prefix, settings in _parts(config).items()
        for field in dataclasses.fields(settings)
    ]


def _parser(config: Config) -> OneLineParser:
    parser = OneLineParser(
        usage=f"torchrl-alita train {config.algorithm_name} [--task NAME] [--OPTION VALUE ...]",
        description="Defaults are those of this algorithm and task.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=_Help,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help="Show this and exit.")
    parser.add_argument("--task", metavar="NAME", help=f"Name of the task (default: {config.task})")
    presets = sorted(get_algorithm(config.algorithm_name).presets)
    if presets:
        parser.add_argument("--preset", help=f"Settings with a name: {', '.join(presets)}")
    titles = {
        "": "training",
        "algorithm.": f"algorithm: {config.algorithm_name}",
        "task.": f"task: {config.task}",
        "wandb.": "Weights & Biases",
    }
    if isinstance(config.algorithm, SidesSettings):
        titles |= _add_sides(parser, config.algorithm)
    for prefix, settings in _parts(config).items():
        group = parser.add_argument_group(titles[prefix])
        hints, docs = type_hints(type(settings)), field_docs(type(settings))
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            if dataclasses.is_dataclass(value):
                continue
            hint = hints[field.name]
            group.add_argument(
                f"--{option_text(f'{prefix}{field.name}')}",
                dest=f"{prefix}{field.name}",
                nargs="+" if _accepts(hint, tuple) else None,
                # One for the first value, one for those that may follow.
                metavar=(_metavar(hint), "") if _accepts(hint, tuple) else _metavar(hint),
                help=f"{docs.get(field.name, '')} (default: {_shown(value)})".replace("%", "%%"),
            )
    return parser


def _add_sides(parser: OneLineParser, settings: SidesSettings) -> dict[str, str]:
    """What each side follows, and which agents it has; titles of the learning sides' options."""
    group = parser.add_argument_group("sides", "Give --side.NAME for each side of the game.")
    agents = dict(settings.agents)
    for name, follows in settings.sides:
        shown = follows if isinstance(follows, str) else algorithm_of(follows)
        group.add_argument(
            f"--{SIDE}.{name}",
            dest=f"{SIDE}.{name}",
            metavar="NAME",
            help="An algorithm; or of a fixed side random, module:function, or the directory of a "
            f"run (default: {shown})",
        )
        group.add_argument(
            f"--{SIDE}.{name}.agents",
            dest=f"{SIDE}.{name}.agents",
            nargs="+",
            metavar=("N", ""),
            help=f"Its agents (default: {_shown(agents[name]) if name in agents else 'the game says'})",
        )
    return {
        f"{SIDE}.{name}.": f"side {name}: {algorithm_of(own)}"
        for name, own in settings.learning.items()
    }


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str):
        width = min(100, shutil.get_terminal_size().columns)
        super().__init__(prog, max_help_position=30, width=width)


def _accepts(hint: Any, kind: type) -> bool:
    members = get_args(hint) if get_origin(hint) not in (None, tuple) else (hint,)
    return any(member is kind or get_origin(member) is kind for member in members)


def _metavar(hint: Any) -> str:
    """What may stand after an option, as ``NUMBER`` or ``all|own``."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    words: list[str] = []
    for member in members:
        if get_origin(member) is Literal:
            words += map(str, get_args(member))
        elif get_origin(member) is tuple:
            words.append(f"{_metavar(get_args(member)[0])}...")
        else:
            words.append(_KINDS.get(member, "VALUE"))
    return "|".join(words)


_KINDS = {int: "N", float: "X", bool: "true|false", str: "TEXT", Path: "PATH", type(None): "none"}


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _normal(arguments: Sequence[str], config: Config) -> list[str]:
    """Arguments in one form: dashes in names but those of sides, ``--x=true`` for a flag ``--x``."""
    flags = {
        option_text(f"{prefix}{name}")
        for prefix, settings in _parts(config).items()
        for name, hint in type_hints(type(settings)).items()
        if _accepts(hint, bool)
    }
    found = []
    for i, argument in enumerate(arguments):
        if not argument.startswith("--"):
            found.append(argument)
            continue
        name, equals, value = argument[2:].partition("=")
        name = option_text(name)
        positive = re.sub(rf"^((?:algorithm|task|wandb|{SIDE}\.\w+)\.)?no-", r"\1", name)
        alone = all(word.startswith("--") for word in arguments[i + 1 : i + 2])
        if not equals and name in flags and alone:
            found.append(f"--{name}=true")
        elif not equals and name not in flags and positive in flags:
            found.append(f"--{positive}=false")
        else:
            found.append(f"--{name}{equals}{value}")
    return found


def _overview() -> str:
    """Tasks and algorithms, for ``train --help``."""
    lines = ["usage: torchrl-alita train ALGORITHM [--task NAME] [options]", "", "algorithms:"]
    for name, algorithm in ALGORITHMS.items():
        lines.append(f"  {name:<17}{(algorithm.__doc__ or '').strip().splitlines()[0]}")
    lines += ["", "tasks:", *(f"  {line}" for line in _columns(task_names()))]
    lines += ["", "Options of an algorithm: torchrl-alita train ALGORITHM --help"]
    return "\n".join(lines)


def _columns(names: Sequence[str]) -> list[str]:
    """Names of one suite in a line."""
    suites: dict[str, list[str]] = {}
    for name in names:
        suite, _, rest = name.partition("/")
        suites.setdefault(suite, []).append(rest)
    return [
        suite if rest == [""] else f"{suite}/  {' '.join(filter(None, rest))}"
        for suite, rest in suites.items()
    ]
