"""What the last episodes began with, and what they returned."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from torchrl_alita.data import EpisodeReturns


def rollout(rewards: list[list[float]], begins: list[list[int]], ends: list[list[int]]):
    """Two agents, who earn the reward and three times as much; the first step is its number."""
    reward = torch.tensor(rewards)
    rows, steps = reward.shape
    return TensorDict(
        {
            "state": torch.arange(rows * steps).view(rows, steps, 1).float(),
            "is_init": torch.tensor(begins).bool().unsqueeze(-1),
            "next": {
                "agents": {"reward": torch.stack([reward, 3 * reward], -1).unsqueeze(-1)},
                "done": torch.tensor(ends).bool().unsqueeze(-1),
            },
        },
        [rows, steps],
    )


FIRST = rollout(
    [[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]],
    [[1, 0, 1, 0], [0, 1, 0, 0]],
    [[0, 1, 0, 0], [1, 0, 0, 1]],
)
SECOND = rollout([[256.0, 512.0], [1024.0, 2048.0]], [[0, 0], [1, 1]], [[0, 1], [1, 1]])


def test_returns_are_summed_over_rollouts_from_an_episodes_beginning():
    """The second environment is given in the middle of an episode, which does not count."""
    episodes = EpisodeReturns(7, keys=["state"])
    episodes.observe(FIRST)
    assert episodes.finished["episode_return"].tolist() == [2 * 3.0, 2 * 224.0]
    assert episodes.finished["state"].flatten().tolist() == [0, 5]
    episodes.observe(SECOND)
    assert episodes.finished["episode_return"].tolist() == [6, 448, 2048, 2 * 780.0, 4096]
    assert episodes.finished["state"].flatten().tolist() == [0, 5, 2, 2, 3]
    assert episodes.new == 5


def test_the_oldest_are_forgotten():
    episodes = EpisodeReturns(2, keys=["state"])
    for each in (FIRST, SECOND):
        episodes.observe(each)
    assert episodes.finished["episode_return"].tolist() == [1560, 4096]
    drawn = episodes.sample(50)["episode_return"]
    assert set(drawn.tolist()) == {1560.0, 4096.0}


def test_an_episode_that_is_cut_does_not_count():
    """After a reset from outside the environments begin anew without an end."""
    episodes = EpisodeReturns(7, keys=["state"])
    episodes.observe(FIRST)
    again = rollout([[1.0], [1.0]], [[1], [1]], [[1], [1]])
    episodes.observe(again)
    assert episodes.finished["episode_return"].tolist()[2:] == [2, 2]


def test_from_its_state_it_goes_on():
    first, second = (EpisodeReturns(7, keys=["state"]) for _ in range(2))
    first.observe(FIRST)
    second.load_state_dict(first.state_dict())
    for episodes in (first, second):
        episodes.observe(SECOND)
    assert bool((first.finished == second.finished).all())
    assert first.new == second.new == 5
    empty = EpisodeReturns(7, keys=["state"])
    empty.load_state_dict(EpisodeReturns(7, keys=["state"]).state_dict())
    assert len(empty.finished) == 0


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: EpisodeReturns(0, keys=["state"]), ValueError, "size"),
        (lambda: EpisodeReturns(1.5, keys=["state"]), ValueError, "size"),
        (lambda: EpisodeReturns(3, keys=["state"]).sample(1), ValueError, "No episode"),
        (lambda: EpisodeReturns(3, keys=["state"]).observe(FIRST[0]), ValueError, "B, T"),
        (
            lambda: EpisodeReturns(3, keys=["state"]).observe(FIRST.exclude("is_init")),
            KeyError,
            "is_init",
        ),
    ],
)
def test_bad_input_has_one_clear_error(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_other_environments_are_refused():
    episodes = EpisodeReturns(3, keys=["state"])
    episodes.observe(FIRST)
    with pytest.raises(ValueError, match="2 environments, got 1"):
        episodes.observe(SECOND[:1])
