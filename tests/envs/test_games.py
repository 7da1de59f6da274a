"""The games: what the arrays say is what happens, and a wrong array is a clear error."""

from __future__ import annotations

import re

import pytest
import torch
from fakes import B, N
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from torchrl_alita.envs import layout_of, make_env
from torchrl_alita.envs.games import MarkovGame, MatrixGame, draw_game, game_task

S, L = 5, 2
JOINT = L**N
ACTION = ("agents", "action")
OBSERVATION = ("agents", "observation")
REWARD = ("agents", "reward")
NEXT_REWARD = ("next", "agents", "reward")


def random_game(*, seed: int = 0, **arguments) -> MarkovGame:
    return MarkovGame.random(seed, S, N, L, **{"num_envs": B, **arguments})


def cycle(**arguments) -> MarkovGame:
    """State s is followed by s + 1 whatever the agents do; the first state is 0."""
    transition = torch.eye(S).roll(1, 1).unsqueeze(1).expand(S, JOINT, S)
    first = torch.eye(S)[0]
    return MarkovGame(
        transition, torch.zeros(N, S, JOINT), 0.9, initial=first, **{"num_envs": B, **arguments}
    )


def one_hot_actions(joint: torch.Tensor) -> torch.Tensor:
    """Numbers of joint actions ``[B]`` written in base L, ``[B, N, L]``."""
    digits = [joint // L ** (N - 1 - i) % L for i in range(N)]
    return torch.nn.functional.one_hot(torch.stack(digits, -1), L).float()


def play(game: MarkovGame, joint: torch.Tensor, step: TensorDict | None = None) -> TensorDict:
    step = game.reset() if step is None else step
    return game.step(step.set(ACTION, one_hot_actions(joint)))["next"]


def states(step: TensorDict) -> torch.Tensor:
    return step[OBSERVATION].argmax(-1)[..., 0]


def history(game: MarkovGame, steps: int = 11) -> torch.Tensor:
    """States under one fixed sequence of joint actions, episodes included."""
    generator = torch.Generator().manual_seed(0)

    def act(tensordict: TensorDict) -> TensorDict:
        joint = torch.randint(JOINT, game.batch_size, generator=generator)
        return tensordict.set(ACTION, one_hot_actions(joint))

    return states(game.rollout(steps, act, break_when_any_done=False)["next"])


def arrays() -> dict[str, torch.Tensor]:
    game = random_game()
    return {"transition": game.transition.clone(), "reward": game.reward.clone()}


@pytest.mark.parametrize("horizon", [3, None])
def test_a_game_keeps_torchrls_promises(horizon):
    check_env_specs(random_game(horizon=horizon), seed=0)


def test_a_matrix_game_keeps_torchrls_promises():
    check_env_specs(MatrixGame(torch.ones(N, JOINT), num_envs=B), seed=0)


def test_a_game_stays_where_its_generator_is():
    env = random_game()
    assert env.to("cpu") is env
    with pytest.raises(ValueError, match="make a new environment with device='meta'"):
        env.to("meta")


def test_a_game_has_the_layout_of_the_house():
    game = random_game()
    assert layout_of(game)[:4] == (N, S, L, True)
    rollout = game.rollout(3)
    assert rollout[NEXT_REWARD].shape == (B, 3, N, 1)
    assert {rollout[key].dtype for key in (OBSERVATION, ACTION, NEXT_REWARD)} == {torch.float32}
    for flag in ("done", "terminated", "truncated"):
        assert rollout["next", flag].shape == (B, 3, 1)


def test_every_agent_sees_the_state_and_nothing_else():
    rollout = random_game().rollout(7)
    observation = rollout[OBSERVATION]
    torch.testing.assert_close(observation.sum(-1), torch.ones(B, 7, N))
    assert ((observation == 0) | (observation == 1)).all()
    assert (observation == observation[..., :1, :]).all()


def test_states_follow_and_pay_as_the_arrays_say():
    count = 1000
    game = random_game(num_envs=count, seed=3)
    generator = torch.Generator().manual_seed(4)
    visits = torch.zeros(S, JOINT, S)
    step = game.reset()
    for _ in range(40):
        before, joint = states(step), torch.randint(JOINT, (count,), generator=generator)
        step = play(game, joint, step)
        expected = game.reward[:, before, joint].T.unsqueeze(-1).float()
        torch.testing.assert_close(step[REWARD], expected, rtol=0, atol=0)
        one = torch.ones(count)
        visits.index_put_((before, joint, states(step)), one, accumulate=True)
    tries = visits.sum(-1, keepdim=True)
    assert tries.min() > 500
    p = game.transition.float()
    # Of 200 frequencies, one beyond 4.5 standard errors is a matter of 1 in 700.
    assert ((visits / tries - p).abs() < 4.5 * (p * (1 - p) / tries).sqrt()).all()


def test_a_state_of_probability_zero_is_never_drawn():
    transition = torch.zeros(3, 1, 3)
    transition[..., 1] = 1
    game = MarkovGame(transition, torch.zeros(1, 3, 1), 0.9, num_envs=1000, initial=[0, 1, 0])
    step = game.reset()
    assert (states(step) == 1).all()
    action = torch.ones(1000, 1, 1)
    assert (states(game.step(step.set(ACTION, action))["next"]) == 1).all()


def test_rounding_leaves_no_draw_without_a_state():
    # Ten times 0.1 is 0.9999999999999999.
    game = MarkovGame([[[0.1] * 10]] * 10, [[[0.0]] * 10], 0.9)
    assert game.transition[0, 0].cumsum(-1)[-1] < 1
    assert (game._thresholds[..., -1] == 1).all()


def test_first_states_are_drawn_from_the_initial_distribution():
    initial = torch.tensor([0.5, 0.0, 0.25, 0.25, 0.0])
    first = states(random_game(num_envs=4000, initial=initial).reset())
    share = torch.bincount(first, minlength=S) / 4000
    assert ((share - initial).abs() <= 4 * (initial * (1 - initial) / 4000).sqrt()).all()
    uniform = states(random_game(num_envs=4000).reset())
    assert (torch.bincount(uniform, minlength=S) / 4000 - 0.2).abs().max() < 4 * 0.4 / 4000**0.5


def test_agent_0_is_the_slowest_index_of_a_joint_action():
    payoff = torch.arange(JOINT).float() + 100 * torch.arange(N).unsqueeze(-1)
    game = MatrixGame(payoff)
    step = game.reset()
    # 1, 0, 1 in base 2 is 5.
    step[ACTION] = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    assert game.step(step)[NEXT_REWARD].flatten().tolist() == [5.0, 105.0, 205.0]


def test_an_action_counts_the_same_in_any_type():
    game = MatrixGame(torch.arange(JOINT).float().expand(N, -1), num_envs=JOINT)
    action = one_hot_actions(torch.arange(JOINT))
    for same in (action, action.bool(), action.long(), 0.9 * action + 0.05):
        step = TensorDict({"agents": {"action": same}}, [JOINT])
        assert game._step(step)[REWARD][:, 0, 0].tolist() == list(range(JOINT))


def test_the_games_of_a_batch_are_independent():
    assert len(set(map(tuple, history(random_game()).tolist()))) == B


def test_a_partial_reset_leaves_the_other_games_where_they_are():
    game = cycle(horizon=3)
    step = play(game, torch.zeros(B, dtype=torch.long))
    assert states(step).tolist() == [1] * B
    mask = torch.arange(B).unsqueeze(-1) % 2 == 0
    step["_reset"] = mask
    again = game.reset(step.exclude("agents"))
    assert game.state.tolist() == [0, 1] * 3 + [0]
    assert game.steps.flatten().tolist() == [0, 1] * 3 + [0]
    step = play(game, torch.zeros(B, dtype=torch.long), again.exclude("_reset"))
    step = play(game, torch.zeros(B, dtype=torch.long), step)
    assert states(step).tolist() == [2, 3] * 3 + [2]
    assert step["truncated"].flatten().tolist() == [False, True] * 3 + [False]


def test_the_horizon_truncates_and_never_terminates():
    rollout = random_game(horizon=3).rollout(7, break_when_any_done=False)
    expected = [False, False, True, False, False, True, False]
    for flag in ("done", "truncated"):
        assert rollout["next", flag][0, :, 0].tolist() == expected
    assert not rollout["next", "terminated"].any()


def test_a_game_without_horizon_does_not_end():
    rollout = cycle(horizon=None).rollout(211, break_when_any_done=False)
    assert not rollout["next", "done"].any()
    assert states(rollout["next"])[0].tolist() == [t % S for t in range(1, 212)]


def test_each_step_of_a_matrix_game_is_an_episode():
    rollout = MatrixGame(torch.zeros(N, JOINT)).rollout(3, break_when_any_done=False)
    assert rollout["next", "truncated"].all()
    assert not rollout["next", "terminated"].any()


def test_the_same_seed_plays_the_same_game():
    first = history(random_game(seed=2))
    assert torch.equal(first, history(random_game(seed=2)))
    game = random_game()
    game.set_seed(7)
    again = history(game)
    assert not torch.equal(first, again)
    game.set_seed(7)
    assert torch.equal(again, history(game))


def test_without_a_seed_two_games_differ_even_under_one_global_seed():
    a = arrays()
    played = []
    for _ in range(2):
        torch.manual_seed(0)
        played.append(history(MarkovGame(**a, discount=0.9, num_envs=B)))
    assert not torch.equal(*played)


@pytest.mark.parametrize("seed", [0, None])
def test_the_global_generator_is_neither_read_nor_moved(seed):
    before = torch.get_rng_state()
    game = MarkovGame(**arrays(), discount=0.9, num_envs=B, seed=seed)
    history(game)
    game.set_seed(seed)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    first = history(random_game(seed=2))
    torch.manual_seed(2)
    assert torch.equal(first, history(random_game(seed=2)))


def test_a_random_game_is_reproducible_and_its_rewards_lie_within_1():
    game, same, other = random_game(), random_game(), random_game(seed=1)
    assert torch.equal(game.transition, same.transition)
    assert torch.equal(game.reward, same.reward)
    assert not torch.equal(game.transition, other.transition)
    assert game.transition.min() > 0
    assert 0.9 < game.reward.abs().max() <= 1
    assert (game.reward[0] != game.reward[1]).all()


def test_a_shared_reward_is_the_same_for_all_agents():
    reward = random_game(shared_reward=True).reward
    assert reward.shape == (N, S, JOINT)
    assert (reward == reward[:1]).all()
    assert reward[0].unique().numel() == S * JOINT


def test_the_arrays_are_kept_in_float64_for_the_solver():
    a = arrays()
    game = MarkovGame(**a, discount=0.75)
    assert game.transition.dtype == game.reward.dtype == game.initial.dtype == torch.float64
    torch.testing.assert_close(game.transition, a["transition"], rtol=1e-15, atol=0)
    assert torch.equal(game.reward, a["reward"])
    assert (game.num_states, game.num_agents, game.num_actions) == (S, N, L)
    assert game.discount == 0.75
    assert MarkovGame([[[0.1, 0.9]]] * 2, [[[0.1]] * 2], 0.5).reward[0, 0, 0].item() == 0.1


def test_what_the_caller_does_to_his_arrays_does_not_reach_the_game():
    a = arrays()
    game = MarkovGame(**a, discount=0.9)
    a["reward"].zero_()
    a["transition"].zero_()
    assert (game.reward != 0).all()
    assert (game.transition != 0).all()


def test_rows_summed_in_float32_are_accepted_and_made_exact():
    game = MarkovGame(arrays()["transition"].float(), arrays()["reward"], 0.9)
    ones = torch.ones(S, JOINT, dtype=torch.float64)
    torch.testing.assert_close(game.transition.sum(-1), ones, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("transition", (2, 3, 1), -0.5, "transition[2, 3, 1] must be at least 0, got -0.5."),
        ("transition", (2, 3, 1), 1.5, "transition[2, 3] must sum to 1 within 1e-06, got 1.75."),
        ("transition", (4, 7, 0), torch.nan, "transition[4, 7, 0] must be finite, got nan."),
        ("reward", (1, 4, 6), torch.inf, "reward[1, 4, 6] must be finite, got inf."),
    ],
)
def test_a_wrong_entry_is_named_with_its_row_and_value(name, index, value, message):
    a = arrays()
    a["transition"][2, 3] = torch.tensor([0.25, 0.0, 0.0, 0.0, 0.0])
    if index[:2] != (2, 3):
        a["transition"][2, 3, 1] = 0.75
    a[name][index] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        MarkovGame(**a, discount=0.9)


def test_a_payoff_that_is_not_finite_is_named_as_such():
    with pytest.raises(ValueError, match=re.escape("payoff[0, 1] must be finite, got -inf.")):
        MatrixGame([[1.0, -torch.inf]])


def test_a_sum_just_beyond_the_tolerance_is_refused_and_one_just_within_is_not():
    MarkovGame([[[0.5, 0.5 + 9e-7]]] * 2, [[[0.0]] * 2], 0.9)
    with pytest.raises(ValueError, match=re.escape("transition[0, 0] must sum to 1 within 1e-06")):
        MarkovGame([[[0.5, 0.5 + 11e-7]]] * 2, [[[0.0]] * 2], 0.9)


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ([0.5, 0.5], "initial must have the shape (5,), got (2,)."),
        ([0.5, 0.25, 0.0, 0.0, 0.0], "initial must sum to 1 within 1e-06, got 0.75."),
        ([1.5, 0.0, 0.0, -0.5, 0.0], "initial[3] must be at least 0, got -0.5."),
    ],
)
def test_a_wrong_initial_distribution_is_refused(initial, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        random_game(initial=initial)


@pytest.mark.parametrize(
    ("transition", "reward", "message"),
    [
        ((S, JOINT), (N, S, JOINT), "transition must have the shape (S, L**N, S), got (5, 8)."),
        ((S, JOINT, 3), (N, S, JOINT), "transition must have the shape"),
        ((S, JOINT, S), (N, JOINT, S), "reward must have the shape (N, 5, 8)"),
        ((S, JOINT, S), (N, S, JOINT, 1), "got (3, 5, 8, 1)."),
        ((S, 7, S), (N, S, 7), "must be L**N with N = 3 agents, got 7."),
        ((S, 0, S), (N, S, 0), "got (5, 0, 5)."),
        ((S, JOINT, S), (0, S, JOINT), "got (0, 5, 8)."),
    ],
)
def test_shapes_that_do_not_fit_are_refused(transition, reward, message):
    transition = torch.full(transition, 1 / transition[-1])
    with pytest.raises(ValueError, match=re.escape(message)):
        MarkovGame(transition, torch.zeros(reward), 0.9)


@pytest.mark.parametrize("shape", [(JOINT,), (N, 1, JOINT)])
def test_a_payoff_that_is_no_matrix_is_refused(shape):
    with pytest.raises(ValueError, match=re.escape(f"(N, L**N), got {shape}")):
        MatrixGame(torch.zeros(shape))


@pytest.mark.parametrize(("num_agents", "num_actions"), [(2, 7), (3, 5), (5, 3), (7, 2), (1, 11)])
def test_the_number_of_actions_is_the_root_of_that_of_joint_actions(num_agents, num_actions):
    game = MatrixGame(torch.zeros(num_agents, num_actions**num_agents))
    assert layout_of(game)[:4] == (num_agents, 1, num_actions, True)


@pytest.mark.parametrize("discount", [1.0, -0.1, 2, torch.nan])
def test_a_discount_outside_0_to_1_is_refused(discount):
    with pytest.raises(ValueError, match=f"below 1, got {discount}"):
        random_game(discount=discount)


@pytest.mark.parametrize("name", ["num_envs", "horizon"])
def test_a_size_below_1_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        random_game(**{name: 0})


@pytest.mark.parametrize("name", ["num_states", "num_agents", "num_actions"])
def test_a_random_game_of_nothing_is_refused(name):
    sizes = {"num_states": S, "num_agents": N, "num_actions": L, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        MarkovGame.random(0, **sizes)


def test_a_task_plays_the_games_own_arrays_in_environments_of_its_own():
    game = cycle()
    env = make_env(game_task(game), num_envs=2, n_agents=N, seed=0, horizon=3)
    episode = env.rollout(3)
    assert episode[OBSERVATION][:, :, 0].argmax(-1).tolist() == [[0, 1, 2]] * 2
    assert episode["next", "truncated"][:, -1].all()
    assert env.discount == game.discount
    assert game_task(game).metrics is None


def test_a_task_refuses_another_number_of_agents_than_the_games():
    with pytest.raises(ValueError, match=rf"{N} agents.*7"):
        make_env(game_task(cycle()), n_agents=7)


def test_the_picture_fills_the_chosen_action_of_each_agent():
    game = cycle(num_envs=1)
    step = game.reset().set(ACTION, one_hot_actions(torch.tensor([0b101])))
    (frame,) = draw_game(game.step(step)[0].unsqueeze(0), cell=40)
    filled = [
        [
            frame.getpixel((column * 40 + 20, row * 40 + 60)) != (255, 255, 255)
            for column in range(L)
        ]
        for row in range(N)
    ]
    assert filled == [[False, True], [True, False], [False, True]]


def go_on(game: MarkovGame, step: TensorDict) -> TensorDict:
    generator = torch.Generator().manual_seed(0)

    def act(tensordict: TensorDict) -> TensorDict:
        joint = torch.randint(JOINT, game.batch_size, generator=generator)
        return tensordict.set(ACTION, one_hot_actions(joint))

    options = {"auto_reset": False, "break_when_any_done": False}
    return game.rollout(11, act, tensordict=step.clone(), **options)


def middle_of_an_episode() -> tuple[MarkovGame, TensorDict]:
    game = random_game(horizon=5)
    transition = game.step(game.reset().set(ACTION, one_hot_actions(torch.arange(B))))
    return game, transition["next"].exclude(REWARD)


def test_a_saved_game_goes_on_exactly_in_another_one():
    (game, step), other = middle_of_an_episode(), random_game(horizon=5)
    saved = game.state_dict()
    assert set(saved) == {"state", "steps", "generator"}
    first = go_on(game, step)
    # Two resets lie within the eleven steps.
    assert first["next", "truncated"][0].sum() == 2
    other.set_seed(7)
    assert not torch.equal(go_on(other, step)[OBSERVATION], first[OBSERVATION])
    for again in (other, game):
        again.load_state_dict(saved)
        second = go_on(again, step)
        assert all(torch.equal(first[key], second[key]) for key in first.keys(True, True))


def test_what_is_written_into_a_saved_state_does_not_reach_the_game():
    game, _ = middle_of_an_episode()
    before, saved = game.state.clone(), game.state_dict()
    saved["state"].fill_(4)
    saved["steps"].fill_(3)
    assert torch.equal(game.state, before)
    assert (game.steps == 1).all()
    game.load_state_dict(saved)
    saved["state"].zero_()
    saved["steps"].zero_()
    assert (game.state == 4).all()
    assert (game.steps == 3).all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("state", torch.zeros(5).long(), "state must be torch.int64 of the shape (7,), got"),
        ("state", torch.zeros(B), "got torch.float32 of the shape (7,)."),
        ("state", torch.full((B,), S), "state must be from 0 to 4, got values from 5 to 5."),
        ("state", torch.arange(B) - 3, "got values from -3 to 3."),
        ("steps", torch.zeros(B).long(), "steps must be torch.int64 of the shape (7, 1), got"),
        ("steps", torch.full((B, 1), 6), "steps must be from 0 to 5, got values from 6 to 6."),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(name, value, message):
    game, _ = middle_of_an_episode()
    before = game.state_dict()
    saved = random_game(seed=1, horizon=5).state_dict() | {name: value}
    with pytest.raises(ValueError, match=re.escape(message)):
        game.load_state_dict(saved)
    after = game.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_state_with_a_key_too_few_or_too_many_is_refused_and_changes_nothing():
    game, _ = middle_of_an_episode()
    before, other = game.state_dict(), random_game(seed=1, horizon=5).state_dict()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*\"doors\""):
        game.load_state_dict(other | {"doors": torch.zeros(1)})
    del other["steps"]
    with pytest.raises(RuntimeError, match=r"Missing key.*\"steps\""):
        game.load_state_dict(other)
    after = game.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_game_without_horizon_takes_over_any_number_of_steps():
    game = cycle(horizon=None)
    game.load_state_dict(game.state_dict() | {"steps": torch.full((B, 1), 1000)})
    assert (game.steps == 1000).all()
    with pytest.raises(ValueError, match=r"steps must be at least 0, got values from -1 to -1."):
        game.load_state_dict(game.state_dict() | {"steps": torch.full((B, 1), -1)})
