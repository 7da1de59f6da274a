"""Battles of SMAX, compiled for a batch, with torch's tensors at its borders.

JAX and JaxMARL are imported when battles are made, not with the package. Letters in
shapes: B battles, N agents, L actions of each agent, U units of both sides, S features of
the state.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from torchrl_alita._extras import import_extra
from torchrl_alita.envs import _grid

__all__ = [
    "FIRST_ATTACK",
    "Battles",
    "Units",
    "compiled",
    "new_keys",
    "place_of",
    "placed",
    "units_of_smax",
]

# Four moves and stop come before the attacks, one for each enemy.
FIRST_ATTACK = 5
# SMAX ends a battle at its limit as it ends a lost one. The limit is ours.
_NEVER = 2**31 - 1
# Fixed, so that a seed means the same whatever JAX is configured to use.
_GENERATOR = "threefry2x32"


class Units(NamedTuple):
    """Numbers of the types of both sides; ``drawn``: as SMACv2, types and places at random."""

    allies: tuple[int, ...]
    enemies: tuple[int, ...]
    drawn: bool = False


def import_smax() -> ModuleType:
    """JaxMARL's module of SMAX.

    Raises:
        ImportError: if it is not installed; the extra is named.
    """
    if "jax" not in sys.modules:
        # JAX would take three quarters of a GPU's memory, which torch needs.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return import_extra("jaxmarl.environments.smax", "smax")


def units_of_smax(map_name: str, known: Iterable[str]) -> Units:
    """Who fights on a map of SMAX.

    Args:
        map_name: of SMAX.
        known: further maps, for the error.

    Raises:
        ValueError: if SMAX does not have it; all maps are listed.
    """
    import_smax()
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    _grid.check_choice("map_name", map_name, sorted({*known, *MAP_NAME_TO_SCENARIO}))
    scenario = MAP_NAME_TO_SCENARIO[map_name]
    types = tuple(scenario.unit_types.tolist())
    count = scenario.num_allies
    return Units(types[:count], types[count:], drawn=scenario.smacv2_unit_type_generation)


def check_bits() -> None:
    """Refuse JAX in 64 bits, in which JaxMARL's environments fail.

    Raises:
        ValueError: if it computes in 64 bits.
    """
    import jax

    # To the type check it has no such attribute.
    config: Any = jax.config
    if config.jax_enable_x64:
        raise ValueError(
            "JaxMARL's environments need JAX in 32 bits, got jax_enable_x64=True: leave it out, or "
            'set jax.config.update("jax_enable_x64", False) before.'
        )


def place_of(device: torch.device) -> Any:
    """JAX's device for one of torch.

    Raises:
        ValueError: if JAX does not have it, or computes in 64 bits, in which JaxMARL's
            environments fail.
    """
    import_smax()  # first: it leaves the process as it was
    import jax

    check_bits()
    index = device.index
    if index is None:
        index = 0 if device.type == "cpu" else torch.cuda.current_device()
    try:
        return jax.devices("cpu" if device.type == "cpu" else "cuda")[index]
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f'JAX cannot use the device {str(device)!r} here; for a GPU: pip install "jax[cuda12]". '
            f"{error}"
        ) from error


def placed(tree: Any, place: Any) -> Any:
    """Arrays on a device of JAX, which what is computed from them does not leave."""
    import jax

    return jax.device_put(tree, place)


def new_keys(seed: int, num_envs: int) -> Any:
    """A key for each battle, ``[B, 2]``, which does not depend on B."""
    import jax

    words = np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], dtype=np.uint32)
    key = jax.random.wrap_key_data(jax.numpy.asarray(words), impl=_GENERATOR)
    folded = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(num_envs, dtype=np.uint32))
    return jax.random.key_data(folded)


@lru_cache(maxsize=32)
def compiled(units: Units, walls_cause_death: bool) -> Battles:
    """The battles of these units, compiled once in a process for each number of them."""
    return Battles(units, walls_cause_death)


class Battles:
    """Step and reset of a batch of battles, each one compiled function.

    A carry is a pair of keys ``[B, 2]`` and SMAX's states. Its memory is reused: it is
    not valid after it was passed to a function, and no tensor shares it.
    """

    def __init__(self, units: Units, walls_cause_death: bool):
        smax = import_smax()
        import jax
        import jax.numpy as jnp

        types = jnp.array(units.allies + units.enemies, dtype=jnp.uint8)
        scenario = smax.Scenario(
            types, len(units.allies), len(units.enemies), units.drawn, units.drawn
        )
        self.game = smax.HeuristicEnemySMAX(
            scenario=scenario, max_steps=_NEVER, walls_cause_death=walls_cause_death
        )
        self.num_agents, self.num_enemies = len(units.allies), len(units.enemies)
        self.observation_size = self.game.obs_size
        self.state_size = self.game.state_size
        self.num_actions = self.game.num_ally_actions
        batched_step = jax.vmap(self._step_one, (0, 0, None))
        self._step = jax.jit(batched_step, donate_argnums=0)
        self._reset = jax.jit(self._reset_rows, donate_argnums=0)

    def step(
        self, carry: Any, action: torch.Tensor, limit: Any
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """All battles go on.

        Args:
            carry: the battles.
            action: numbers, int32 ``[B, N]``.
            limit: steps of an episode.

        Returns:
            The carry, and by name what is seen, flags and counts ``[B, 1]``, and the reward.
        """
        return self._exported(self._step(carry, self._imported(action), limit))

    def reset(self, carry: Any, rows: torch.Tensor) -> tuple[Any, dict[str, torch.Tensor]]:
        """Some battles begin anew.

        Args:
            carry: the battles.
            rows: their numbers, int32; B or more stands for none. Another length is another
                compilation.

        Returns:
            The carry, and what is seen of the new battles.
        """
        return self._exported(self._reset(carry, self._imported(rows)))

    def empty(self, num_envs: int, place: Any) -> Any:
        """A carry of zeros, in which nobody lives."""
        import jax
        import jax.numpy as jnp

        keys = new_keys(0, num_envs)
        _, state = jax.eval_shape(jax.vmap(self.game.reset), keys)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
        return placed((keys, zeros), place)

    @staticmethod
    def tensors(carry: Any) -> dict[str, torch.Tensor]:
        """Copies of a carry's arrays by SMAX's names, and ``keys`` as int32."""
        import jax

        keys, state = carry
        leaves = jax.tree_util.tree_flatten_with_path(state)[0]
        # The nested name says more than is needed: the last parts differ.
        named = {path[-1].name: torch.from_dlpack(leaf).clone() for path, leaf in leaves}
        return {"keys": torch.from_dlpack(keys).view(torch.int32).clone(), **named}

    @staticmethod
    def carry(like: Any, tensors: dict[str, torch.Tensor], place: Any) -> Any:
        """The inverse of :meth:`tensors`; ``like`` is a carry of the same battles."""
        import jax
        import jax.numpy as jnp

        structure = jax.tree.structure(like[1])
        paths = jax.tree_util.tree_flatten_with_path(like[1])[0]
        # Copies: JAX would reuse the memory of the tensors.
        leaves = [jnp.array(tensors[path[-1].name].numpy(force=True)) for path, _ in paths]
        keys = jnp.array(tensors["keys"].numpy(force=True).view(np.uint32))
        return placed((keys, jax.tree.unflatten(structure, leaves)), place)

    def _step_one(self, carry: Any, action: Any, limit: Any) -> tuple[Any, dict]:
        import jax.numpy as jnp

        names = self.game.agents
        key, used = self._split(carry[0])
        chosen = {name: action[agent] for agent, name in enumerate(names)}
        seen, state, reward, _, _ = self.game.step_env(used, carry[1], chosen)
        entries = self._seen(seen, state) | self._standing(state, limit)
        entries["reward"] = jnp.stack([reward[name] for name in names])[:, None]
        return self._strong((key, state)), entries

    def _reset_rows(self, carry: Any, rows: Any) -> tuple[Any, dict]:
        import jax

        used = carry[0].at[rows].get(mode="fill", fill_value=0)
        begun, seen = jax.vmap(self._begin_one)(used)
        carry = jax.tree.map(
            lambda old, new: old.at[rows].set(new.astype(old.dtype), mode="drop"), carry, begun
        )
        return carry, seen

    def _begin_one(self, key: Any) -> tuple[Any, dict]:
        key, used = self._split(key)
        observation, state = self.game.reset(used)
        return (key, state), self._seen(observation, state)

    @staticmethod
    def _split(key: Any) -> tuple[Any, Any]:
        """The key that is kept, ``[2]``, and the one to be used."""
        import jax

        kept, used = jax.random.split(jax.random.wrap_key_data(key, impl=_GENERATOR))
        return jax.random.key_data(kept), used

    @staticmethod
    def _strong(tree: Any) -> Any:
        """Types that do not depend on who made the arrays: else another compilation."""
        import jax

        return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), tree)

    def _seen(self, observation: dict, state: Any) -> dict:
        """Observations ``[N, O]``, mask ``[N, L]`` and state ``[S]``."""
        import jax.numpy as jnp

        names = self.game.agents
        available = self.game.get_avail_actions(state)
        return {
            "observation": jnp.stack([observation[name] for name in names]),
            "action_mask": jnp.stack([available[name] for name in names]) > 0,
            "state": self._scaled(observation["world_state"], state.state),
        }

    def _scaled(self, world_state: Any, units: Any) -> Any:
        """The state ``[S]``, its units as they observe themselves, in numbers up to 1.

        SMAX has places up to 32 there, and cooldowns in seconds, which count on below 0, where
        a weapon is ready: to 30 and more if a unit does not shoot.
        """
        import jax.numpy as jnp

        names = self.game.own_features
        size = (self.num_agents + self.num_enemies) * len(names)
        rows = world_state[:size].reshape(-1, len(names))
        place = [names.index("position_x"), names.index("position_y")]
        field = jnp.array([self.game.map_width, self.game.map_height])
        rows = rows.at[:, jnp.array(place)].divide(field)
        full = self.game.unit_type_weapon_cooldowns[units.unit_types]
        cooldown = jnp.clip(units.unit_weapon_cooldowns / full, 0, 1) * units.unit_alive
        rows = rows.at[:, names.index("weapon_cooldown")].set(cooldown)
        return jnp.concatenate([rows.reshape(-1), world_state[size:]])

    def _standing(self, state: Any, limit: Any) -> dict:
        """Flags and counts ``[1]``."""
        alive = state.state.unit_alive
        agents, enemies = alive[: self.num_agents], alive[self.num_agents :]
        ended = state.state.done
        limited = (state.state.step >= limit) & ~ended
        entries = {
            "done": ended | limited,
            "terminated": ended,
            "truncated": limited,
            "battle_won": agents.any() & ~enemies.any(),
            "dead_agents": (~agents).sum(),
            "dead_enemies": (~enemies).sum(),
        }
        return {name: value[None] for name, value in entries.items()}

    @staticmethod
    def _imported(tensor: torch.Tensor) -> Any:
        """The same memory, for JAX."""
        import jax

        return jax.dlpack.from_dlpack(tensor.contiguous())

    @staticmethod
    def _exported(result: tuple[Any, dict]) -> tuple[Any, dict[str, torch.Tensor]]:
        """The same memory, for torch."""
        carry, entries = result
        return carry, {name: torch.from_dlpack(array) for name, array in entries.items()}
