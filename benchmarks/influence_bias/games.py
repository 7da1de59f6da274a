"""Random Markov games, where F is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import ExplorationType

from benchmarks.influence_bias.learner import Learner, critic_of, influence_loss
from benchmarks.influence_bias.settings import INFLUENCER, ON_GAMES, Estimator, GameSettings
from torchrl_alita import Enumerated, MADDPGLoss
from torchrl_alita.envs import MarkovGame
from torchrl_alita.exact import influence, joint_values, marginal_mean, marginal_values
from torchrl_alita.layout import ACTION, LOGITS, OBSERVATION, VALUE, next_key
from torchrl_alita.objectives.joint_actions import enumerate_joint_actions

PLACES = ("current", "next")
PARTS = ("critic", "estimator", "variance", "off_policy")


class TabularCritics(nn.Module):
    """Critics that know, ``[*B, N, S], [*B, N, L] -> [*B, N, 1]``.

    Args:
        table: ``[N, S, L**N]``, as in :func:`torchrl_alita.exact.joint_values`.
    """

    def __init__(self, table: torch.Tensor):
        super().__init__()
        self.table = nn.Parameter(table.float())

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        state = observation[..., 0, :]
        joint = action[..., 0, :]
        for agent in range(1, action.shape[-2]):
            joint = (joint.unsqueeze(-1) * action[..., agent, :].unsqueeze(-2)).flatten(-2)
        return torch.einsum("...s,...u,nsu->...n", state, joint, self.table).unsqueeze(-1)


def every_state(game: MarkovGame) -> TensorDict:
    """All states as a batch ``[S]``."""
    observation = torch.eye(game.num_states).unsqueeze(1).repeat(1, game.num_agents, 1)
    agents = TensorDict({"observation": observation}, [game.num_states, game.num_agents])
    return TensorDict({"agents": agents}, [game.num_states])


@torch.no_grad()
def policy_table(actor: Callable, game: MarkovGame) -> torch.Tensor:
    """The policies' probabilities ``[N, S, L]`` in float64."""
    return actor(every_state(game))[LOGITS].double().softmax(-1).movedim(0, 1)


@torch.no_grad()
def value_table(value: Callable, game: MarkovGame) -> torch.Tensor:
    """Values of all states and joint actions, ``[N, S, L**N]`` in float64.

    Of a function of states ``[S]`` and a joint action ``[S, N, L]``, which gives ``[S, N, 1]``.
    """
    states = every_state(game)
    joint = enumerate_joint_actions(game.num_agents, game.num_actions)
    columns = [value(states, action.expand(game.num_states, -1, -1)) for action in joint]
    return torch.stack(columns, -1).squeeze(-2).movedim(0, 1).double()


def next_state_pairs(batch: TensorDictBase) -> torch.Tensor:
    """Share of each state and next state in a batch, ``[B] -> [S, S]`` in float64."""
    before = batch[OBSERVATION][:, 0].double()
    after = batch[next_key(OBSERVATION)][:, 0].double()
    return before.T @ after / len(before)


def split_bias(
    policies: torch.Tensor,
    pairs: torch.Tensor,
    *,
    truth: tuple[torch.Tensor, torch.Tensor],
    critics: torch.Tensor,
    estimates: torch.Tensor,
    one_draw: bool,
    influencer: int = INFLUENCER,
) -> dict[str, float]:
    r"""F of a batch, and what each error adds to it.

    With q and z the true value and optimum, Q^ and q^ the critics' and the estimator's
    values, and <.> the mean over the others' actions: ``critic`` is the mean of
    (<Q^> - max Q^)^2 - (q - z)^2, what the critics' errors add whatever the estimator;
    ``estimator`` of (<q^> - max Q^)^2 - (<Q^> - max Q^)^2, what its own training adds; and
    ``variance``, of one draw of the others' actions, that of q^. The three and F,
    ``influence``, add up to the mean of the estimate over its draws.

    Args:
        policies: ``[N, S, L]``.
        pairs: ``[S, S]``, how often a state comes with the state of its optimum.
        truth: values ``[N, S, L]`` and optima ``[N, S]``.
        critics: values of joint actions ``[N, S, L**N]``.
        estimates: values of joint actions ``[N, S, L**N]``.
        one_draw: the estimate is taken at one draw of the others' actions.
        influencer: whose F.
    """
    team = [i for i in range(len(policies)) if i != influencer]
    own = policies[influencer].unsqueeze(-1)

    def square(value: torch.Tensor, optimum: torch.Tensor) -> torch.Tensor:
        gap = value[team, :, :, None] - optimum[team, None, None, :]
        return (gap.square().mean(0) * pairs[:, None] * own).sum()

    mean = partial(marginal_mean, policies=policies, influencer=influencer)
    best, average = critics.amax(-1), mean(estimates)
    variance = mean(estimates.square()) - average.square()
    true, known = square(*truth), square(mean(critics), best)
    drawn = (variance[team].mean(0) * pairs.sum(1).unsqueeze(-1) * policies[influencer]).sum()
    return {
        "influence": float(true),
        "critic": float(known - true),
        "estimator": float(square(average, best) - known),
        "variance": float(drawn) if one_draw else 0.0,
    }


def compare_on_game(learner: Learner) -> dict:
    """Truth, estimates and the parts of their bias at this moment of the run."""
    game = learner.env
    batch = learner.compared.sample()
    policies = policy_table(learner.algorithm.actor, game)
    true_values = joint_values(game, policies)
    truth = (marginal_values(game, policies, INFLUENCER), true_values.amax(-1))
    pairs = {"next": next_state_pairs(batch)}
    states = pairs["next"].sum(1)
    pairs["current"] = states.diag()
    true = {
        place: float(
            influence(game, policies, INFLUENCER, optimum_at=place, state_distribution=states)
        )
        for place in PLACES
    }
    rows: dict[str, dict] = {}
    for name, estimator, source, critics in estimates_on_game(learner, true_values):
        tables = {"critics": critics, "estimates": value_table(critic_of(source), game)}
        one_draw = estimator.num_action_samples == 1
        rows[name] = {}
        for place in PLACES:
            loss = influence_loss(learner, estimator, Enumerated(at=place), source=source)
            with torch.no_grad():
                estimate = float(loss(batch)["influence"])
            parts = split_bias(policies, pairs[place], truth=truth, one_draw=one_draw, **tables)
            parts["off_policy"] = parts.pop("influence") - true[place]
            rows[name][place] = {
                "estimate": estimate,
                "relative_error": estimate / true[place] - 1,
                **{part: value / true[place] for part, value in parts.items()},
            }
    return {
        "episodes": learner.episodes * learner.settings.num_envs,
        "exact": true,
        "estimators": rows,
    }


def estimates_on_game(
    learner: Learner, true_values: torch.Tensor
) -> Iterator[tuple[str, Estimator, nn.Module, torch.Tensor]]:
    """Rows, their sources and their critics' tables: trained critics, then those that know."""
    trained = value_table(critic_of(learner.algorithm.maddpg), learner.env)
    for name, estimator in learner.estimators.items():
        yield name, estimator, learner.source(estimator), trained
    knowing = TensorDictModule(
        TabularCritics(true_values), in_keys=[OBSERVATION, ACTION], out_keys=[VALUE]
    )
    partner = MADDPGLoss(learner.algorithm.actor, knowing, gamma=learner.settings.gamma)
    if learner.discrete:
        # One-hot actions are drawn, as the algorithms do.
        partner.deterministic_sampling_mode = ExplorationType.RANDOM
    for name, estimator in learner.estimators.items():
        if estimator.kind == "marginal":
            yield f"exact_critics_{name}", estimator, partner, true_values


def game_learner(
    seed: int, settings: GameSettings, estimators: dict[str, Estimator] = ON_GAMES
) -> Learner:
    torch.manual_seed(seed)
    sizes = (settings.num_states, settings.num_agents, settings.num_actions)
    options = {"num_envs": settings.num_envs, "horizon": settings.horizon}
    game = MarkovGame.random(seed, *sizes, discount=settings.gamma, **options)
    return Learner(game, settings, estimators)
