"""SMAC, the StarCraft multi-agent challenge, over the interface that it publishes.

Source: https://arxiv.org/abs/1902.04043, and Sec. 4.1.1 of https://arxiv.org/abs/2108.12581
for the five maps. The game and its maps are installed by hand;
``python -m torchrl_alita.envs.smac`` says what is found and what is missing.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import ActionMask, EnvBase, ParallelEnv, SerialEnv, TransformedEnv

from torchrl_alita._checks import check_at_least_one, require_keys
from torchrl_alita._extras import import_extra
from torchrl_alita.envs import _grid
from torchrl_alita.envs.registry import Task, register_task
from torchrl_alita.layout import ACTION, ACTION_MASK, next_key

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "MAPS",
    "Installation",
    "SMACEnv",
    "SMACSettings",
    "draw_smac",
    "find_installation",
    "main",
    "smac_metrics",
    "smac_task",
]

# Of Sec. 4.1.1 of the paper.
MAPS = ("2s3z", "5m_vs_6m", "3s_vs_5z", "corridor", "3s5z_vs_3s6z")
# Of the game itself, which need not be installed: agents, and steps of an episode.
_AGENTS = dict(zip(MAPS, (5, 5, 3, 6, 8), strict=True))
_LIMITS = dict(zip(MAPS, (120, 70, 250, 400, 170), strict=True))
# Directory of the binary by version: that of SMAC's paper, and that of most work since.
_BUILDS = {"4.6.2": "Base69232", "4.10": "Base75689"}
# No-op, stop and four moves come before the attacks, one for each enemy.
_FIRST_ATTACK = 6
_BINARY_ADDRESS = "https://github.com/Blizzard/s2client-proto#downloads"
_MAPS_ADDRESS = "https://github.com/oxwhirl/smac/releases"
_GAME_ADDRESS = "git+https://github.com/oxwhirl/smac.git"
_CHECK = "python -m torchrl_alita.envs.smac"


class SMACEnv(EnvBase):
    r"""One battle of SMAC, N agents against the game's own AI, ``batch_size`` ``[]``.

    .. math:: r_i = \frac{20}{r_{max}} \left( \Delta + 10 \, \#\text{kills}
        + 200 \, [\text{won}] \right), \qquad i = 1, \ldots, N

    Source: https://arxiv.org/abs/1902.04043, whose package, ``smac`` or its successor
    ``smacv2``, plays the game; Delta is the damage done, r_max the most that an episode
    can pay. Two more letters: L actions of each agent, S features of the state.

    ``("agents", "observation")`` is ``[N, O]``, ``("agents", "action")`` one-hot
    ``[N, L]``: no-op, stop, north, south, east, west, attack enemy 0, 1, ...
    ``("agents", "action_mask")`` is bool ``[N, L]``; a dead agent has only the no-op.
    ``"state"`` is ``[S]``. ``("next", "agents", "reward")`` ``[N, 1]`` is the team's reward,
    for each agent. ``"battle_won"`` bool, ``"dead_agents"`` and ``"dead_enemies"`` long and
    ``"dropped"`` bool are ``[1]``.

    A side that is wiped out terminates the episode; the map's limit of steps truncates
    it, although SMAC counts it as lost: it is not ``"battle_won"`` either.

    A game that dies is launched again, once, and a warning says so. The episode is then
    ``"dropped"``: truncated where it was, with reward 0, and left out of
    :func:`smac_metrics`. A second death before an episode has come to its end is an error.
    A reset before any step leaves the game alone: SMAC's would play another start.

    Args:
        map_name: a name of SMAC, such as ``"2s3z"``.
        game: builds an object with the methods of SMAC's ``StarCraft2Env`` from its
            keyword arguments. Default: that of ``smac``, else of ``smacv2``.
        horizon: steps after which an episode is truncated, at least 1. Default: the
            map's limit, which holds in any case.
        difficulty: of the game's AI, ``"1"`` to ``"9"`` and ``"A"``. Default: ``"7"``, very
            hard, SMAC's.
        game_version: such as ``"4.10"``. Default: the newest installed.
        reward_sparse: 1 for a won, -1 for a lost battle and nothing else. Default: False.
        reward_only_positive: damage and deaths of allies are not paid for. Default: True,
            SMAC's.
        obs_last_action: observations hold the agents' last actions. Default: False,
            SMAC's.
        replay_dir: where the game saves replays. Default: the game's own.
        device: of the tensors; the game runs on the CPU.
        seed: of the game. Default: drawn from torch's global generator. Another seed
            launches another game, as SMAC takes it at the launch only.

    Raises:
        ImportError: if neither package is installed; SMAC3, which PyPI has under the
            name ``smac``, is recognized.
        FileNotFoundError: without the binary, the version asked for or the map. Both
            errors name all that is missing, and what to do.
        ValueError: for an argument out of range; in a step, for an action that is not
            one-hot, or masked, with its agent: the game is not touched.
        RuntimeError: for a game that died twice, or a step before the first reset.

    Examples:
        >>> SMACEnv("2s3z", horizon=0)
        Traceback (most recent call last):
        ...
        ValueError: horizon must be at least 1, got 0.
    """

    def __init__(
        self,
        map_name: str,
        *,
        game: Callable[..., Any] | None = None,
        horizon: int | None = None,
        difficulty: str = "7",
        game_version: str | None = None,
        reward_sparse: bool = False,
        reward_only_positive: bool = True,
        obs_last_action: bool = False,
        replay_dir: str = "",
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ):
        if horizon is not None:
            check_at_least_one(horizon=horizon)
        super().__init__(device=device, batch_size=[])
        self.map_name = map_name
        self._make_game = _installed_game(map_name, game_version) if game is None else game
        self._options = {
            "difficulty": difficulty,
            "game_version": game_version,
            "reward_sparse": reward_sparse,
            "reward_only_positive": reward_only_positive,
            "obs_last_action": obs_last_action,
            "replay_dir": replay_dir,
        }
        self._game_seed = _grid.seed_of_task(seed)
        self._game, self._played = self._new_game(), False
        self._deaths, self._dead = 0, (0, 0)
        info = self._game.get_env_info()
        self.num_agents, self.num_actions = info["n_agents"], info["n_actions"]
        self.episode_limit = info["episode_limit"]
        self.horizon = min(horizon or self.episode_limit, self.episode_limit)
        self._steps = 0
        # What the agents see now, and whether they have acted since the reset.
        self._seen: TensorDict | None = None
        self._fresh = False
        self._set_specs(info["obs_shape"], info["state_shape"])

    def _set_specs(self, observation_size: int, state_size: int) -> None:
        lead, device = (self.num_agents,), self.device

        def grouped(**specs) -> Composite:
            agents = Composite(**specs, shape=lead, device=device)
            return Composite(agents=agents, device=device)

        def flag() -> Categorical:
            return Categorical(2, shape=(1,), dtype=torch.bool, device=device)

        shape = (*lead, self.num_actions)
        self._mask = torch.ones(shape, dtype=torch.bool, device=device)
        seen = grouped(
            observation=Unbounded((*lead, observation_size), device=device),
            action_mask=Categorical(2, shape=shape, dtype=torch.bool, device=device),
        )
        seen["state"] = Unbounded((state_size,), device=device)
        for name in ("battle_won", "dropped"):
            seen[name] = flag()
        for name in ("dead_agents", "dead_enemies"):
            seen[name] = Unbounded((1,), dtype=torch.long, device=device)
        self.observation_spec = seen
        self.action_spec = grouped(
            action=_grid.AllowedOneHot(
                self.num_actions, shape=shape, dtype=torch.float32, device=device, mask=self._mask
            )
        )
        self.reward_spec = grouped(reward=Unbounded((*lead, 1), device=device))
        names = ("done", "terminated", "truncated")
        self.done_spec = Composite({name: flag() for name in names}, device=device)

    def _new_game(self) -> Any:
        return self._make_game(map_name=self.map_name, seed=self._game_seed, **self._options)

    def _close_game(self) -> None:
        game, self._game = self._game, None
        self._played = self._fresh = False
        if game is not None:
            # A dead process cannot be asked to leave.
            with suppress(Exception):
                game.close()

    def _set_seed(self, seed: int | None) -> None:
        seed = _grid.seed_of_task(seed)
        if seed != self._game_seed or self._played:
            self._close_game()
        self._game_seed = seed

    def _bury(self, error: Exception) -> None:
        """Count a death of the game; the second in a row is an error."""
        self._close_game()
        self._deaths += 1
        if self._deaths > 1:
            raise RuntimeError(
                f"StarCraft died twice in a row on the map {self.map_name!r}; the last time: "
                f"{error!r}. To check the installation: {_CHECK}"
            ) from error
        # With the same seed the new game would repeat the old one, to its death.
        self._game_seed += 1
        warnings.warn(
            f"StarCraft died on the map {self.map_name!r} ({error!r}): it is launched again.",
            RuntimeWarning,
            stacklevel=2,
        )

    def _look(self) -> TensorDict:
        """Observations, mask and state as the game gives them now."""
        agents = {
            "observation": np.stack(self._game.get_obs()).astype(np.float32),
            "action_mask": np.array(self._game.get_avail_actions(), dtype=bool),
        }
        seen = TensorDict({"agents": TensorDict(agents, [self.num_agents])}, [])
        seen["state"] = torch.as_tensor(np.asarray(self._game.get_state(), dtype=np.float32))
        return seen.to(self.device)

    def _entries(self, seen: TensorDict, **values: bool | int) -> TensorDict:
        """What is seen, with flags and counts ``[1]``."""
        self._seen = seen
        _grid.publish_mask(self, self._mask, seen[ACTION_MASK])
        entries = seen.clone()
        for name, value in values.items():
            entries[name] = torch.tensor([value], device=self.device)
        entries["done"] = entries["terminated"] | entries["truncated"]
        return entries

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        while not self._fresh:
            if self._game is None:
                self._game = self._new_game()
            self._played = True
            try:
                self._game.reset()
                self._seen, self._fresh = self._look(), True
            except Exception as error:
                # Which errors a dead process causes depends on what it was doing.
                self._bury(error)
        self._steps, self._dead = 0, (0, 0)
        return self._entries(self._seen, **self._status())

    def _status(
        self,
        *,
        battle_won: bool = False,
        dropped: bool = False,
        terminated: bool = False,
        truncated: bool = False,
    ) -> dict[str, bool | int]:
        return {
            "battle_won": battle_won,
            "dropped": dropped,
            "dead_agents": self._dead[0],
            "dead_enemies": self._dead[1],
            "terminated": terminated,
            "truncated": truncated,
        }

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self._game is None or self._seen is None:
            raise RuntimeError(f"The map {self.map_name!r} must be reset before a step.")
        chosen = self._chosen(tensordict.get(ACTION), self._seen[ACTION_MASK])
        self._fresh = False
        try:
            reward, ended, info = self._game.step(chosen)
            if ended and "battle_won" not in info:
                # So SMAC reports that it lost the connection.
                raise ConnectionError("the battle ended without a result")
            seen = self._look()
        except Exception as error:
            self._bury(error)
            return self._paid(0.0, self._seen, dropped=True, truncated=True)
        self._steps += 1
        self._dead = int(info["dead_allies"]), int(info["dead_enemies"])
        return self._paid(reward, seen, **self._outcome(bool(ended), bool(info["battle_won"])))

    def _outcome(self, ended: bool, won: bool) -> dict[str, bool]:
        """How the episode stands after a step, of which SMAC says whether it ended it."""
        if ended or self._steps >= self.horizon:
            self._deaths = 0
        # SMAC ends both alike. A draw leaves no ally.
        undecided = not won and self._dead[0] < self.num_agents
        limited = ended and undecided and self._steps >= self.episode_limit
        return {
            "battle_won": won,
            "terminated": ended and not limited,
            "truncated": limited or (not ended and self._steps >= self.horizon),
        }

    def _paid(self, reward: float, seen: TensorDict, **status: bool) -> TensorDict:
        entries = self._entries(seen, **self._status(**status))
        entries["agents", "reward"] = torch.full(
            (self.num_agents, 1), float(reward), device=self.device
        )
        return entries

    def _chosen(self, action: torch.Tensor, allowed: torch.Tensor) -> list[int]:
        """Numbers of one-hot actions that the mask allows, ``[N, L] -> N``."""
        if action.shape != self._mask.shape:
            raise ValueError(
                f"{ACTION} must have the shape {tuple(self._mask.shape)}, got "
                f"{tuple(action.shape)}."
            )
        one_hot = ((action == 0) | (action == 1)).all(-1) & (action.sum(-1) == 1)
        if not bool(one_hot.all()):
            agent = int((~one_hot).nonzero()[0])
            raise ValueError(
                f"The action of agent {agent} must be one-hot, got {action[agent].tolist()}."
            )
        chosen = action.float().argmax(-1).tolist()
        for agent, number in enumerate(chosen):
            if not bool(allowed[agent, number]):
                possible = allowed[agent].nonzero().flatten().tolist()
                raise ValueError(
                    f"Agent {agent} cannot take action {number} on the map {self.map_name!r}: "
                    f"the mask allows {possible}."
                )
        return chosen

    def close(self, *, raise_if_closed: bool = True) -> None:
        """End the game's process.

        Args:
            raise_if_closed: a second call is an error.
        """
        self._close_game()
        super().close(raise_if_closed=raise_if_closed)


class Installation(NamedTuple):
    """What is found of SMAC: see :func:`find_installation`.

    ``package`` is ``"smac"``, ``"smacv2"`` or None; ``path`` the game's directory;
    ``builds`` its versions' directories; ``maps`` the maps' names; ``problems`` what is
    missing, with what to do.
    """

    package: str | None
    path: Path
    builds: tuple[str, ...]
    maps: tuple[str, ...]
    problems: tuple[str, ...]


def find_installation(
    maps: tuple[str, ...] = MAPS, *, game_version: str | None = None
) -> Installation:
    """What is found of SMAC, without an import or a launch.

    Args:
        maps: that must be there. Default: the five of the paper.
        game_version: that must be there, ``"4.6.2"`` or ``"4.10"``; others are left to
            the game to find. Default: any.

    Returns:
        An :class:`Installation`.

    Examples:
        >>> find_installation(maps=("no_such_map",)).problems[-1]
        "Missing maps: ['no_such_map']. ..."
    """
    package, problems = _find_package()
    path = Path(os.environ.get("SC2PATH") or "~/StarCraftII").expanduser()
    builds = tuple(sorted({found.parent.name for found in path.glob("Versions/Base*/SC2*")}))
    if not builds:
        problems.append(
            f"No StarCraft II in {path}. Get it from {_BINARY_ADDRESS} and let the environment "
            "variable SC2PATH name its directory."
        )
    elif game_version in _BUILDS and _BUILDS[game_version] not in builds:
        problems.append(
            f"StarCraft II {game_version} ({_BUILDS[game_version]}) is not among the versions "
            f"in {path}: {list(builds)}. Get it from {_BINARY_ADDRESS}."
        )
    found = tuple(sorted(file.stem for file in path.glob("Maps/**/*.SC2Map")))
    missing = [name for name in maps if name not in found]
    if missing:
        problems.append(
            f"Missing maps: {missing}. Get SMAC_Maps from {_MAPS_ADDRESS} and put the directory "
            f"into {path / 'Maps'}."
        )
    return Installation(package, path, builds, found, tuple(problems))


def _find_package() -> tuple[str | None, list[str]]:
    """The package that plays SMAC, by its files: one of the same name has none of them."""
    unrelated = False
    for name in ("smac", "smacv2"):
        spec = importlib.util.find_spec(name)
        roots = [] if spec is None else list(spec.submodule_search_locations or ())
        if any((Path(root) / "env" / "starcraft2").is_dir() for root in roots):
            return name, []
        unrelated |= name == "smac" and spec is not None
    todo = f"Install the StarCraft challenge, which is not on PyPI: pip install {_GAME_ADDRESS}"
    if not unrelated:
        return None, [f"Neither smac nor smacv2 is installed. {todo}"]
    return None, [
        "The installed package smac is not the StarCraft challenge; PyPI's smac is SMAC3, for "
        f"Bayesian optimization. pip uninstall smac. {todo}"
    ]


def _installed_game(map_name: str, game_version: str | None) -> Callable[..., Any]:
    """``StarCraft2Env`` of the package found, or one error that says what to do."""
    found = find_installation((map_name,), game_version=game_version)
    if found.problems:
        kind = FileNotFoundError if found.package else ImportError
        raise kind("\n".join(["SMAC cannot be played here.", *found.problems, f"Check: {_CHECK}"]))
    return importlib.import_module(f"{found.package}.env").StarCraft2Env


def main() -> int:
    """Print what is found of SMAC, and what to do about what is not.

    Returns:
        0 if the paper's five maps can be played, else 1.
    """
    found = find_installation()
    versions = {build: version for version, build in _BUILDS.items()}
    named = [f"{build} ({versions.get(build, 'other')})" for build in found.builds]
    print(f"package:  {found.package or 'none'}")
    print(f"SC2PATH:  {os.environ.get('SC2PATH') or 'not set'}; looked in {found.path}")
    print(f"versions: {', '.join(named) or 'none'}")
    print(f"maps:     {', '.join(found.maps) or 'none'} in {found.path / 'Maps'}")
    if found.builds and _BUILDS["4.6.2"] not in found.builds:
        print("note:     SMAC's paper plays 4.6.2; win rates of versions cannot be compared.")
    for problem in found.problems:
        print(f"problem:  {problem}")
    print("problems: " + (str(len(found.problems)) if found.problems else "none"))
    return int(bool(found.problems))


def smac_metrics(episodes: TensorDictBase) -> dict[str, torch.Tensor]:
    """Figures of merit of SMAC, episodes ``[B, T]`` -> scalars.

    What comes after an episode's end does not count, nor does an episode that was
    dropped because the game died. If all were, the figures are NaN.

    Args:
        episodes: complete episodes.

    Returns:
        ``win_rate``: share of the battles that were won; one that comes to its limit is
        not. ``dead_agents``: agents dead at the end, mean over the episodes.

    Raises:
        KeyError: if the episodes hold no results of battles.

    Examples:
        >>> flag = torch.tensor([[[False], [True]], [[False], [False]]])
        >>> dead = torch.tensor([[[0], [1]], [[2], [4]]])
        >>> entries = {"battle_won": flag, "dead_agents": dead, "done": flag, "dropped": ~flag & False}
        >>> metrics = smac_metrics(TensorDict({"next": entries}, [2, 2]))
        >>> {name: float(value) for name, value in metrics.items()}
        {'win_rate': 0.5, 'dead_agents': 2.5}
    """
    names = ("battle_won", "dead_agents", "dropped")
    require_keys(episodes, [next_key(name) for name in names])
    running = _grid.running(episodes)
    won, dead, dropped = (episodes[next_key(name)].squeeze(-1) * running for name in names)
    kept = ~dropped.any(1)
    return {
        "win_rate": won.any(1)[kept].float().mean(),
        # Nobody rises from the dead within an episode.
        "dead_agents": dead.amax(1)[kept].float().mean(),
    }


def _units(states: torch.Tensor, num_agents: int, num_enemies: int, width: int) -> torch.Tensor:
    """Health, x and y of all units, ``[T, S] -> [T, N + num_enemies, 3]``.

    A row of the state is health, cooldown, x, y for an ally and health, x, y for an
    enemy, then a shield, if the side has shields, and a one-hot type, if the map has
    several. The width that remains says which.
    """
    for kinds, ally_shield, enemy_shield in itertools.product((0, 2, 3), (0, 1), (0, 1)):
        ally, enemy = 4 + ally_shield + kinds, 3 + enemy_shield + kinds
        if num_agents * ally + num_enemies * enemy == width:
            break
    else:
        raise ValueError(
            f"The state must have rows of {num_agents} agents and {num_enemies} enemies, got "
            f"{width} features beside the last actions."
        )
    allies, enemies = states[:, :width].split([num_agents * ally, num_enemies * enemy], -1)
    allies = allies.unflatten(-1, (num_agents, ally))[..., [0, 2, 3]]
    enemies = enemies.unflatten(-1, (num_enemies, enemy))[..., :3]
    return torch.cat([allies, enemies], 1)


def draw_smac(episode: TensorDictBase, *, size: int = 320) -> list[Image]:
    """Frames of one episode ``[T]``, from its first state to its last.

    Agents are blue disks, enemies red ones, with a bar of their health above; the dead
    are not drawn. The step, the living and a victory stand below.

    Args:
        episode: it is drawn to its end, and not beyond.
        size: edge of the map, pixels.

    Returns:
        A picture for each state, one more than the episode has steps.

    Raises:
        ImportError: if Pillow is not installed; the extra is named.
        KeyError: if the episode holds no states.
        ValueError: if the state is not that of SMAC.
    """
    image_module = import_extra("PIL.Image", "recipes")
    draw_module = import_extra("PIL.ImageDraw", "recipes")
    require_keys(episode, ["state", next_key("state"), ACTION, next_key("battle_won")])
    episode = _grid.first_episode(episode)[0]
    num_agents, num_actions = episode[ACTION].shape[-2:]
    states = torch.cat([episode["state"][:1], episode[next_key("state")]])
    width = states.shape[-1] - num_agents * num_actions
    units = _units(states, num_agents, num_actions - _FIRST_ATTACK, width).tolist()
    won = [False, *episode[next_key("battle_won")].flatten().tolist()]

    def frame(step: int) -> Image:
        image = image_module.new("RGB", (size, size + 16), "white")
        canvas = draw_module.Draw(image)
        canvas.rectangle((0, 0, size - 1, size - 1), outline=_grid.WALL_COLOR)
        for number, (health, x, y) in enumerate(units[step]):
            if health > 0:
                color = "#4477aa" if number < num_agents else "#ee6677"
                # From the map's center, in its widths; north is up.
                _draw_unit(canvas, ((0.5 + x) * size, (0.5 - y) * size), health, color)
        living = [unit[0] > 0 for unit in units[step]]
        caption = f"step {step}  agents {sum(living[:num_agents])}"
        caption += f"  enemies {sum(living[num_agents:])}" + "  won" * won[step]
        canvas.text((4, size + 2), caption, fill="black")
        return image

    return [frame(step) for step in range(len(units))]


def _draw_unit(canvas: Any, center: tuple[float, float], health: float, color: str) -> None:
    """A disk and a bar, as long as the unit has health."""
    x, y = center
    canvas.ellipse((x - 4, y - 4, x + 4, y + 4), fill=color)
    canvas.rectangle((x - 6, y - 9, x + 6, y - 7), fill="#dddddd")
    canvas.rectangle((x - 6, y - 9, x - 6 + 12 * health, y - 7), fill="#228833")


class _BattleMask(ActionMask):
    """TorchRL's ActionMask for a batch of which some battles are reset.

    Of those that go on, a batch of environments returns old entries in a reset.
    """

    def __init__(self):
        super().__init__(action_key=ACTION, mask_key=ACTION_MASK)

    def _reset(
        self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        reset = None if tensordict is None else tensordict.get("_reset", None)
        if reset is None:
            return self._call(tensordict_reset)
        mask = tensordict_reset[ACTION_MASK]
        mask = torch.where(reset.unsqueeze(-1), mask, self.action_spec.mask)
        self.action_spec.update_mask(mask)
        return tensordict_reset


@dataclass(frozen=True, kw_only=True)
class SMACSettings:
    """What a task of SMAC can set; see :class:`SMACEnv`."""

    difficulty: str = "7"
    """Of the game's own player."""
    game_version: str | None = None
    """Of StarCraft II. Default: the installed one."""
    reward_sparse: bool = False
    """Only the end is paid."""
    parallel: bool = True
    """Step battles at the same time, each by a process of Python's own."""


def smac_task(
    map_name: str,
    *,
    game: Callable[..., Any] | None = None,
    settings: SMACSettings | None = None,
) -> Task:
    """A map of SMAC as a task of the training loop.

    The paper's five are registered, as ``"smac/2s3z"``. A battle is a process, so B
    battles are B processes.

    Args:
        map_name: as in :class:`SMACEnv`.
        game: as in :class:`SMACEnv`.
        settings: Default: those of :class:`SMACSettings`.

    Returns:
        A :class:`torchrl_alita.envs.Task`, with :func:`smac_metrics` and
        :func:`draw_smac`; its environments are ``[B]``, and raise a ValueError if another
        number of agents is asked for than the map has.

    Examples:
        >>> task = smac_task("corridor", settings=SMACSettings(parallel=False))
        >>> task.n_agents, task.horizon
        (6, 400)
    """

    def make(
        *,
        num_envs: int,
        n_agents: int | None,
        device: torch.device | str,
        seed: int | None,
        horizon: int,
        settings: SMACSettings,
    ) -> EnvBase:
        options = asdict(settings)
        parallel = options.pop("parallel")

        def battle() -> SMACEnv:
            env = SMACEnv(map_name, game=game, horizon=horizon, device=device, seed=0, **options)
            if n_agents not in (None, env.num_agents):
                raise ValueError(
                    f"The map {map_name!r} is of {env.num_agents} agents, got n_agents={n_agents}."
                )
            return env

        # A wrong number of agents or a missing game shows here, not in a process.
        battle().close()
        kind = ParallelEnv if parallel and num_envs > 1 else SerialEnv
        env = kind(num_envs, battle, device=device)
        # Random actions of the batch are drawn from its own spec, not from a battle's.
        env = TransformedEnv(env, _BattleMask())
        env.set_seed(_grid.seed_of_task(seed))
        return env

    return Task(
        make=make,
        metrics=smac_metrics,
        draw=draw_smac,
        settings=settings or SMACSettings(),
        n_agents=_AGENTS.get(map_name),
        horizon=_LIMITS.get(map_name, 100),
    )


# Run as a script, the module is imported by its package already.
if __name__ == "__main__":
    raise SystemExit(main())

for _name in MAPS:
    register_task(f"smac/{_name}", smac_task(_name))
