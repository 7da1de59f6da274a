"""A fake of SMAC's StarCraft2Env: its methods, shapes, masks and results, rules of our own.

The battle is simple and deterministic: units move straight, hit at every step, and the
enemies go for the nearest agent. Sizes, layouts, limits and rewards are SMAC's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

EDGE, SIGHT, ATTACK_RANGE, MOVE = 32.0, 9.0, 6.0, 2.0
FIRST_ATTACK = 6
DIRECTIONS = {2: (0, 1), 3: (0, -1), 4: (1, 0), 5: (-1, 0)}


class Kind(NamedTuple):
    health: float
    shield: float
    reach: float
    damage: float


KINDS = {
    "marine": Kind(45, 0, 6, 6),
    "stalker": Kind(80, 80, 6, 9),
    "zealot": Kind(100, 50, 2, 8),
    "zergling": Kind(35, 0, 2, 5),
}
# Agents, enemies, limit and bits of the type.
MAPS = {
    "2s3z": (["stalker"] * 2 + ["zealot"] * 3, ["zealot"] * 3 + ["stalker"] * 2, 120, 2),
    "5m_vs_6m": (["marine"] * 5, ["marine"] * 6, 70, 0),
    "3s_vs_5z": (["stalker"] * 3, ["zealot"] * 5, 250, 0),
    "corridor": (["zealot"] * 6, ["zergling"] * 24, 400, 0),
    "3s5z_vs_3s6z": (["stalker"] * 3 + ["zealot"] * 5, ["zealot"] * 6 + ["stalker"] * 3, 170, 2),
}


class Unit:
    def __init__(self, kind: str, x: float, y: float):
        self.name, self.kind = kind, KINDS[kind]
        self.health, self.shield = self.kind.health, self.kind.shield
        self.place = np.array([x, y])
        self.cooling = 0.0

    @property
    def alive(self) -> bool:
        return self.health > 0

    def hurt(self, damage: float) -> float:
        """Damage that was done, to the shield first."""
        absorbed = min(self.shield, damage)
        lost = min(self.health, damage - absorbed)
        self.shield -= absorbed
        self.health -= lost
        return absorbed + lost

    def act_on(self, target: Unit) -> float:
        """Hit a unit within reach, else walk to it; the damage done."""
        gap = target.place - self.place
        distance = float(np.hypot(*gap))
        if distance <= self.kind.reach:
            self.cooling = 1.0
            return target.hurt(self.kind.damage)
        self.place = self.place + gap / distance * min(MOVE / 2, distance)
        return 0.0


class FakeStarCraft2Env:
    """The methods of SMAC's class that a TorchRL environment needs, with its signature."""

    def __init__(
        self,
        map_name="8m",
        step_mul=8,
        move_amount=2,
        difficulty="7",
        game_version=None,
        seed=None,
        continuing_episode=False,
        obs_all_health=True,
        obs_own_health=True,
        obs_last_action=False,
        obs_pathing_grid=False,
        obs_terrain_height=False,
        obs_instead_of_state=False,
        obs_timestep_number=False,
        state_last_action=True,
        state_timestep_number=False,
        reward_sparse=False,
        reward_only_positive=True,
        reward_death_value=10,
        reward_win=200,
        reward_defeat=0,
        reward_negative_scale=0.5,
        reward_scale=True,
        reward_scale_rate=20,
        replay_dir="",
        replay_prefix="",
        window_size_x=1920,
        window_size_y=1200,
        heuristic_ai=False,
        heuristic_rest=False,
        debug=False,
    ):
        self.ally_kinds, self.enemy_kinds, self.episode_limit, self.bits = MAPS[map_name]
        self.n_agents, self.n_enemies = len(self.ally_kinds), len(self.enemy_kinds)
        self.n_actions = FIRST_ATTACK + self.n_enemies
        self.difficulty, self.game_version = difficulty, game_version
        self.obs_last_action, self.reward_sparse = obs_last_action, reward_sparse
        self.rng = np.random.default_rng(seed)
        total = sum(KINDS[kind].health + KINDS[kind].shield for kind in self.enemy_kinds)
        self.max_reward = 10 * self.n_enemies + 200 + total
        self.allies, self.enemies = None, None
        self.resets = self.steps = self.all_steps = self.closes = 0
        self.fault = None

    def _dies(self, where, count):
        return self.fault is not None and self.fault[:2] == (where, count)

    def reset(self):
        self.resets += 1
        if self._dies("reset", self.resets):
            raise ConnectionError("the websocket is closed")
        self.steps = 0
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        shift = self.rng.uniform(-1, 1)
        self.allies = self._line(self.ally_kinds, 9.0, shift)
        self.enemies = self._line(self.enemy_kinds, 23.0, -shift)
        return self.get_obs(), self.get_state()

    def _line(self, kinds, x, shift):
        middle = (len(kinds) - 1) / 2
        return [Unit(kind, x, 16 + shift + (i - middle)) for i, kind in enumerate(kinds)]

    def step(self, actions):
        self.all_steps += 1
        if self._dies("step", self.all_steps):
            if self.fault[2] == "silent":
                return 0, True, {}
            raise ConnectionError("the websocket is closed")
        for agent, action in enumerate(actions):
            assert self.get_avail_agent_actions(agent)[int(action)] == 1, (
                f"Agent {agent} cannot perform action {action}"
            )
        self.last_action = np.eye(self.n_actions)[np.array([int(a) for a in actions])]
        self.steps += 1
        living = sum(unit.alive for unit in self.enemies)
        delta = sum(self._act(unit, int(a)) for unit, a in zip(self.allies, actions, strict=True))
        delta += 10 * (living - sum(unit.alive for unit in self.enemies))
        self._enemies_act()
        return self._result(delta)

    def _act(self, unit, action):
        unit.cooling = 0.0
        if not unit.alive or action < 2:
            return 0.0
        if action in DIRECTIONS:
            unit.place = unit.place + np.array(DIRECTIONS[action]) * MOVE
            return 0.0
        target = self.enemies[action - FIRST_ATTACK]
        return unit.act_on(target) if target.alive else 0.0

    def _enemies_act(self):
        for unit in self.enemies:
            living = [ally for ally in self.allies if ally.alive]
            if unit.alive and living:
                unit.act_on(min(living, key=lambda ally: self._gap(unit, ally)))

    def _result(self, delta):
        dead_allies = sum(not unit.alive for unit in self.allies)
        dead_enemies = sum(not unit.alive for unit in self.enemies)
        won = dead_enemies == self.n_enemies and dead_allies < self.n_agents
        decided = dead_enemies == self.n_enemies or dead_allies == self.n_agents
        info = {"battle_won": won, "dead_allies": dead_allies, "dead_enemies": dead_enemies}
        reward = (delta + 200 * won) / (self.max_reward / 20)
        if self.reward_sparse:
            reward = float(won) - float(decided and not won)
        return reward, decided or self.steps >= self.episode_limit, info

    @staticmethod
    def _gap(one, other):
        return float(np.hypot(*(one.place - other.place)))

    def get_avail_agent_actions(self, agent_id):
        unit = self.allies[agent_id]
        if not unit.alive:
            return [1] + [0] * (self.n_actions - 1)
        available = [0, 1] + [0] * (self.n_actions - 2)
        for action, direction in DIRECTIONS.items():
            ahead = unit.place + np.array(direction) * MOVE / 2
            available[action] = int(((ahead >= 0) & (ahead < EDGE)).all())
        for number, enemy in enumerate(self.enemies):
            near = enemy.alive and self._gap(unit, enemy) <= ATTACK_RANGE
            available[FIRST_ATTACK + number] = int(near)
        return available

    def get_avail_actions(self):
        return [self.get_avail_agent_actions(agent) for agent in range(self.n_agents)]

    def _tail(self, unit, kinds):
        """Shield, if its side has any, and type."""
        shields = any(KINDS[kind].shield for kind in kinds)
        shield = [unit.shield / unit.kind.shield] if shields else []
        names = list(dict.fromkeys(kinds))
        return shield + [float(name == unit.name) for name in names][: self.bits]

    def _seen(self, viewer, unit, kinds, first):
        if not unit.alive or self._gap(viewer, unit) >= SIGHT:
            return [0.0] * (5 + len(self._tail(unit, kinds)))
        gap = unit.place - viewer.place
        where = [self._gap(viewer, unit) / SIGHT, *(gap / SIGHT)]
        return [first, *where, unit.health / unit.kind.health, *self._tail(unit, kinds)]

    def get_obs_agent(self, agent_id):
        unit = self.allies[agent_id]
        if not unit.alive:
            return np.zeros(self.get_obs_size(), dtype=np.float32)
        available = self.get_avail_agent_actions(agent_id)
        features = [float(flag) for flag in available[2:6]]
        for number, enemy in enumerate(self.enemies):
            features += self._seen(
                unit, enemy, self.enemy_kinds, float(available[FIRST_ATTACK + number])
            )
        for number, ally in enumerate(self.allies):
            if number != agent_id:
                features += self._seen(unit, ally, self.ally_kinds, 1.0)
                if self.obs_last_action:
                    features += list(self.last_action[number])
        features += [unit.health / unit.kind.health, *self._tail(unit, self.ally_kinds)]
        return np.array(features, dtype=np.float32)

    def get_obs(self):
        return [self.get_obs_agent(agent) for agent in range(self.n_agents)]

    def _width(self, kinds):
        return int(any(KINDS[kind].shield for kind in kinds)) + self.bits

    def get_obs_size(self):
        ally, enemy = self._width(self.ally_kinds), self._width(self.enemy_kinds)
        others = self.n_agents - 1
        last = others * self.n_actions if self.obs_last_action else 0
        return 4 + self.n_enemies * (5 + enemy) + others * (5 + ally) + 1 + ally + last

    def get_state_size(self):
        ally, enemy = self._width(self.ally_kinds), self._width(self.enemy_kinds)
        units = self.n_agents * (4 + ally) + self.n_enemies * (3 + enemy)
        return units + self.n_agents * self.n_actions

    def get_state(self):
        rows = []
        for unit in self.allies:
            where = (unit.place - EDGE / 2) / EDGE
            row = [unit.health / unit.kind.health, unit.cooling, *where]
            row += self._tail(unit, self.ally_kinds)
            rows += row if unit.alive else [0.0] * len(row)
        for unit in self.enemies:
            where = (unit.place - EDGE / 2) / EDGE
            row = [unit.health / unit.kind.health, *where, *self._tail(unit, self.enemy_kinds)]
            rows += row if unit.alive else [0.0] * len(row)
        return np.array([*rows, *self.last_action.flatten()], dtype=np.float32)

    def get_total_actions(self):
        return self.n_actions

    def get_env_info(self):
        return {
            "state_shape": self.get_state_size(),
            "obs_shape": self.get_obs_size(),
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def close(self):
        self.closes += 1


class Launcher:
    """Builds fakes, keeps them and gives the n-th its fault.

    A fault is ``("reset", n)`` or ``("step", n, "raise" | "silent")``: the game dies in
    its n-th reset or step.
    """

    def __init__(self, *faults):
        self.faults, self.games, self.options = faults, [], []

    def __call__(self, **options):
        game = FakeStarCraft2Env(**options)
        number = len(self.games)
        game.fault = self.faults[number] if number < len(self.faults) else None
        self.games.append(game)
        self.options.append(options)
        return game
