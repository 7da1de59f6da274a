"""SMAX, StarCraft-like battles in JAX, as a batched environment (extra ``smax``).

Source: https://arxiv.org/abs/2311.10090, whose package ``jaxmarl`` plays the battles. It
needs no game of StarCraft: see :class:`SMAXEnv` for what that changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Categorical, Unbounded
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_at_least_one, check_positive, require_keys
from torchrl_alita._extras import import_extra
from torchrl_alita.envs import _grid
from torchrl_alita.envs._saved_state import SavedState, StaysOnDevice, check_like
from torchrl_alita.envs._smax_battles import (
    FIRST_ATTACK,
    Units,
    compiled,
    new_keys,
    place_of,
    placed,
    units_of_smax,
)
from torchrl_alita.envs.registry import Task, register_task
from torchrl_alita.envs.smac import _draw_unit, smac_metrics
from torchrl_alita.layout import ACTION, next_key

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "LIMITS",
    "MAPS",
    "TYPES",
    "SMAXEnv",
    "SMAXSettings",
    "draw_smax",
    "smax_metrics",
    "smax_task",
]

# In the order of SMAX's numbers.
TYPES = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")
_MARINE, _STALKER, _ZEALOT, _ZERGLING = (TYPES[number] for number in (0, 2, 3, 4))
# Agents and enemies on the paper's maps, in SMAX's order. SMAX has no corridor.
MAPS = {
    "2s3z": ((_STALKER,) * 2 + (_ZEALOT,) * 3,) * 2,
    "5m_vs_6m": ((_MARINE,) * 5, (_MARINE,) * 6),
    "3s_vs_5z": ((_STALKER,) * 3, (_ZEALOT,) * 5),
    "corridor": ((_ZEALOT,) * 6, (_ZERGLING,) * 24),
    "3s5z_vs_3s6z": ((_STALKER,) * 3 + (_ZEALOT,) * 5, (_STALKER,) * 3 + (_ZEALOT,) * 6),
}
# SMAC's, in steps.
LIMITS = {"2s3z": 120, "5m_vs_6m": 70, "3s_vs_5z": 250, "corridor": 400, "3s5z_vs_3s6z": 170}
# A unit's features in the state: health, x, y, cooldown and the type.
_UNIT_FEATURES = 4 + len(TYPES)
_COUNTS = ("dead_agents", "dead_enemies")
# Entries of a step beside the reward; all but the first of the last line are 0 after a reset.
_FLAGS = ("done", "terminated", "truncated")
_AGENTS = ("observation", "action_mask")
_STANDING = ("state", "battle_won", *_COUNTS, *_FLAGS)
# Battles that one call begins: a few end at a time.
_RESETS = 64


class SMAXEnv(SavedState, StaysOnDevice, EnvBase):
    r"""Battles of N agents against E scripted enemies, batched.

    .. math:: r_i = \frac{1}{E} \sum_{j=1}^{E} \frac{|\Delta h_j|}{h_j^{max}} + [\text{won}],
        \qquad i = 1, \ldots, N

    Source: https://arxiv.org/abs/2311.10090. Delta h_j is the change of enemy j's health
    in the step, h_j^max its full health. Nothing heals, so an episode pays 2 for a victory and
    at most 1 otherwise. The dead are paid as the living. An enemy that dies at the field's
    edge pays too. Two more letters: L = 5 + E actions of each agent, S features of
    the state.

    ``("agents", "observation")`` is ``[B, N, O]``, ``("agents", "action")`` one-hot
    ``[B, N, L]``: north, east, south, west, stop, attack enemy 0, 1, ...
    ``("agents", "action_mask")`` is bool ``[B, N, L]``; a dead agent can only stop, which
    then does nothing. ``"state"`` ``[B, S]`` is a row of health, x and y in units of the
    field's edge, cooldown from 0 (ready) to 1 and one-hot type for each unit, as it observes
    itself, zero for the dead, then the sides, then the types. (In SMAX itself the edge is 32
    there, and cooldowns are in seconds, without end below 0.)
    ``("next", "agents", "reward")`` is ``[B, N, 1]``. ``"battle_won"`` bool,
    ``"dead_agents"`` and ``"dead_enemies"`` long are ``[B, 1]``.

    A side that is wiped out terminates the episode. If both are in the same step, the battle
    is not won. The horizon truncates.

    What differs from SMAC, :class:`torchrl_alita.envs.smac.SMACEnv`:

    - The engine is a few hundred lines of JAX. The field is an open square of 32 x 32 without
      cliffs, heights or doorways: ``"corridor"`` is only its units. A unit that touches the
      edge dies.
    - Units are disks that push each other away and move without inertia. A step is 8 world
      steps of 1/16 s; SMAC's 8 of the game's steps are 0.36 s at the speed "faster".
    - A shield is part of the health. Nothing regenerates, there is no armor and no bonus
      against a kind of unit, and the stats are not those of SMAC's game version.
    - An agent can attack an enemy within its own range (2 to 6, between centers); SMAC's can
      attack what is within 6, and walk there. Sight is 8 to 10 by type; SMAC's is 9.
    - All shoot at the same time, so that both sides can die in one step.
    - The places at the start are random within 2 of each side's center, in x and in y.
    - Enemies follow a script, JaxMARL's ``HeuristicEnemySMAX``: each attacks the nearest
      agent in range and stays with it; else it walks to a random one in its sight, or to the
      other side of the field. SMAC's are the game's AI.
    - There is no action besides stop for the dead. Observations show the last moves, targets
      and cooldowns of enemies in sight. The reward is not SMAC's, which is at most 20.
    - JaxMARL ends every map at the same number of steps, 101; SMAC's limits are :data:`LIMITS`.

    Win rates of SMAX and SMAC cannot be compared.

    Each battle draws from a key of its own, which follows from the seed and its place in the
    batch, not from B. ``state_dict()`` holds the keys, the state of the battles, and what was
    seen of them last: from it they go on exactly.

    Tensors are handed to JAX and back without copies. The step and the reset are compiled at
    their first call, which takes seconds, once in a process for the same units and B. Unless
    JAX is imported already, it is kept from reserving most of a GPU's memory in advance.

    Args:
        map_name: one of :data:`MAPS`, or another of SMAX, such as ``"3m"``.
        num_envs: B, battles fought together. Default: 1.
        allies: names of the agents' types, of :data:`TYPES`, instead of a map.
        enemies: likewise, of the enemies.
        horizon: steps after which an episode is truncated, at least 1. Default: 100, that
            of :func:`torchrl_alita.make_env` and JaxMARL's ``max_steps``, after which it
            plays one step more.
        walls_cause_death: a unit that touches the edge of the field dies; otherwise it
            stays there. Default: True, SMAX's.
        reward_scale: what the reward is multiplied with, positive. Default: 1; 10 makes a
            victory pay 20, as in SMAC.
        device: of the battles. JAX must have it too: for a GPU, ``jax[cuda12]``.
        seed: of the keys, at least 0. Default: drawn from torch's global generator.

    Raises:
        ImportError: if JaxMARL is not installed; the extra is named.
        ValueError: for an unknown map or type, the known ones are listed; for a map and
            lists of units, or neither; for an argument out of range, or a device that JAX
            does not have; in a step, for an action that is not one-hot, or masked, with
            its environment and agent: the battles are unchanged.
        RuntimeError: for a step before the first reset.

    Examples:
        >>> SMAXEnv("2s3z", horizon=0)
        Traceback (most recent call last):
        ...
        ValueError: horizon must be at least 1, got 0.
    """

    # For _grid.set_specs: there are masks.
    mask_blocked = True

    # Its state_dict holds all that shapes the future, see environment_state.
    exact_state = True

    def __init__(
        self,
        map_name: str | None = None,
        *,
        num_envs: int = 1,
        allies: Sequence[str] | None = None,
        enemies: Sequence[str] | None = None,
        horizon: int = 100,
        walls_cause_death: bool = True,
        reward_scale: float = 1.0,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ):
        check_at_least_one(num_envs=num_envs, horizon=horizon)
        check_positive(reward_scale=reward_scale)
        units = _units_of(map_name, allies, enemies)
        super().__init__(device=device, batch_size=[num_envs])
        self.map_name, self.horizon, self.reward_scale = map_name, horizon, reward_scale
        self._place = place_of(self.device)
        self._battles = compiled(units, walls_cause_death)
        self.num_agents, self.num_enemies = self._battles.num_agents, self._battles.num_enemies
        self.num_actions = self._battles.num_actions
        self._set_specs()
        self._limit = placed(np.int32(horizon), self._place)
        # What the last step or reset returned, a copy: partial resets keep most of it.
        self._last = self._nothing()
        self._carry = self._battles.empty(num_envs, self._place)
        self._set_seed(seed)
        self._begun = False

    def _set_specs(self) -> None:
        self._mask = _grid.set_specs(
            self,
            observation_size=self._battles.observation_size,
            num_actions=self.num_actions,
        )
        batch, device = self.batch_size, self.device
        seen = self.full_observation_spec.clone()
        seen["state"] = Unbounded((*batch, self._battles.state_size), device=device)
        flag = Categorical(2, shape=(*batch, 1), dtype=torch.bool, device=device)
        seen["battle_won"] = flag
        for name in _COUNTS:
            seen[name] = Unbounded((*batch, 1), dtype=torch.long, device=device)
        self.observation_spec = seen

    def _set_seed(self, seed: int | None) -> None:
        keys = placed(new_keys(_grid.seed_of_task(seed), *self.batch_size), self._place)
        self._carry = (keys, self._carry[1])

    def _nothing(self) -> dict[str, torch.Tensor]:
        """What stands where no battle has begun."""
        observation, done = self.observation_spec.zero(), self.done_spec.zero()
        entries = {name: observation["agents", name] for name in _AGENTS}
        return entries | {
            name: (done if name in _FLAGS else observation)[name] for name in _STANDING
        }

    def _entries(self, entries: dict[str, torch.Tensor], **agents: torch.Tensor) -> TensorDict:
        _grid.publish_mask(self, self._mask, self._last["action_mask"])
        agents |= {name: entries[name] for name in _AGENTS}
        shape = (*self.batch_size, self.num_agents)
        group = TensorDict(agents, shape, device=self.device)
        entries = {name: entries[name] for name in _STANDING}
        return TensorDict({"agents": group, **entries}, self.batch_size, device=self.device)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        reset = None if tensordict is None else tensordict.get("_reset", None)
        (num_envs,) = self.batch_size
        if reset is None:
            rows = torch.arange(num_envs, device=self.device)
        else:
            rows = reset.squeeze(-1).nonzero().squeeze(-1)
        for part in rows.split(min(num_envs, _RESETS)):
            self._begin(part)
        for name in _STANDING[1:]:
            self._last[name].index_fill_(0, rows, 0)
        self._begun = True
        return self._entries({name: tensor.clone() for name, tensor in self._last.items()})

    def _begin(self, rows: torch.Tensor) -> None:
        """Begin the battles of these numbers, of which there is a limited count."""
        (num_envs,) = self.batch_size
        # The compiled function has one length; no battle has the number B.
        padding = (0, min(num_envs, _RESETS) - len(rows))
        padded = torch.nn.functional.pad(rows.int(), padding, value=num_envs)
        self._carry, seen = self._battles.reset(self._carry, padded)
        for name, tensor in seen.items():
            self._last[name].index_copy_(0, rows, tensor[: len(rows)])

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        if not self._begun:
            raise RuntimeError("The battles must be reset before a step.")
        chosen = self._chosen(tensordict.get(ACTION))
        self._carry, entries = self._battles.step(self._carry, chosen, self._limit)
        reward = entries.pop("reward") * self.reward_scale
        for name in _COUNTS:
            entries[name] = entries[name].long()
        self._last = {name: tensor.clone() for name, tensor in entries.items()}
        return self._entries(entries, reward=reward)

    def _chosen(self, action: torch.Tensor) -> torch.Tensor:
        """Numbers of one-hot actions that the mask allows, ``[B, N, L] -> [B, N]``."""
        mask = self._last["action_mask"]
        if action.shape == mask.shape:
            one = action == 1
            good = (one & mask).any(-1) & (one.sum(-1) == 1) & (one | (action == 0)).all(-1)
            # A GPU is waited for here, once.
            if bool(good.all()):
                numbers = torch.arange(self.num_actions, dtype=torch.int32, device=self.device)
                return (one * numbers).sum(-1, dtype=torch.int32)
        vectors = torch.eye(self.num_actions, device=self.device)
        chosen = _grid.chosen_actions(action, vectors, tuple(mask.shape[:2]))
        _grid.check_allowed(chosen, mask)
        return chosen.int()

    def _saved(self) -> dict[str, torch.Tensor]:
        """Copies by name."""
        tensors = {f"battles.{name}": t for name, t in self._battles.tensors(self._carry).items()}
        # Computed anew, what is seen could differ in the last bit.
        return tensors | {f"last.{name}": t.clone() for name, t in self._last.items()}

    def _restore(self, state: dict[str, torch.Tensor]) -> None:
        own = self._saved()
        for name, tensor in state.items():
            check_like(name, tensor, own[name])
        self._carry = self._battles.carry(self._carry, _part(state, "battles."), self._place)
        last = _part(state, "last.")
        self._last = {name: t.to(self.device, copy=True) for name, t in last.items()}
        self._begun = bool(self._last["action_mask"].any())
        _grid.publish_mask(self, self._mask, self._last["action_mask"])


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Those whose names begin so, by the rest of their names."""
    return {
        name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }


def _units_of(
    map_name: str | None, allies: Sequence[str] | None, enemies: Sequence[str] | None
) -> Units:
    """Numbers of the types that fight."""
    lists = (allies is not None) + (enemies is not None)
    if lists != (0 if map_name is not None else 2):
        raise ValueError(
            "Either map_name must be given, or both allies and enemies, got "
            f"map_name={map_name!r}, allies={allies!r}, enemies={enemies!r}."
        )
    if map_name in MAPS:
        allies, enemies = MAPS[map_name]
    elif map_name is not None:
        return units_of_smax(map_name, known=MAPS)
    for name, units in (("allies", allies), ("enemies", enemies)):
        if isinstance(units, str) or not units:
            raise ValueError(f"{name} must be a list of at least one type, got {units!r}.")
        for unit in units:
            _grid.check_choice(name, unit, TYPES)
    numbers = [tuple(map(TYPES.index, units or ())) for units in (allies, enemies)]
    return Units(allies=numbers[0], enemies=numbers[1])


def smax_metrics(episodes: TensorDictBase) -> dict[str, torch.Tensor]:
    """Figures of merit of SMAX, episodes ``[B, T]`` -> scalars.

    What comes after an episode's end does not count.

    Args:
        episodes: complete episodes.

    Returns:
        Those of :func:`torchrl_alita.envs.smac.smac_metrics`. ``win_rate``: share of the
        battles that were won; one that comes to its horizon is not. ``dead_agents``:
        agents dead at the end, mean over the episodes.

    Raises:
        KeyError: if the episodes hold no results of battles.

    Examples:
        >>> flag = torch.tensor([[[False], [True]], [[False], [False]]])
        >>> dead = torch.tensor([[[0], [1]], [[2], [4]]])
        >>> entries = {"battle_won": flag, "dead_agents": dead, "done": flag}
        >>> metrics = smax_metrics(TensorDict({"next": entries}, [2, 2]))
        >>> {name: float(value) for name, value in metrics.items()}
        {'win_rate': 0.5, 'dead_agents': 2.5}
    """
    names = ("battle_won", "dead_agents", "done")
    require_keys(episodes, [next_key(name) for name in names])
    entries = {name: episodes[next_key(name)] for name in names}
    # No battle of SMAX breaks off.
    entries["dropped"] = torch.zeros_like(entries["battle_won"])
    return smac_metrics(TensorDict({"next": entries}, episodes.shape))


def draw_smax(episode: TensorDictBase, *, size: int = 320) -> list[Image]:
    """Frames of one episode ``[T]``, from its first state to its last.

    Agents are blue disks, enemies red ones, with a bar of their health above; the dead
    are not drawn. The step, the living and a victory stand below. North is up.

    Args:
        episode: it is drawn to its end, and not beyond.
        size: edge of the field, pixels.

    Returns:
        A picture for each state, one more than the episode has steps.

    Raises:
        ImportError: if Pillow is not installed; the extra is named.
        KeyError: if the episode holds no states.
        ValueError: if the state is not that of SMAX.
    """
    require_keys(episode, ["state", next_key("state"), ACTION, next_key("battle_won")])
    episode = _grid.first_episode(episode)[0]
    num_agents, num_actions = episode[ACTION].shape[-2:]
    states = torch.cat([episode["state"][:1], episode[next_key("state")]])
    units = _units(states, num_agents + num_actions - FIRST_ATTACK)
    won = [False, *episode[next_key("battle_won")].flatten().tolist()]
    return [
        _frame(rows, num_agents, f"step {step}", "  won" * won[step], size)
        for step, rows in enumerate(units)
    ]


def _units(states: torch.Tensor, num_units: int) -> list[list[list[float]]]:
    """Health, x and y of all units in fractions, ``[T, S] -> [T][U][3]``."""
    width = num_units * (_UNIT_FEATURES + 2)
    if states.shape[-1] != width:
        raise ValueError(
            f"The state of {num_units} units must have {width} features, got {states.shape[-1]}."
        )
    rows = states[:, : num_units * _UNIT_FEATURES].unflatten(-1, (num_units, _UNIT_FEATURES))
    return rows[..., :3].tolist()


def _frame(units: list[list[float]], num_agents: int, before: str, after: str, size: int) -> Image:
    image_module = import_extra("PIL.Image", "recipes")
    draw_module = import_extra("PIL.ImageDraw", "recipes")
    image = image_module.new("RGB", (size, size + 16), "white")
    canvas = draw_module.Draw(image)
    canvas.rectangle((0, 0, size - 1, size - 1), outline=_grid.WALL_COLOR)
    for number, (health, x, y) in enumerate(units):
        if health > 0:
            color = "#4477aa" if number < num_agents else "#ee6677"
            _draw_unit(canvas, (x * size, (1 - y) * size), health, color)
    living = [health > 0 for health, _, _ in units]
    counts = f"  agents {sum(living[:num_agents])}  enemies {sum(living[num_agents:])}"
    canvas.text((4, size + 2), before + counts + after, fill="black")
    return image


@dataclass(frozen=True, kw_only=True)
class SMAXSettings:
    """What a task of SMAX can set; see :class:`SMAXEnv`."""

    walls_cause_death: bool = True
    """A unit that touches the edge of the field dies; otherwise it stays there."""
    reward_scale: float = 1.0
    """What the reward is multiplied with; 10 makes a victory pay 20, as in SMAC."""


def smax_task(
    map_name: str | None = None,
    *,
    allies: Sequence[str] | None = None,
    enemies: Sequence[str] | None = None,
    settings: SMAXSettings | None = None,
) -> Task:
    """Battles of SMAX as a task of the training loop.

    The paper's five maps are registered, as ``"smax/2s3z"``.

    Args:
        map_name: as in :class:`SMAXEnv`.
        allies: as in :class:`SMAXEnv`.
        enemies: as in :class:`SMAXEnv`.
        settings: Default: those of :class:`SMAXSettings`.

    Returns:
        A :class:`torchrl_alita.envs.Task`, with :func:`smax_metrics` and
        :func:`draw_smax`; its environments raise a ValueError if another number of agents
        is asked for than fight.

    Examples:
        >>> task = smax_task("corridor", settings=SMAXSettings(reward_scale=10.0))
        >>> task.n_agents, task.settings.reward_scale
        (6, 10.0)
    """

    def make(
        *,
        num_envs: int,
        n_agents: int | None,
        device: torch.device | str,
        seed: int | None,
        horizon: int,
        settings: SMAXSettings,
    ) -> SMAXEnv:
        env = SMAXEnv(
            map_name,
            num_envs=num_envs,
            allies=allies,
            enemies=enemies,
            horizon=horizon,
            device=device,
            seed=seed,
            **asdict(settings),
        )
        if n_agents not in (None, env.num_agents):
            name = "battle" if map_name is None else f"map {map_name!r}"
            raise ValueError(f"The {name} is of {env.num_agents} agents, got n_agents={n_agents}.")
        return env

    units = MAPS[map_name][0] if map_name in MAPS else allies
    return Task(
        make=make,
        metrics=smax_metrics,
        draw=draw_smax,
        settings=settings or SMAXSettings(),
        n_agents=None if units is None else len(units),
    )


for _name in MAPS:
    register_task(f"smax/{_name}", smax_task(_name))
