"""SMAX: battles in the layout of the package, against JaxMARL's own, stepped one by one."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from functools import lru_cache

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs.utils import check_env_specs

from torchrl_alita import ALITA
from torchrl_alita._extras import process_kept
from torchrl_alita.envs import _smax_battles, get_task, layout_of, make_env
from torchrl_alita.envs.smax import (
    LIMITS,
    MAPS,
    TYPES,
    SMAXEnv,
    draw_smax,
    smax_metrics,
    smax_task,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jaxmarl") is None,
    reason="JaxMARL is not installed: the extra smax",
)

ACTION = ("agents", "action")
MASK = ("agents", "action_mask")
OBSERVATION = ("agents", "observation")
REWARD = ("agents", "reward")
NORTH, EAST, SOUTH, WEST, STOP, ATTACK = range(6)

# N, E, O, L and S: 13 features of another unit and 10 of one's own; 12 of a unit in the state.
SIZES = {
    "2s3z": (5, 5, 9 * 13 + 10, 10, 10 * 12),
    "5m_vs_6m": (5, 6, 10 * 13 + 10, 11, 11 * 12),
    "3s_vs_5z": (3, 5, 7 * 13 + 10, 10, 8 * 12),
    "corridor": (6, 24, 29 * 13 + 10, 29, 30 * 12),
    "3s5z_vs_3s6z": (8, 9, 16 * 13 + 10, 14, 17 * 12),
}
# One shape of battles for almost all tests: to compile one takes seconds.
NUM_ENVS = 7


def battles(*, seed: int = 0, horizon: int = 100) -> SMAXEnv:
    """3 stalkers against 5 zealots."""
    return SMAXEnv("3s_vs_5z", num_envs=NUM_ENVS, seed=seed, horizon=horizon)


def one_hot(numbers: torch.Tensor) -> torch.Tensor:
    return torch.eye(10)[numbers]


def act(env: SMAXEnv, *numbers: int) -> TensorDict:
    """One step in which the agents of all battles take these actions; the rest stop."""
    chosen = [*numbers, *[STOP] * (3 - len(numbers))]
    action = one_hot(torch.tensor([chosen] * NUM_ENVS))
    return env.step(TensorDict({"agents": {"action": action}}, [NUM_ENVS]))["next"]


def random_actions(mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Numbers of allowed actions, ``[B, N, L] -> [B, N]``."""
    return (torch.rand(mask.shape, generator=generator) * mask).argmax(-1)


def put(env: SMAXEnv, **units: tuple[float, float, float]) -> None:
    """Set up all battles: health, x and y of units; the others are dead, all weapons ready.

    Agents are ``a0`` to ``a2``, enemies ``e0`` to ``e4``.
    """
    env.reset()
    state = env.state_dict()
    state["battles.unit_alive"].zero_()
    state["battles.unit_health"].zero_()
    for name, (health, *place) in units.items():
        unit = int(name[1]) + 3 * (name[0] == "e")
        state["battles.unit_alive"][:, unit] = True
        state["battles.unit_health"][:, unit] = health
        state["battles.unit_positions"][:, unit] = torch.tensor(place)
    # The masks of the places before do not hold.
    state["last.action_mask"].fill_(True)
    env.load_state_dict(state)


def flags(step: TensorDict) -> set[str]:
    names = ("done", "terminated", "truncated", "battle_won")
    assert all(len(set(step[name].flatten().tolist())) == 1 for name in names)
    return {name for name in names if bool(step[name].all())}


@pytest.mark.parametrize("map_name", MAPS)
def test_sizes_are_those_of_the_units(map_name):
    env = SMAXEnv(map_name, num_envs=2, seed=0)
    layout = layout_of(env)
    assert (layout.discrete, layout.masked) == (True, True)
    assert (env.num_agents, env.num_enemies) == SIZES[map_name][:2]
    state = env.observation_spec["state"].shape[-1]
    sizes = (layout.num_agents, env.num_enemies, layout.observation_size, layout.action_size)
    assert (*sizes, state) == SIZES[map_name]
    assert (len(MAPS[map_name][0]), len(MAPS[map_name][1])) == sizes[:2]


def test_the_papers_maps_are_those_of_jaxmarl_and_corridor_is_ours():
    _smax_battles.import_smax()
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO, SMAX

    assert SMAX().unit_type_names == list(TYPES)
    for name, (allies, enemies) in MAPS.items():
        if name == "corridor":
            assert name not in MAP_NAME_TO_SCENARIO
            assert (allies, enemies) == (("zealot",) * 6, ("zergling",) * 24)
            continue
        scenario = MAP_NAME_TO_SCENARIO[name]
        assert [TYPES[number] for number in scenario.unit_types] == [*allies, *enemies]
        assert scenario.num_allies == len(allies)
    # SMAC's episode limits.
    assert {name: (limit, *SIZES[name][:2]) for name, limit in LIMITS.items()} == {
        "2s3z": (120, 5, 5),
        "5m_vs_6m": (70, 5, 6),
        "3s_vs_5z": (250, 3, 5),
        "corridor": (400, 6, 24),
        "3s5z_vs_3s6z": (170, 8, 9),
    }


def test_specs_hold():
    env = battles()
    check_env_specs(env)
    assert env.batch_size == (NUM_ENVS,)


@lru_cache(maxsize=1)
def bare(horizon: int):
    """JaxMARL's own environment, with its own limit, which it compares before it counts."""
    smax = _smax_battles.import_smax()
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    scenario = MAP_NAME_TO_SCENARIO["3s_vs_5z"]
    return smax.HeuristicEnemySMAX(scenario=scenario, max_steps=horizon - 1)


class BareBattle:
    """One battle of JaxMARL, with a key that goes on as ours do."""

    def __init__(self, key, horizon: int):
        self.game, self.key = bare(horizon), key
        self.cooldowns = torch.tensor(self.game.unit_type_weapon_cooldowns.tolist())

    def _next_key(self):
        import jax

        self.key, used = jax.random.split(self.key)
        return used

    def reset(self) -> dict:
        observation, self.state = self.game.reset(self._next_key())
        return self._seen(observation)

    def step(self, numbers: list[int]) -> dict:
        chosen = dict(zip(self.game.agents, numbers, strict=True))
        result = self.game.step_env(self._next_key(), self.state, chosen)
        observation, self.state, reward, done, _ = result
        paid = [[float(reward[name])] for name in self.game.agents]
        seen = self._seen(observation)
        return {**seen, "reward": torch.tensor(paid), "done": bool(done["__all__"])}

    def take(self, env: SMAXEnv, number: int) -> None:
        """Go on from the numbers of ours, which are the same up to the last bit."""
        import jax

        keys, state = env._carry
        assert self.key.tolist() == keys[number].tolist()
        ours = jax.tree.map(lambda leaf: leaf[number], state)
        # To us the limit is no end.
        ours = ours.replace(state=ours.state.replace(done=self.state.state.done))
        for own, other in zip(jax.tree.leaves(self.state), jax.tree.leaves(ours), strict=True):
            pair = [torch.tensor(leaf.tolist()) for leaf in (own, other)]
            torch.testing.assert_close(*pair, rtol=0, atol=1e-4)
        self.state = ours

    def _seen(self, observation: dict) -> dict:
        available = self.game.get_avail_actions(self.state)
        names = self.game.agents
        return {
            "observation": torch.tensor([observation[name].tolist() for name in names]),
            "state": in_units(torch.tensor(observation["world_state"].tolist()), self.cooldowns),
            "mask": torch.tensor([available[name].tolist() for name in names]) > 0,
        }


def in_units(state: torch.Tensor, cooldowns: torch.Tensor) -> torch.Tensor:
    """SMAX's state of health, x, y, cooldown, 6 types; then 2 numbers for each unit.

    With places from 0 to 1, and cooldowns from ready to just shot.
    """
    state = state.clone()
    rows = state[: len(state) // 12 * 10].view(-1, 10)
    rows[:, 1:3] /= 32
    # The dead have no type.
    full = (rows[:, 4:] @ cooldowns).clamp(min=0.1)
    rows[:, 3] = (rows[:, 3] / full).clamp(0, 1)
    return state


def assert_seen(step: TensorDict, env: int, expected: dict) -> None:
    # Compiled for one battle or for several, the last bits differ.
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(step[OBSERVATION][env], expected["observation"], **close)
    torch.testing.assert_close(step["state"][env], expected["state"], **close)
    assert torch.equal(step[MASK][env], expected["mask"])


def test_battles_are_those_of_jaxmarl_over_partial_resets():
    """The same keys and actions, each battle for itself: all that is seen and paid agrees."""
    horizon, seed, generator = 31, 2**35 + 11, torch.Generator().manual_seed(0)
    env = battles(seed=seed, horizon=horizon)
    others = [BareBattle(key, horizon) for key in _smax_battles.new_keys(seed, NUM_ENVS)]
    now = env.reset()
    for number, other in enumerate(others):
        assert_seen(now, number, other.reset())
    paid, resets = 0.0, torch.zeros(NUM_ENVS, 1)
    for time in range(43):
        chosen = random_actions(now[MASK], generator)
        now[ACTION] = one_hot(chosen)
        after = env.step(now)["next"]
        for number, other in enumerate(others):
            expected = other.step(chosen[number].tolist())
            assert_seen(after, number, expected)
            torch.testing.assert_close(after[REWARD][number], expected["reward"])
            assert bool(after["done"][number]) == expected["done"]
            other.take(env, number)
        paid += float(after[REWARD].sum())
        over = after["done"].clone()
        # Or all battles would end at the same limit.
        over[2] |= time == 5
        resets += over
        now = after.exclude(REWARD)
        if over.any():
            now = env.reset(now.set("_reset", over))
        for number, other in enumerate(others):
            if over[number]:
                assert_seen(now, number, other.reset())
            else:
                for key in (OBSERVATION, MASK, "state", "dead_agents", "dead_enemies"):
                    assert torch.equal(now[key][number], after[key][number])
    assert resets.min() >= 1
    assert paid > 0


@pytest.mark.parametrize(
    ("direction", "x", "y"),
    [(NORTH, 16.0, 18.065), (EAST, 18.065, 16.0), (SOUTH, 16.0, 13.935), (WEST, 13.935, 16.0)],
)
def test_a_stalker_moves_4_13_in_a_second(direction, x, y):
    env = battles()
    put(env, a1=(160, 16, 16), e0=(150, 2, 2))
    state = act(env, STOP, direction)["state"]
    torch.testing.assert_close(state[:, 11:13] * 32, torch.tensor([[x, y]] * NUM_ENVS))


def test_a_shot_takes_13_of_the_150_points_of_one_of_5_enemies():
    """The weapon is ready again after more than a step; the zealot walks 3.15 in a second."""
    env = battles()
    put(env, a0=(160, 16, 16), a2=(160, 2, 30), e1=(150, 19, 16))
    step = act(env, ATTACK + 1)
    torch.testing.assert_close(step[REWARD], torch.full((NUM_ENVS, 3, 1), 13 / 150 / 5))
    # Of agent 0, two others of the team come first.
    of_enemy = step[OBSERVATION][:, 0, 3 * 13 : 4 * 13]
    torch.testing.assert_close(of_enemy[:, 0], torch.full((NUM_ENVS,), 137 / 150))
    # In units of the sight, which is 10: 3 before, less 1.575.
    torch.testing.assert_close(of_enemy[:, 1], torch.full((NUM_ENVS,), 0.1425))
    # The dead and who is too far away see nothing of it, and are paid.
    assert not step[OBSERVATION][:, 1].any()
    assert not step[OBSERVATION][:, 2, 3 * 13 : 4 * 13].any()
    assert flags(step) == set()
    row = step["state"][:, 4 * 10 : 5 * 10]
    torch.testing.assert_close(row[:, :2], torch.tensor([[137 / 150, 17.425 / 32]] * NUM_ENVS))


def test_a_weapon_that_is_long_ready_is_as_one_that_is_ready():
    """In the state as in what an agent observes of itself; SMAX counts on below 0."""
    env = battles()
    put(env, a0=(160, 16, 16), a2=(160, 2, 30), e1=(150, 19, 16))
    shot = act(env, ATTACK + 1)
    # A stalker's takes 1.87 s, of which half a second is over.
    cooldown = shot["state"][:, : 8 * 10].view(NUM_ENVS, 8, 10)[..., 3]
    assert (cooldown[:, 0] > 0.3).all()
    assert (cooldown[:, 1:] == 0).all()
    torch.testing.assert_close(cooldown[:, 0], shot[OBSERVATION][:, 0, -10 + 3])
    for _ in range(20):
        state = act(env, STOP, STOP, STOP)["state"]
        assert (state[:, : 8 * 10] >= 0).all()
        assert (state[:, : 8 * 10] <= 1).all()


def test_the_dead_can_only_stop():
    env = battles()
    put(env, a0=(160, 16, 16), a2=(160, 2, 30), e1=(150, 19, 16))
    mask = act(env)[MASK]
    assert mask[:, 0].nonzero()[:, 1].unique().tolist() == [0, 1, 2, 3, STOP, ATTACK + 1]
    assert mask[:, 1].nonzero()[:, 1].unique().tolist() == [STOP]
    assert mask[:, 2].nonzero()[:, 1].unique().tolist() == [0, 1, 2, 3, STOP]


@pytest.mark.parametrize("horizon", [1, 100])
def test_a_victory_terminates_also_at_the_limit(horizon):
    env = battles(horizon=horizon)
    put(env, a0=(160, 16, 16), a1=(160, 2, 30), e4=(1, 19, 16))
    step = act(env, ATTACK + 4)
    assert flags(step) == {"done", "terminated", "battle_won"}
    torch.testing.assert_close(step[REWARD], torch.full((NUM_ENVS, 3, 1), 1 + 1 / 150 / 5))
    assert (int(step["dead_agents"][0]), int(step["dead_enemies"][0])) == (1, 5)
    metrics = smax_metrics(TensorDict({"next": step}, [NUM_ENVS]).unsqueeze(1))
    assert {name: float(value) for name, value in metrics.items()} == {
        "win_rate": 1.0,
        "dead_agents": 1.0,
    }
    reset = env.reset()
    assert flags(reset) == set()
    assert not reset["dead_enemies"].any()


@pytest.mark.parametrize("horizon", [1, 100])
def test_a_defeat_terminates_also_at_the_limit(horizon):
    """A zealot's hit takes 8."""
    env = battles(horizon=horizon)
    put(env, a0=(8, 16, 16), e0=(150, 17.5, 16))
    step = act(env)
    assert flags(step) == {"done", "terminated"}
    assert (step["dead_agents"] == 3).all()
    assert not step[REWARD].any()
    metrics = smax_metrics(TensorDict({"next": step}, [NUM_ENVS]).unsqueeze(1))
    assert (float(metrics["win_rate"]), float(metrics["dead_agents"])) == (0.0, 3.0)


def test_a_battle_that_nobody_survives_is_not_won():
    env = battles()
    put(env, a0=(8, 16, 16), e0=(13, 17.5, 16))
    step = act(env, ATTACK)
    assert flags(step) == {"done", "terminated"}
    torch.testing.assert_close(step[REWARD], torch.full((NUM_ENVS, 3, 1), 13 / 150 / 5))


def test_the_edge_of_the_field_is_deadly():
    env = battles()
    put(env, a0=(160, 16, 31), e0=(150, 2, 2))
    assert flags(act(env, NORTH)) == {"done", "terminated"}
    kept = SMAXEnv("3s_vs_5z", walls_cause_death=False)
    assert kept._battles.game.walls_cause_death is False
    assert env._battles.game.walls_cause_death is True


@pytest.mark.parametrize("horizon", [2, 7])
def test_the_limit_truncates_and_does_not_terminate(horizon):
    env = battles(horizon=horizon)
    env.reset()
    steps = [flags(act(env)) for _ in range(horizon)]
    assert steps == [set()] * (horizon - 1) + [{"done", "truncated"}]


def test_random_actions_are_allowed_across_ends_of_episodes():
    """Agents die and battles end at different times; a masked action would be an error."""
    torch.manual_seed(0)
    env = battles(horizon=41)
    episodes = env.rollout(83, break_when_any_done=False)
    taken = episodes[MASK].gather(-1, episodes[ACTION].argmax(-1, keepdim=True))
    assert taken.all()
    assert episodes["next", "dead_agents"].any()
    ends = [row.nonzero().flatten().tolist() for row in episodes["next", "done"].squeeze(-1)]
    assert all(ends)
    assert any(end != ends[0] for end in ends), "no reset was of a part of the batch"


def test_battles_differ_and_follow_the_seed():
    first, second, other = (battles(seed=seed).reset()["state"] for seed in (5, 5, 6))
    assert torch.equal(first, second)
    assert len({tuple(row.tolist()) for row in torch.cat([first, other])}) == 2 * NUM_ENVS
    again = battles(seed=6)
    again.set_seed(5)
    assert torch.equal(again.reset()["state"], first)


def test_a_battles_key_does_not_depend_on_the_batch():
    few, many = (_smax_battles.new_keys(3, count).tolist() for count in (2, 5))
    assert many[:2] == few


def test_a_seed_that_is_not_given_is_drawn_from_torchs_generator():
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        env = SMAXEnv("3s_vs_5z", num_envs=NUM_ENVS)
        states.append(env.reset()["state"])
    assert torch.equal(*states)


def play(env: SMAXEnv, now: TensorDict, steps: int) -> list[TensorDict]:
    """Random play with automatic resets."""
    generator, played = torch.Generator().manual_seed(1), []
    for _ in range(steps):
        now = now.clone()
        now[ACTION] = one_hot(random_actions(now[MASK], generator))
        step, now = env.step_and_maybe_reset(now)
        played.append(step)
    return played


def test_a_saved_state_goes_on_exactly():
    env = battles(seed=3, horizon=23)
    before = play(env, env.reset(), 19)[-1]["next"].exclude(REWARD)
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    other = battles(seed=4, horizon=23)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert not before["done"].all()
    now = before.select(MASK)
    first, second = play(env, now, 31), play(other, now, 31)
    assert any(step["next", "done"].any() for step in first)
    for one, two in zip(first, second, strict=True):
        assert (one["next"] == two["next"]).all()


def test_a_part_of_the_loaded_battles_can_be_reset():
    env, other = battles(seed=3), battles(seed=4)
    last = play(env, env.reset(), 13)[-1]["next"]
    other.load_state_dict(env.state_dict())
    part = torch.tensor([[True], [False]] * 4)[:NUM_ENVS]
    # What TorchRL does not take from the entries before.
    results = [each._reset(TensorDict({"_reset": part}, [NUM_ENVS])) for each in (env, other)]
    assert (results[0] == results[1]).all()
    for key in (OBSERVATION, MASK, "state", "dead_agents"):
        assert torch.equal(results[1][key][1::2], last[key][1::2])


def test_a_state_that_does_not_fit_changes_nothing():
    env = battles(seed=3)
    env.reset()
    own = env.state_dict()
    missing = {name: value for name, value in own.items() if name != "battles.step"}
    with pytest.raises(RuntimeError, match=r"Missing.*battles\.step"):
        env.load_state_dict(missing)
    with pytest.raises(RuntimeError, match=r"Unexpected.*battles\.more"):
        env.load_state_dict({**own, "battles.more": torch.zeros(1)})
    changed = battles(seed=4)
    changed.reset()
    wrong = {**changed.state_dict(), "last.state": torch.zeros(NUM_ENVS, 5)}
    with pytest.raises(ValueError, match=r"last\.state must be .* got .* \(7, 5\)"):
        env.load_state_dict(wrong)
    assert all(torch.equal(own[name], value) for name, value in env.state_dict().items())


def test_what_a_step_returned_is_the_callers():
    """No later step writes into it, and no battle reads from it."""
    env, other = battles(seed=3), battles(seed=3)
    env.reset().apply_(lambda tensor: tensor.zero_())
    other.reset()
    kept = act(env)
    copy = kept.clone()
    act(other)
    for _ in range(3):
        expected = act(other)
        spoiled = act(env)
        assert (spoiled == expected).all()
        assert (kept == copy).all()
        spoiled.apply_(lambda tensor: tensor.zero_())
    pointers = [value.data_ptr() for value in kept.values(True, True)]
    assert len(set(pointers)) == len(pointers)


def test_tensors_and_arrays_share_their_memory():
    _smax_battles.import_smax()
    import jax.numpy as jnp

    array = jnp.arange(12.0).reshape(3, 4)
    _, tensors = _smax_battles.Battles._exported((None, {"a": array}))
    assert tensors["a"].data_ptr() == array.unsafe_buffer_pointer()
    tensor = torch.zeros(1024, 5, dtype=torch.int32)
    array = _smax_battles.Battles._imported(tensor)
    assert array.unsafe_buffer_pointer() == tensor.data_ptr()


def test_a_wrong_action_is_an_error_and_changes_nothing():
    env = battles(seed=3)
    with pytest.raises(RuntimeError, match="must be reset before a step"):
        act(env)
    env.reset()
    before = env.state_dict()
    with pytest.raises(
        ValueError, match="agent 1 in environment 0 must be allowed by the mask, got 9"
    ):
        act(env, STOP, ATTACK + 4)
    for wrong in (torch.zeros(NUM_ENVS, 3, 10), torch.ones(NUM_ENVS, 3, 10) / 10):
        with pytest.raises(ValueError, match="agent 0 in environment 0 must be one-hot"):
            env.step(TensorDict({"agents": {"action": wrong}}, [NUM_ENVS]))
    with pytest.raises(ValueError, match=r"must have the shape \(7, 3, 10\), got \(7, 3, 11\)"):
        env.step(TensorDict({"agents": {"action": torch.zeros(NUM_ENVS, 3, 11)}}, [NUM_ENVS]))
    assert all(torch.equal(before[name], value) for name, value in env.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map_name": "4s3z"}, r"map_name must be one of \[.*'2s3z'.*'corridor'.*\], got '4s3z'"),
        ({}, "Either map_name must be given, or both allies and enemies"),
        ({"allies": ["marine"]}, "Either map_name"),
        ({"map_name": "2s3z", "allies": ["marine"], "enemies": ["marine"]}, "Either map_name"),
        ({"allies": ["medivac"], "enemies": ["marine"]}, r"allies must be one of .* got 'medivac'"),
        ({"allies": ["marine"], "enemies": []}, r"enemies must be a list .* got \[\]"),
        ({"map_name": "2s3z", "num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"map_name": "2s3z", "horizon": 0}, "horizon must be at least 1, got 0"),
        ({"map_name": "2s3z", "seed": -1}, "seed must be a whole number from 0 .* got -1"),
    ],
)
def test_bad_arguments_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        SMAXEnv(**options)


def test_units_can_be_listed():
    env = SMAXEnv(allies=["marine", "marauder"], enemies=["hydralisk"] * 3)
    assert (env.num_agents, env.num_enemies, env.num_actions) == (2, 3, 8)
    assert env._battles.game.scenario.tolist() == [0, 1, 5, 5, 5]
    other = SMAXEnv("6h_vs_8z")
    assert other._battles.game.scenario.tolist() == [5] * 6 + [3] * 8
    drawn = SMAXEnv("smacv2_5_units")._battles.game
    assert drawn.smacv2_position_generation
    assert drawn.smacv2_unit_type_generation


def test_a_device_that_jax_does_not_have_is_an_error():
    with pytest.raises(ValueError, match=r"JAX cannot use the device 'cuda:3'.*jax\[cuda12\]"):
        _smax_battles.place_of(torch.device("cuda:3"))


def test_battles_stay_on_their_device():
    env = battles()
    assert env.to("cpu") is env
    with pytest.raises(ValueError, match="make a new environment"):
        env.to("meta")


def test_a_missing_package_is_an_error_that_names_the_extra(monkeypatch):
    class Blocked:
        @staticmethod
        def find_spec(name: str, *_) -> None:
            if name == "jaxmarl":
                raise ModuleNotFoundError(name=name)

    for name in [name for name in sys.modules if name.startswith("jaxmarl")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Blocked, *sys.meta_path])
    with pytest.raises(ImportError, match=r"torchrl_alita\[smax\]"):
        SMAXEnv("3m")


def test_an_import_leaves_the_standard_streams_alone(capsys):
    streams = sys.stdout, sys.stderr
    with process_kept():
        print("no")
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        print("no")
    assert (sys.stdout, sys.stderr) == streams
    assert capsys.readouterr().out == ""


def test_tasks_are_registered_without_jax():
    for name in MAPS:
        assert get_task(f"smax/{name}").metrics is smax_metrics
    code = (
        "import sys; from torchrl_alita.envs import get_task; get_task('smax/2s3z'); "
        "sys.exit(bool({'jax', 'jaxmarl'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_task_makes_the_battles_of_its_map():
    env = make_env("smax/3s_vs_5z", num_envs=NUM_ENVS, n_agents=3, seed=5, horizon=11)
    assert (env.map_name, env.horizon) == ("3s_vs_5z", 11)
    assert torch.equal(env.reset()["state"], battles(seed=5).reset()["state"])
    with pytest.raises(ValueError, match="'corridor' is of 6 agents, got n_agents=3"):
        make_env("smax/corridor", n_agents=3)
    task = smax_task(allies=["marine"], enemies=["marine"])
    with pytest.raises(ValueError, match="battle is of 1 agents, got n_agents=3"):
        make_env(task, n_agents=3)


def test_metrics_count_to_the_end_and_not_beyond():
    entries = {
        # Won; lost, then another one won; at the limit.
        "battle_won": [[0, 1, 0], [0, 0, 1], [0, 0, 0]],
        "dead_agents": [[0, 1, 3], [1, 3, 0], [0, 0, 2]],
        "done": [[0, 1, 0], [0, 1, 1], [0, 0, 1]],
    }
    entries = {name: torch.tensor(rows).unsqueeze(-1) for name, rows in entries.items()}
    for name in ("battle_won", "done"):
        entries[name] = entries[name].bool()
    metrics = smax_metrics(TensorDict({"next": entries}, [3, 3]))
    assert float(metrics["win_rate"]) == pytest.approx(1 / 3)
    assert float(metrics["dead_agents"]) == (1 + 3 + 2) / 3
    with pytest.raises(KeyError, match="battle_won"):
        smax_metrics(TensorDict({"next": {"done": torch.zeros(2, 3, 1)}}, [2, 3]))


def test_units_are_drawn_where_they_are_and_the_dead_are_not():
    env = battles()
    put(env, a0=(160, 16, 16), a1=(80, 24, 8), e0=(150, 4, 4))
    now = act(env, STOP, STOP).exclude(REWARD)
    now[ACTION] = one_hot(torch.full((NUM_ENVS, 3), STOP))
    episode = env.step(now)[:1]
    frames = draw_smax(episode, size=320)
    assert len(frames) == 2
    # A pixel is a tenth of a unit of length; north is up.
    blue, red, green = (0x44, 0x77, 0xAA), (0xEE, 0x66, 0x77), (0x22, 0x88, 0x33)
    x, y = 240, 240
    assert frames[0].getpixel((160, 160)) == blue
    assert frames[0].getpixel((x, y)) == blue
    # Half of the health: half of the 12 pixels from the first to the last, the first included.
    row = [frames[0].getpixel((i, y - 8)) == green for i in range(x - 6, x + 7)]
    assert row == [True] * 7 + [False] * 6
    colors = dict(reversed(pair) for pair in frames[0].crop((1, 1, 319, 319)).getcolors())
    assert colors[blue] == 2 * colors[red]
    file = io.BytesIO()
    frames[0].save(file, format="gif", save_all=True, append_images=frames[1:])
    assert file.getvalue().startswith(b"GIF8")
    for part in (episode, episode["next"]):
        part["state"] = part["state"][:, :-1]
    with pytest.raises(ValueError, match="8 units must have 96 features, got 95"):
        draw_smax(episode)


def test_torchrls_collector_plays_and_alita_learns():
    torch.manual_seed(0)
    env = battles(horizon=17)
    algorithm = ALITA(env, ALITA.Settings(num_cells=(13,)))
    collector = Collector(
        env,
        algorithm.actor,
        frames_per_batch=NUM_ENVS * 19,
        total_frames=NUM_ENVS * 38,
        init_random_frames=NUM_ENVS * 19,
        auto_register_policy_transforms=False,
    )
    for batch in (batch.clone() for batch in collector):
        assert batch.shape == (NUM_ENVS, 19)
        assert batch["next", "truncated"].any()
        assert batch[MASK].gather(-1, batch[ACTION].argmax(-1, keepdim=True)).all()
    collector.shutdown()
    logs = algorithm.update(dict.fromkeys(algorithm.replays(), batch.reshape(-1)))
    assert all(bool(value.isfinite().all()) for value in logs.values())
