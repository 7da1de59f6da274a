"""SMAC: the layout, the ends of episodes and the deaths of the game, on a fake of it."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from fake_smac import Launcher
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs.utils import check_env_specs

from torchrl_alita import ALITA
from torchrl_alita.envs import get_task, layout_of, make_env
from torchrl_alita.envs.smac import (
    MAPS,
    SMACEnv,
    SMACSettings,
    draw_smac,
    find_installation,
    main,
    smac_metrics,
    smac_task,
)

ACTION = ("agents", "action")
MASK = ("agents", "action_mask")
NOOP, STOP, NORTH, EAST, ATTACK = 0, 1, 2, 4, 6

# N, O, L, S and the limit, of SMAC's code.
SIZES = {
    "2s3z": (5, 80, 11, 120, 120),
    "5m_vs_6m": (5, 55, 12, 98, 70),
    "3s_vs_5z": (3, 48, 11, 68, 250),
    "corridor": (6, 156, 30, 282, 400),
    "3s5z_vs_3s6z": (8, 136, 15, 230, 170),
}


def battle(*faults, map_name: str = "5m_vs_6m", **options) -> tuple[SMACEnv, Launcher]:
    launcher = Launcher(*faults)
    return SMACEnv(map_name, game=launcher, **{"seed": 0, **options}), launcher


def act(env: SMACEnv, *numbers: int) -> TensorDict:
    """One step with these actions, of the first agents; the others stop, or stay dead."""
    allowed = env._game.get_avail_actions()
    chosen = [NOOP if row[NOOP] else STOP for row in allowed]
    chosen[: len(numbers)] = numbers
    one_hot = torch.eye(env.num_actions)[chosen]
    return env.step(TensorDict({"agents": {"action": one_hot}}))["next"]


def died():
    return pytest.warns(RuntimeWarning, match="StarCraft died")


def flags(step: TensorDict) -> set[str]:
    names = ("done", "terminated", "truncated", "battle_won", "dropped")
    return {name for name in names if bool(step[name])}


def keep_enemies_away(env: SMACEnv) -> None:
    """Out of the reach of all, and at rest."""
    env._game._enemies_act = lambda: None


@pytest.mark.parametrize("map_name", MAPS)
def test_sizes_are_those_of_the_papers_maps(map_name):
    env, launcher = battle(map_name=map_name)
    layout = layout_of(env)
    assert (layout.discrete, layout.masked) == (True, True)
    sizes = (layout.num_agents, layout.observation_size, layout.action_size)
    state = env.observation_spec["state"].shape[0]
    assert (*sizes, state, env.episode_limit) == SIZES[map_name]
    assert launcher.games[0].resets == 0, "the game is launched before the first reset"
    check_env_specs(env)


def test_an_agents_entries_are_what_the_game_says_of_it():
    env, _ = battle(map_name="2s3z")
    step = env.reset()
    game = env._game
    for agent in range(5):
        seen = torch.as_tensor(game.get_obs_agent(agent))
        torch.testing.assert_close(step["agents", "observation"][agent], seen)
        assert step[MASK][agent].int().tolist() == game.get_avail_agent_actions(agent)
    torch.testing.assert_close(step["state"], torch.as_tensor(game.get_state()))


def test_the_teams_reward_goes_to_each_agent():
    """A marine's hit is 6 of the 530 that an episode can pay 20 for."""
    env, _ = battle()
    env.reset()
    keep_enemies_away(env)
    env._game.allies[0].place = env._game.enemies[2].place.copy()
    env._seen = env._look()
    step = act(env, ATTACK + 2)
    torch.testing.assert_close(step["agents", "reward"], torch.full((5, 1), 6 / 26.5))
    assert not step["done"]


def last_enemy(env: SMACEnv) -> None:
    """One enemy is left, with one health point, beside agent 0."""
    env.reset()
    for enemy in env._game.enemies[1:]:
        enemy.health = 0.0
    env._game.enemies[0].health = 1.0
    env._game.enemies[0].place = env._game.allies[0].place.copy()
    env._seen = env._look()


@pytest.mark.parametrize("steps_before", [0, 69])
def test_a_victory_terminates_also_at_the_limit(steps_before):
    env, _ = battle()
    last_enemy(env)
    keep_enemies_away(env)
    for _ in range(steps_before):
        act(env)
    step = act(env, ATTACK)
    assert flags(step) == {"done", "terminated", "battle_won"}
    assert (int(step["dead_agents"]), int(step["dead_enemies"])) == (0, 6)
    torch.testing.assert_close(step["agents", "reward"], torch.full((5, 1), 211 / 26.5))
    assert int(env.reset()["dead_enemies"]) == 0


@pytest.mark.parametrize("steps_before", [0, 69])
def test_a_defeat_terminates_also_at_the_limit(steps_before):
    env, _ = battle()
    env.reset()
    keep_enemies_away(env)
    for _ in range(steps_before):
        act(env)
    for ally in env._game.allies:
        ally.health = 0.0
    env._seen = env._look()
    step = act(env)
    assert flags(step) == {"done", "terminated"}
    assert int(step["dead_agents"]) == 5


def test_a_defeat_with_an_agent_alive_terminates():
    """SMAC ends a battle in which only healers are left, who cannot attack."""
    env, _ = battle()
    env.reset()
    keep_enemies_away(env)
    info = {"battle_won": False, "dead_allies": 4, "dead_enemies": 0}
    env._game._result = lambda delta: (0.0, True, info)
    assert flags(act(env)) == {"done", "terminated"}


@pytest.mark.parametrize(("horizon", "last"), [(None, 70), (7, 7), (100, 70)])
def test_the_limit_truncates_and_does_not_terminate(horizon, last):
    env, _ = battle(horizon=horizon)
    env.reset()
    keep_enemies_away(env)
    steps = [act(env) for _ in range(last)]
    assert [flags(step) for step in steps] == [set()] * (last - 1) + [{"done", "truncated"}]


def test_a_dead_agent_has_only_the_no_op():
    env, _ = battle()
    env.reset()
    keep_enemies_away(env)
    env._game.allies[3].health = 0.0
    env._seen = env._look()
    step = act(env)
    assert step[MASK][3].nonzero().flatten().tolist() == [NOOP]
    assert not step[MASK][[0, 1, 2, 4], NOOP].any()
    assert int(step["dead_agents"]) == 1
    assert (step["agents", "observation"][3] == 0).all()
    with pytest.raises(ValueError, match=r"Agent 3 cannot take action 1 .*allows \[0\]"):
        act(env, STOP, STOP, STOP, STOP)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (torch.eye(12)[[STOP, STOP, ATTACK + 1, STOP, STOP]], "Agent 2 cannot take action 7"),
        (torch.eye(12)[[STOP] * 5] * 2, "agent 0 must be one-hot"),
        (torch.zeros(5, 12), "agent 0 must be one-hot"),
        (torch.eye(12)[[STOP] * 5] + torch.eye(12)[[NORTH] * 5], "agent 0 must be one-hot"),
        (torch.full((5, 12), torch.nan), "agent 0 must be one-hot"),
        (torch.eye(12)[[STOP] * 4], r"shape \(5, 12\), got \(4, 12\)"),
    ],
)
def test_a_wrong_action_is_an_error_before_the_game_is_touched(action, message):
    env, launcher = battle()
    env.reset()
    with pytest.raises(ValueError, match=message):
        env._step(TensorDict({"agents": {"action": action}}))
    assert launcher.games[0].all_steps == 0


def test_a_step_before_the_reset_is_an_error():
    env, _ = battle()
    with pytest.raises(RuntimeError, match="'5m_vs_6m' must be reset"):
        env._step(env.fake_tensordict())


def test_an_episodes_end_resets_the_game_once():
    env, launcher = battle(horizon=7)
    env.rollout(3 * 7, break_when_any_done=False)
    # The first, and one after each of the first two ends.
    assert launcher.games[0].resets == 3


def test_a_second_reset_before_a_step_leaves_the_game_alone():
    env, launcher = battle()
    first, second = env.reset(), env.reset()
    assert launcher.games[0].resets == 1
    assert (first == second).all()
    act(env)
    env.reset()
    assert launcher.games[0].resets == 2


@pytest.mark.parametrize("way", ["raise", "silent"])
def test_a_death_drops_the_episode_and_launches_another_game(way):
    env, launcher = battle(("step", 3, way))
    env.reset()
    act(env)
    before = act(env)
    with died():
        step = act(env, NORTH)
    assert flags(step) == {"done", "truncated", "dropped"}
    assert (step["agents", "reward"] == 0).all()
    assert (step["agents", "observation"] == before["agents", "observation"]).all()
    assert launcher.games[0].closes == 1
    again = env.reset()
    assert not again["dropped"]
    assert [game.resets for game in launcher.games] == [1, 1]
    # The same seed would play the same battle to the same death.
    assert launcher.options[0]["seed"] != launcher.options[1]["seed"]


# In a step and then a reset, in two steps, and in two resets.
@pytest.mark.parametrize("second", [("reset", 1), ("step", 2, "silent"), ("step", 1, "raise")])
def test_a_second_death_in_a_row_is_an_error(second):
    env, _ = battle(("step", 1, "raise"), second)
    env.reset()
    with died():
        act(env)

    def go_on():
        env.reset()
        act(env)
        act(env)

    with pytest.raises(RuntimeError, match="died twice in a row on the map '5m_vs_6m'") as error:
        go_on()
    assert isinstance(error.value.__cause__, ConnectionError)


def test_a_death_in_a_reset_is_survived_once():
    env, launcher = battle(("reset", 1))
    with died():
        step = env.reset()
    assert flags(step) == set()
    assert len(launcher.games) == 2
    env, _ = battle(("reset", 1), ("reset", 1))
    with died(), pytest.raises(RuntimeError, match="twice in a row"):
        env.reset()


def test_a_death_after_a_battle_that_came_to_its_end_is_the_first_again():
    env, launcher = battle(("step", 1, "raise"), ("step", 2, "raise"))
    env.reset()
    with died():
        act(env)
    last_enemy(env)
    assert bool(act(env, ATTACK)["terminated"])
    env.reset()
    with died():
        act(env)
    env.reset()
    assert len(launcher.games) == 3


def test_a_death_after_an_episode_that_the_horizon_cut_is_the_first_again():
    env, launcher = battle(("step", 1, "raise"), ("step", 3, "raise"), horizon=2)
    env.reset()
    with died():
        act(env)
    env.reset()
    assert [flags(act(env)) for _ in range(2)] == [set(), {"done", "truncated"}]
    env.reset()
    with died():
        act(env)
    assert len(launcher.games) == 2


def test_a_seed_says_where_the_battles_begin():
    first, second, other = (battle(seed=seed)[0] for seed in (3, 3, 4))
    starts = [env.reset()["state"] for env in (first, second, other)]
    assert (starts[0] == starts[1]).all()
    assert (starts[0] != starts[2]).any()
    act(first)
    later = first.reset()["state"]
    assert (later != starts[0]).any(), "a game plays one start for ever"
    first.set_seed(3)
    assert (first.reset()["state"] == starts[0]).all()


def test_a_seed_that_is_not_given_is_drawn_from_torchs_generator():
    seeds = []
    for _ in range(2):
        torch.manual_seed(0)
        seeds.append(battle(seed=None)[1].options[0]["seed"])
    assert seeds[0] == seeds[1]


def test_options_reach_the_game():
    _, launcher = battle(difficulty="3", reward_sparse=True, obs_last_action=True)
    assert launcher.options[0]["map_name"] == "5m_vs_6m"
    game = launcher.games[0]
    assert (game.difficulty, game.reward_sparse, game.obs_last_action) == ("3", True, True)
    # Each agent also sees the others' last actions, one-hot.
    env, _ = battle(obs_last_action=True)
    assert layout_of(env).observation_size == 55 + 4 * 12
    check_env_specs(env)


def test_closing_the_environment_ends_the_game():
    env, launcher = battle()
    env.reset()
    env.close()
    assert launcher.games[0].closes == 1


def task_env(*, num_envs: int = 3, **options):
    launcher = Launcher()
    task = smac_task("2s3z", game=launcher, settings=SMACSettings(parallel=False))
    options = {"n_agents": 5, "seed": 0, "horizon": 37, **options}
    return make_env(task, num_envs=num_envs, **options), launcher


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_batch_of_battles_has_the_layout_of_the_package(num_envs):
    env, _ = task_env(num_envs=num_envs)
    assert env.batch_size == (num_envs,)
    assert layout_of(env) == layout_of(battle(map_name="2s3z")[0])
    check_env_specs(env)


def test_random_actions_of_a_batch_are_allowed_across_ends_of_episodes():
    """Agents die and battles end at different times; a masked action would be an error."""
    torch.manual_seed(0)
    env, _ = task_env(horizon=200)
    episodes = env.rollout(211, break_when_any_done=False)
    taken = episodes[MASK].gather(-1, episodes[ACTION].argmax(-1, keepdim=True))
    assert taken.all()
    ends = [row.nonzero().flatten().tolist() for row in episodes["next", "done"].squeeze(-1)]
    assert all(ends)
    assert ends[0] != ends[1], "no reset was of a part of the batch"


def test_battles_of_a_batch_differ_and_follow_the_seed():
    first, second = (task_env(seed=5)[0].reset()["state"] for _ in range(2))
    assert (first == second).all()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (first[one] != first[other]).any()


def test_another_number_of_agents_is_an_error():
    with pytest.raises(ValueError, match="'2s3z' is of 5 agents, got n_agents=3"):
        task_env(n_agents=3)


def test_alita_learns_from_a_batch_of_battles():
    torch.manual_seed(0)
    env, _ = task_env()
    algorithm = ALITA(env, ALITA.Settings(num_cells=(13,)))
    logs = algorithm.update(
        dict.fromkeys(algorithm.replays(), env.rollout(11, break_when_any_done=False).reshape(-1))
    )
    assert all(bool(value.isfinite().all()) for value in logs.values())
    before = env.reset()
    action = algorithm.actor(before)[ACTION]
    assert (action.sum(-1) == 1).all()
    assert before[MASK].gather(-1, action.argmax(-1, keepdim=True)).all()


def test_torchrls_collector_plays_battles_of_the_paper():
    """The loop's way: random frames first, then the policy, across ends of episodes."""
    torch.manual_seed(0)
    env, _ = task_env()
    actor = ALITA(env, ALITA.Settings(num_cells=(13,))).actor
    collector = Collector(
        env,
        actor,
        frames_per_batch=3 * 41,
        total_frames=6 * 41,
        init_random_frames=3 * 41,
        auto_register_policy_transforms=False,
    )
    random, played = (batch.clone() for batch in collector)
    collector.shutdown()
    for batch in (random, played):
        assert batch.shape == (3, 41)
        assert batch["next", "truncated"].any()
        assert batch[MASK].gather(-1, batch[ACTION].argmax(-1, keepdim=True)).all()


def result(won: list, dead: list, dropped: list, done: list) -> TensorDict:
    entries = {"battle_won": won, "dead_agents": dead, "dropped": dropped, "done": done}
    entries = {name: torch.tensor(rows).unsqueeze(-1) for name, rows in entries.items()}
    return TensorDict({"next": entries}, entries["done"].shape[:2])


def test_metrics_count_to_the_end_and_leave_out_what_was_dropped():
    yes, no = True, False
    episodes = result(
        # Won; lost, then another one won; dropped; at the limit; won.
        won=[[no, yes, no], [no, no, yes], [no, no, no], [no, no, no], [yes, no, no]],
        dead=[[0, 1, 5], [3, 5, 0], [4, 4, 4], [0, 0, 2], [0, 0, 0]],
        dropped=[[no] * 3, [no] * 3, [no, yes, no], [no] * 3, [no, yes, no]],
        done=[[no, yes, no], [no, yes, yes], [no, yes, no], [no, no, yes], [yes, yes, no]],
    )
    metrics = smac_metrics(episodes)
    assert float(metrics["win_rate"]) == 2 / 4
    assert float(metrics["dead_agents"]) == (1 + 5 + 2 + 0) / 4
    assert smac_metrics(episodes[2:3])["win_rate"].isnan()


def test_metrics_without_results_are_an_error():
    with pytest.raises(KeyError, match="battle_won"):
        smac_metrics(TensorDict({"next": {"done": torch.zeros(2, 3, 1)}}, [2, 3]))


@pytest.mark.parametrize("map_name", MAPS)
def test_units_are_drawn_where_they_are(map_name):
    env, _ = battle(map_name=map_name)
    episode = env.rollout(3)
    frames = draw_smac(episode, size=320)
    assert len(frames) == 4
    env, _ = battle(map_name=map_name)
    env.reset()
    # A pixel is a tenth of a unit of length; north is up.
    for side, color in ((env._game.allies, "#4477aa"), (env._game.enemies, "#ee6677")):
        x, y = side[-1].place
        rgb = tuple(bytes.fromhex(color[1:]))
        assert frames[0].getpixel((round(10 * x), round(320 - 10 * y))) == rgb


def test_the_dead_are_not_drawn_and_a_bar_is_as_long_as_the_health():
    env, _ = battle(map_name="3s_vs_5z")
    episode = env.rollout(1)
    state = episode["next", "state"][0]
    # A row of an ally is health, cooldown, x, y and shield.
    state[: 3 * 5] = 0.0
    state[0], state[2], state[3] = 0.5, 0.25, 0.125
    state[3 * 5 : 3 * 5 + 5 * 4] = 0.0
    image = draw_smac(episode, size=320)[1]
    colors = {color: count for count, color in image.crop((1, 1, 319, 319)).getcolors()}
    assert (0xEE, 0x66, 0x77) not in colors
    x, y = 240, 120
    assert image.getpixel((x, y)) == (0x44, 0x77, 0xAA)
    row = [image.getpixel((i, y - 8)) for i in range(x - 6, x + 7)]
    # Half of the 12 pixels from the first to the last, the first included.
    assert [color == (0x22, 0x88, 0x33) for color in row] == [True] * 7 + [False] * 6


def test_another_games_state_is_not_drawn():
    env, _ = battle(map_name="3s_vs_5z")
    episode = env.rollout(2)
    for part in (episode, episode["next"]):
        part["state"] = part["state"][:, :-1]
    with pytest.raises(ValueError, match="rows of 3 agents and 5 enemies, got 34 features"):
        draw_smac(episode)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A machine on which packages and the game are what a test puts there."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("SC2PATH", str(tmp_path / "StarCraftII"))
    return tmp_path


def install(site, *parts: str) -> None:
    for part in parts:
        file = site / part
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


SMAC = ("smac/__init__.py", "smac/env/starcraft2/starcraft2.py")
SMACV2 = ("smacv2/__init__.py", "smacv2/env/starcraft2/starcraft2.py")
SMAC3 = ("smac/__init__.py", "smac/facade/__init__.py")
BINARY = ("StarCraftII/Versions/Base69232/SC2_x64",)
ALL_MAPS = tuple(f"StarCraftII/Maps/SMAC_Maps/{name}.SC2Map" for name in MAPS)


@pytest.mark.parametrize(("package", "files"), [("smac", SMAC), ("smacv2", SMACV2)])
def test_a_complete_installation_is_found(site, capsys, package, files):
    install(site, *files, *BINARY, *ALL_MAPS)
    found = find_installation()
    assert (found.package, found.problems) == (package, ())
    assert found.builds == ("Base69232",)
    assert sorted(found.maps) == sorted(MAPS)
    assert main() == 0
    printed = capsys.readouterr().out
    assert f"package:  {package}" in printed
    assert "Base69232 (4.6.2)" in printed
    assert "problems: none" in printed


def test_the_package_of_the_same_name_is_recognized(site, capsys):
    install(site, *SMAC3, *BINARY, *ALL_MAPS)
    with pytest.raises(ImportError, match=r"PyPI's smac is SMAC3.*Bayesian.*git\+https") as error:
        SMACEnv("2s3z")
    assert "SC2PATH" not in str(error.value), "what is there is called missing"
    assert main() == 1
    assert "SMAC3" in capsys.readouterr().out
    install(site, *SMACV2)
    assert find_installation().package == "smacv2"


def test_one_message_names_all_that_is_missing(site):
    with pytest.raises(ImportError) as error:
        SMACEnv("2s3z")
    message = str(error.value)
    assert "Neither smac nor smacv2 is installed" in message
    assert "No StarCraft II in" in message
    assert "Missing maps: ['2s3z']" in message
    assert "python -m torchrl_alita.envs.smac" in message


def test_a_missing_map_or_version_is_named_with_where_it_goes(site):
    install(site, *SMAC, *BINARY, *ALL_MAPS[1:])
    with pytest.raises(FileNotFoundError, match=r"Missing maps: \['2s3z'\].*StarCraftII/Maps"):
        SMACEnv("2s3z")
    with pytest.raises(FileNotFoundError, match=r"4\.10 \(Base75689\).*\['Base69232'\]"):
        SMACEnv("corridor", game_version="4.10")
    assert find_installation(("corridor",), game_version="4.6.2").problems == ()


def test_tasks_are_registered_without_the_game():
    for name in MAPS:
        assert get_task(f"smac/{name}").metrics is smac_metrics
    assert not {"smac", "smacv2"} & set(sys.modules)


def test_the_module_runs_as_a_script(site):
    run = subprocess.run(
        [sys.executable, "-m", "torchrl_alita.envs.smac"], capture_output=True, text=True
    )
    assert run.returncode == 1, run.stderr
    assert "package:  none" in run.stdout
    assert "problems: 3" in run.stdout


def test_a_battle_in_peace_warns_of_nothing():
    env, _ = battle()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.rollout(83, break_when_any_done=False)
