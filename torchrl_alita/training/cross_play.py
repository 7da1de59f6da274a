"""Cross-play: every policy of one side against every policy of the others."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from torchrl_alita._checks import LARGEST_NUMPY_SEED, check_kind, check_sequence, check_whole
from torchrl_alita.algorithms import fixed_policy
from torchrl_alita.envs import SideView, Task, check_sides, get_task, make_env, sides_of
from torchrl_alita.envs._closing import close_env
from torchrl_alita.layout import layout_of
from torchrl_alita.modules import SidesPolicy
from torchrl_alita.saving import load_side
from torchrl_alita.training.command import REFUSALS, OneLineParser, quiet_libraries, refused
from torchrl_alita.training.config import SIDE, make_config
from torchrl_alita.training.evaluation import evaluate
from torchrl_alita.transforms import recurrent_transforms

__all__ = ["cross_play", "main"]

Policy = str | Path | Callable[[TensorDictBase], TensorDictBase]


def cross_play(
    task: str | Task,
    sides: Mapping[str, Policy | Sequence[Policy]],
    *,
    agents: Mapping[str, Sequence[int]] | None = None,
    episodes: int = 100,
    seed: int = 0,
    n_agents: int | None = None,
    horizon: int | None = None,
    device: torch.device | str = "cpu",
) -> list[dict[str, Any]]:
    """Play every combination of the sides' policies against each other.

    Every combination starts from the same states. Policies act without exploration.

    Args:
        task: the game.
        sides: of each side one policy or several: the directory of a run, of
            :class:`torchrl_alita.algorithms.Sides` or of all agents by one algorithm; "random";
            "module:function"; a module of the side's agents; or a callable that writes
            ``("agents", "action")`` ``[B, n, A]`` into the side's batch.
        agents: the agents of each side. Default: as the environment has them, see
            :func:`torchrl_alita.envs.sides_of`.
        episodes: of each combination.
        seed: of the initial states.
        n_agents: as in :func:`torchrl_alita.envs.make_env`.
        horizon: as in :func:`torchrl_alita.envs.make_env`.
        device: of the simulation and the policies.

    Returns:
        A row for each combination: the name of each side's policy; ``return_SIDE``, the mean
        over its agents and the episodes; and the task's metrics.

    Raises:
        TypeError: if the sides are no mapping, or a policy is none of these.
        ValueError: if a side is unknown, missing or without a policy, or a run cannot be read or
            does not fit the game.

    Examples:
        >>> rows = cross_play(
        ...     "mpe/adversary", {"good": "random", "adversary": "random"}, episodes=10
        ... )
        >>> rows[0]["adversary"], sorted(rows[0])[-2:]
        ('random', ['return_adversary', 'return_good'])
    """
    check_whole(1, episodes=episodes)
    check_whole(0, LARGEST_NUMPY_SEED, seed=seed)
    task = get_task(task) if isinstance(task, str) else task
    check_kind("sides", sides, Mapping, "a mapping of sides to policies")
    options: dict[str, Any] = {"n_agents": n_agents, "horizon": horizon, "device": device}
    make = partial(make_env, task, num_envs=episodes, seed=seed, **options)
    rows = []
    with _closing(make()) as env:
        horizon = task.horizon if horizon is None else horizon
        known = check_sides(dict(agents or sides_of(env)), layout_of(env).num_agents)
        if set(known) != set(sides):
            raise ValueError(f"The game has the sides {sorted(known)}, got {sorted(sides)}.")
        policies = {name: _policies(name, sides[name], env, known[name], device) for name in known}
        for chosen in product(*(policies[name].items() for name in known)):
            names = dict(zip(known, (name for name, _ in chosen), strict=True))
            own = dict(zip(known, (policy for _, policy in chosen), strict=True))
            policy = SidesPolicy(known, own).to(device)
            # A memory is kept by transforms around an environment of its own.
            with _closing(make()) if policy.recurrent else nullcontext(env) as played:
                if policy.recurrent:
                    played = played.append_transform(recurrent_transforms(policy))
                result, _ = evaluate(
                    policy, played, task.metrics, horizon=horizon, seed=seed, sides=known
                )
            # Of sides that are paid against each other the mean over all agents says nothing; of
            # one side it is the side's.
            del result["return_std"]
            mean = result.pop("return_mean")
            result = {f"return_{name}": mean for name in known if len(known) == 1} | result
            rows.append({name: names[name] for name in sides} | result)
    return rows


@contextmanager
def _closing(env: EnvBase) -> Iterator[EnvBase]:
    """An environment that is closed at the end, and torch with as many threads as before."""
    threads = torch.get_num_threads()
    try:
        yield env
    finally:
        close_env(env)
        # Environments of TorchRL that are several set them.
        torch.set_num_threads(threads)


def _policies(
    side: str,
    given: Policy | Sequence[Policy],
    env: EnvBase,
    agents: Sequence[int],
    device: torch.device | str,
) -> dict[str, Callable]:
    """The policies of a side, by name."""
    single = isinstance(given, (str, Path)) or callable(given)
    several = [given] if single else check_sequence(f"The policies of the side {side!r}", given)
    if not several:
        raise ValueError(f"The side {side!r} has no policy.")
    found: dict[str, Callable] = {}
    for policy in several:
        if not isinstance(policy, (str, Path)) and not callable(policy):
            raise TypeError(
                f"A policy of the side {side!r} must be a run's directory, 'random', "
                f"'module:function' or callable, got {policy!r}."
            )
        name = getattr(policy, "__name__", type(policy).__name__) if callable(policy) else policy
        name = str(name)
        while name in found:
            name += "'"
        found[name] = _policy(side, policy, env, agents, device)
    return found


def _policy(
    side: str, policy: Policy, env: EnvBase, agents: Sequence[int], device: torch.device | str
) -> Callable:
    if callable(policy):
        return policy
    if Path(policy).is_dir():
        return load_side(policy, side, env, device=device)
    return fixed_policy(str(policy), SideView(env, agents), device=device)


def table(rows: Sequence[Mapping[str, Any]], *, width: int | None = None) -> str:
    """Rows as text, in columns; those beyond the width follow below, with the names again.

    Args:
        rows: of :func:`cross_play`.
        width: characters of a line. Default: all columns side by side.
    """
    names = [title for title, value in rows[0].items() if isinstance(value, str)]
    parts: list[list[str]] = [list(names)]
    for title in rows[0]:
        if title in names:
            continue
        longer = _columns(rows, [*parts[-1], title])
        if width is not None and len(parts[-1]) > len(names) and _longest(longer) > width:
            parts.append([*names, title])
        else:
            parts[-1].append(title)
    return "\n\n".join(_columns(rows, titles) for titles in parts)


def _longest(text: str) -> int:
    return max(map(len, text.splitlines()))


def _columns(rows: Sequence[Mapping[str, Any]], titles: Sequence[str]) -> str:
    cells = [titles, *([_shown(row[title]) for title in titles] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(titles))]
    lines = []
    for row in cells:
        # Names to the left, numbers to the right.
        lines.append(
            "  ".join(
                cell.ljust(width) if isinstance(value, str) else cell.rjust(width)
                for cell, width, value in zip(
                    row, widths, (rows[0][title] for title in titles), strict=True
                )
            ).rstrip()
        )
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"


def main(arguments: Sequence[str]) -> int:
    """``torchrl-alita cross-play``: the exit status.

    Args:
        arguments: what follows on the command line.
    """
    parser = OneLineParser(
        prog="torchrl-alita cross-play",
        usage="torchrl-alita cross-play --task NAME --side.NAME POLICY ... [--episodes N]",
        description="Play every policy of one side against every policy of the others. A policy is "
        "the directory of a run, random, or module:function.",
        allow_abbrev=False,
    )
    parser.add_argument("--task", required=True, metavar="NAME", help="the game")
    parser.add_argument("--episodes", type=int, default=100, help="of each pair (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the states (default: 0)")
    parser.add_argument("--n-agents", type=int, help="agents (default: the task's own)")
    parser.add_argument("--horizon", type=int, help="steps (default: the task's own)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0 (default: cpu)")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    try:
        sides, options = _split(arguments)
        given = parser.parse_args(options)
        config = make_config(task=given.task)
        quiet_libraries()
        if given.json is not None and not given.json.absolute().parent.is_dir():
            raise ValueError(f"There is no folder for --json {given.json}.")
        rows = cross_play(
            config.find_task(),
            sides,
            episodes=given.episodes,
            seed=given.seed,
            n_agents=given.n_agents,
            horizon=given.horizon,
            device=given.device,
        )
        # A file has no width.
        wide = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(table(rows, width=wide))
        if given.json is not None:
            given.json.write_text(json.dumps(rows, indent=1) + "\n")
    except REFUSALS as error:
        return refused(error, own_code=True)
    return 0


def _split(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The policies of each side, and all other options."""
    sides: dict[str, list[str]] = {}
    options: list[str] = []
    side: list[str] | None = None
    for argument in arguments:
        if argument.startswith(f"--{SIDE}."):
            name, equals, value = argument.removeprefix(f"--{SIDE}.").partition("=")
            side = sides.setdefault(name, [])
            side += [value] if equals else []
        elif side is not None and not argument.startswith("-"):
            side.append(argument)
        else:
            side = None
            options.append(argument)
    return sides, options
