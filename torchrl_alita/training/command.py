"""The command ``torchrl-alita train``."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from typing import get_args, get_type_hints

from torchrl_alita.envs import get_task
from torchrl_alita.training.recipe import (
    RecipeConfig,
    build_algorithm,
    parse_config,
    run_recipe,
)

__all__ = ["check_option", "main", "parse"]

_ALGORITHM = "algorithm."


def check_option(name: str) -> None:
    """Refuse a setting that no run has.

    Args:
        name: as on the command line, without its dashes: ``"num-envs"``, or
            ``"algorithm.influence-coeff"``.

    Raises:
        ValueError: if there is none; the nearest is given.

    Examples:
        >>> check_option("algorithm.influence-coef")
        Traceback (most recent call last):
        ...
        ValueError: Unknown setting 'algorithm.influence-coef'. Did you mean
        'algorithm.influence-coeff'?
    """
    known = {field.name.replace("_", "-") for field in dataclasses.fields(RecipeConfig)}
    plain = name.replace("_", "-").removeprefix(_ALGORITHM)
    if plain.partition(".")[0] in known:
        return
    prefix = _ALGORITHM if name.startswith(_ALGORITHM) else ""
    near = get_close_matches(plain, known, n=1)
    hint = f" Did you mean {prefix + near[0]!r}?" if near else ""
    raise ValueError(f"Unknown setting {name!r}.{hint}")


def parse(arguments: Sequence[str]) -> RecipeConfig:
    """The config of a command line.

    Args:
        arguments: name of the algorithm, then options; those of the algorithm begin with
            ``--algorithm.``. Without ``--n-agents`` and ``--horizon`` they are the task's own.

    Returns:
        The config.

    Raises:
        ValueError: for an unknown algorithm, task or setting, or a value that does not fit.
        ImportError: if tyro is not installed; the extra is named.

    Examples:
        >>> parse(["alita", "--task", "push_box", "--algorithm.gamma=0.9"]).gamma
        0.9
    """
    words: list[str] = []
    for word in arguments:
        # As sweeps of Weights & Biases write them: --name=value.
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        words += [name.replace(f"--{_ALGORITHM}", "--", 1), *[value] * bool(equals)]
    if words and not words[0].startswith("-"):
        known = get_args(get_type_hints(RecipeConfig)["algorithm"])
        if words[0] not in known:
            near = get_close_matches(words[0], known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown algorithm {words[0]!r}.{hint} Known: {sorted(known)}.")
        words.insert(0, "--algorithm")
    if "--task" in words[:-1]:
        task = get_task(words[words.index("--task") + 1])
        for option, own in (("--n-agents", task.n_agents), ("--horizon", task.horizon)):
            if option not in words and own is not None:
                words += [option, str(own)]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse_config(RecipeConfig, words)
    except SystemExit as error:
        if not error.code:
            raise
        text = "".join(" " if letter in "╭─╮│╰╯" else letter for letter in said.getvalue())
        reason = " ".join(text.split()).partition(" Argument helptext")[0]
        raise ValueError(reason) from None


def main(arguments: Sequence[str]) -> int:
    """Train one team.

    Args:
        arguments: see :func:`parse`.

    Returns:
        0; 2 if the command line cannot be read, with one line that says why.
    """
    try:
        config = parse(arguments)
    except (ValueError, ImportError) as error:
        print(f"torchrl-alita train: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    run_recipe(config, partial(build_algorithm, config), task=get_task(config.task))
    return 0
