"""Figure 1 of the paper, redone with an exact truth: how far the estimates of F are off.

    python benchmarks/influence_bias.py                    # make what is missing, then report
    python benchmarks/influence_bias.py --parts spread_full --seeds 0 1
    python benchmarks/influence_bias.py --report-only      # report from the committed results
    python benchmarks/influence_bias.py --quick            # small games, one line of JSON

Part "games": random Markov games, where F is known exactly. Part "spread": cooperative
navigation with N=6, where the truth is a Monte Carlo one: environments restarted from the
states of the replay buffer, as exactly as the observations tell. In both, the policies learn
by MADDPG and every estimator is trained beside it on the same data, without a trace in the
learner, so that the estimators are compared on the same policies, critics and states.

A row of the table is a source of the influenced value, what D_t it is trained on, and over
how many draws of the others' actions it is averaged:

* ``marginal_1`` is Q_i at one draw of all policies, ``marginal_all`` is averaged over all joint
  actions of the others with their probabilities. The square of a gap that holds one draw is
  on average too large by the variance of that draw.
* ``clones`` and ``centralized`` are the paper's, at one draw, on D_t; ``_uniform`` are the same
  on uniform batches, the control; ``_all`` averages them over the others' actions.

The truth is F of the same policies on the same states: those of the batch. At the next
state, Eq. 7, it takes s' as the influencer's and the others' policies lead there, while the
estimate reads s' from the buffer, where older and exploring actions led: that difference is a
part of the bias, given as "off_policy".

Each run leaves a line in results/influence_bias.jsonl when it has finished; it is not made again.
The costs, measured apart and in turns, are another line there. The report writes
docs/figures/influence_bias.png and the tables between the markers of docs/influence.md.

Source: Fig. 1 and Sec. 3.1 of https://arxiv.org/abs/2108.12581.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import tyro
from pages import FIGURES, RESULTS, ROOT, read_lines, set_line, table, versions, write_between
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl import logger
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import EnvBase, ExplorationType
from torchrl.modules import AdditiveGaussianModule, EGreedyModule

from torchrl_alita import (
    MADDPG,
    BestOf,
    ConditionalSampler,
    Enumerated,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    MADDPGLoss,
    Marginal,
    Trained,
    make_env,
    make_influence_network,
)
from torchrl_alita.envs import MarkovGame
from torchrl_alita.exact import influence, joint_policy, joint_values, marginal_values
from torchrl_alita.layout import (
    ACTION,
    DONE,
    LOGITS,
    OBSERVATION,
    REWARD,
    TERMINATED,
    VALUE,
    next_key,
)
from torchrl_alita.objectives.joint_actions import (
    enumerate_joint_actions,
    uniform_joint_actions,
)
from torchrl_alita.saving import machine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = ROOT / "docs" / "influence.md"
RUNS_FILE = "influence_bias.jsonl"
STORED = (OBSERVATION, ACTION, *map(next_key, (OBSERVATION, REWARD, DONE, TERMINATED)))
PLACES = ("current", "next")
PARTS = ("critic", "estimator", "variance", "off_policy")
INFLUENCER = 0
BUFFER_SIZE = 1_000_000  # the paper's


class Estimator(NamedTuple):
    """A row: whose value, trained on which D_t, averaged over how many draws."""

    kind: Literal["marginal", "clones", "centralized"]
    batches: Literal["exact", "nearest", "uniform"] | None = None
    num_action_samples: int | Literal["all"] = 1


ON_GAMES = {
    "marginal_1": Estimator("marginal"),
    "marginal_all": Estimator("marginal", None, "all"),
    "clones": Estimator("clones", "exact"),
    "clones_uniform": Estimator("clones", "uniform"),
    "clones_all": Estimator("clones", "exact", "all"),
    "centralized": Estimator("centralized", "exact"),
    "centralized_all": Estimator("centralized", "exact", "all"),
}
# Its policies are deterministic: one draw is all there are.
ON_SPREAD = {
    "marginal": Estimator("marginal"),
    "clones": Estimator("clones", "nearest"),
    "centralized": Estimator("centralized", "nearest"),
}


@dataclass(frozen=True)
class Settings:
    """What the two parts share; each has its own values below."""

    num_envs: int
    horizon: int
    gamma: float
    episodes: int
    """Rounds of num_envs episodes side by side; an update for each step of a round."""
    checkpoint_every: int
    """Rounds between two comparisons."""
    warmup: int
    """Rounds of random actions at the start, without updates."""
    noise: tuple[float, float]
    """Exploration at the start and from the middle on: share of random actions, or sigma."""
    batch_size: int
    num_cells: tuple[int, ...]
    actor_lr: float
    critic_lr: float
    estimator_lr: float
    decay: bool
    """Let the steps of all networks decay to 0 at the end."""
    compared: int
    """Transitions of the replay buffer on which the estimates and the truth are taken."""
    estimator_updates: int = 4
    tau: float = 0.05
    """Share by which the target networks move at each update."""
    steps_per_batch: int = 10


@dataclass(frozen=True)
class GameSettings(Settings):
    """A random game."""

    num_states: int = 5
    num_agents: int = 3
    num_actions: int = 3


@dataclass(frozen=True)
class SpreadSettings(Settings):
    """Cooperative navigation."""

    num_agents: int = 6
    num_optimum_samples: int = 4
    truth_steps: int = 120
    """Steps of an episode of the truth; what comes after weighs gamma to this power."""


GAMES = GameSettings(
    num_envs=100, horizon=50, gamma=0.9, episodes=24, checkpoint_every=4, warmup=1,
    noise=(1.0, 0.3), batch_size=256, num_cells=(64, 64), actor_lr=3e-4, critic_lr=3e-3,
    estimator_lr=1e-3, decay=True, compared=1024, tau=0.1,
)  # fmt: skip
QUICK = replace(
    GAMES, num_states=3, num_actions=2, gamma=0.8, horizon=25, episodes=13, checkpoint_every=13,
    compared=2048, actor_lr=1e-3, steps_per_batch=5, estimator_updates=2,
)  # fmt: skip
ON_QUICK_GAMES = {name: e for name, e in ON_GAMES.items() if e.batches != "uniform"}
# The values are of the order of -800: the recipe's steps, a third of these, would not reach
# them in a run as short as this.
SPREAD = SpreadSettings(
    num_envs=100, horizon=100, gamma=0.95, episodes=16, checkpoint_every=4, warmup=1,
    noise=(0.9, 0.1), batch_size=1024, num_cells=(128, 128), actor_lr=3e-4, critic_lr=1e-2,
    estimator_lr=3e-3, decay=False, compared=1000,
)  # fmt: skip
# As long as in the paper, with the recipe's steps.
SPREAD_FULL = replace(
    SPREAD, episodes=400, checkpoint_every=50, critic_lr=3e-3, estimator_lr=1e-3
)  # fmt: skip


class Source:
    """A trained estimator of the influenced value, with its D_t and its optimizer."""

    def __init__(self, estimator: Estimator, learner: Learner, storage: LazyTensorStorage):
        settings, env = learner.settings, learner.env
        network = None
        if estimator.kind == "centralized":
            network = make_influence_network(env, num_cells=settings.num_cells)
        self.loss = InfluenceEstimatorLoss(
            learner.algorithm.maddpg,
            INFLUENCER,
            kind=estimator.kind,
            estimator_network=network,
        )
        sampler = ConditionalSampler(influencer=INFLUENCER, kind=estimator.batches)
        self.batches = ReplayBuffer(
            storage=storage, sampler=sampler, batch_size=settings.batch_size
        )
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr=settings.estimator_lr)
        self.updates = settings.estimator_updates

    def update(self) -> None:
        """One round of D_t, as ALITA does it at each step."""
        batch = self.batches.sample()
        for _ in range(self.updates):
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(batch)["loss_estimator"].backward()
            nn.utils.clip_grad_norm_(self.loss.parameters(), 0.5)
            self.optimizer.step()


class Learner:
    """MADDPG on an environment, and the estimators that watch it.

    The estimators draw from a random stream of their own: the learner is the same,
    whichever of them there are.
    """

    def __init__(self, env: EnvBase, settings: Settings, estimators: dict[str, Estimator]):
        self.env, self.settings, self.estimators = env, settings, estimators
        self.algorithm = MADDPG(
            env,
            MADDPG.Settings(
                num_cells=settings.num_cells,
                gamma=settings.gamma,
                actor_lr=settings.actor_lr,
                critic_lr=settings.critic_lr,
                tau=settings.tau,
            ),
        )
        self.discrete = self.algorithm.layout.discrete
        frames = settings.episodes * settings.horizon * settings.num_envs
        storage = LazyTensorStorage(min(frames, BUFFER_SIZE))
        self.replay = ReplayBuffer(storage=storage, batch_size=settings.batch_size)
        self.compared = ReplayBuffer(storage=storage, batch_size=settings.compared)
        self.noise = exploration(self.algorithm, settings)
        self.collected = iter(
            Collector(
                env,
                TensorDictSequential(self.algorithm.actor, self.noise),
                frames_per_batch=settings.num_envs * settings.steps_per_batch,
                total_frames=frames,
                init_random_frames=settings.warmup * settings.horizon * settings.num_envs,
                auto_register_policy_transforms=False,
            )
        )
        self.stream = torch.Generator().manual_seed(torch.initial_seed() + 1).get_state()
        with self.own_stream():
            trained = {e[:2]: e for e in estimators.values() if e.kind != "marginal"}
            self.sources = {key: Source(e, self, storage) for key, e in trained.items()}
        self.optimizers = [
            *self.algorithm.optimizers.values(),
            *(source.optimizer for source in self.sources.values()),
        ]
        self.rates = [[g["lr"] for g in opt.param_groups] for opt in self.optimizers]
        self.episodes = 0
        self.last_return = 0.0

    @contextmanager
    def own_stream(self) -> Iterator[None]:
        """Random numbers that the learner does not see."""
        outside = torch.get_rng_state()
        torch.set_rng_state(self.stream)
        try:
            yield
        finally:
            self.stream = torch.get_rng_state()
            torch.set_rng_state(outside)

    def source(self, estimator: Estimator) -> nn.Module:
        """What InfluenceLoss takes for this row."""
        if estimator.kind == "marginal":
            return self.algorithm.maddpg
        return self.sources[estimator[:2]].loss

    def play(self) -> None:
        """A round of episodes, and an update for each of its steps.

        Clones start anew with each episode, so that only those of an episode at whose
        end a comparison is made have to be trained.
        """
        settings = self.settings
        self.episodes += 1
        compared = self.episodes % settings.checkpoint_every == 0
        used = {k: s for k, s in self.sources.items() if k[0] != "clones" or compared}
        for (kind, _), source in used.items():
            if kind == "clones":
                source.loss.reset_clones()
        self.last_return = 0.0
        for _ in range(settings.horizon // settings.steps_per_batch):
            batch = next(self.collected).select(*STORED)
            self.last_return += float(batch[next_key(REWARD)].sum(1).mean())
            # Step by step over all environments, so that the last rows are the newest.
            self.replay.extend(batch.transpose(0, 1).reshape(-1))
            self.noise.step()
            if self.episodes <= settings.warmup:
                continue
            self._set_rates()
            for _ in range(settings.steps_per_batch):
                self.algorithm.update({"batch": self.replay.sample()})
                with self.own_stream():
                    for source in used.values():
                        source.update()

    def _set_rates(self) -> None:
        if not self.settings.decay:
            return
        left = 1 - (self.episodes - 1) / self.settings.episodes
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * left


def exploration(algorithm: MADDPG, settings: Settings) -> EGreedyModule | AdditiveGaussianModule:
    """Noise that shrinks until the middle of the run."""
    rounds = settings.episodes * settings.horizon // settings.steps_per_batch
    options = {"annealing_num_steps": rounds // 2, "action_key": ACTION}
    start, end = settings.noise
    if algorithm.layout.discrete:
        return EGreedyModule(algorithm.action_spec, eps_init=start, eps_end=end, **options)
    return AdditiveGaussianModule(algorithm.action_spec, sigma_init=start, sigma_end=end, **options)


def influence_loss(
    learner: Learner,
    estimator: Estimator,
    optimum: BestOf | Enumerated,
    *,
    source: nn.Module | None = None,
) -> InfluenceLoss:
    """The loss that a user of this estimator would have."""
    source = learner.source(estimator) if source is None else source
    samples = estimator.num_action_samples
    if isinstance(source, InfluenceEstimatorLoss):
        value, partner = Trained(source, samples), source.partner
    else:
        value, partner = Marginal(samples), source
    return InfluenceLoss(learner.algorithm.actor, partner, INFLUENCER, value=value, optimum=optimum)


# Part "games": the truth is exact.


class TabularCritics(nn.Module):
    """Critics that know, ``[*B, N, S], [*B, N, L] -> [*B, N, 1]``.

    Args:
        table: ``[N, S, L**N]``, as of :func:`torchrl_alita.exact.joint_values`.
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
    """A critic's values of all states and joint actions, ``[N, S, L**N]`` in float64.

    Args:
        value: takes states ``[S]`` and a joint action ``[S, N, L]``, gives ``[S, N, 1]``.
        game: whose states they are.
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
    ``variance``, of one draw of the others' actions, that of q^. The three and F add up to
    the mean of the estimate over its draws.

    Args:
        policies: ``[N, S, L]``.
        pairs: ``[S, S]``, how often a state comes with the state of its optimum.
        truth: values ``[N, S, L]`` and optima ``[N, S]``.
        critics: values of joint actions ``[N, S, L**N]``.
        estimates: values of joint actions ``[N, S, L**N]``.
        one_draw: the estimate is taken at one draw of the others' actions.
        influencer: whose F.

    Returns:
        ``influence``, F; ``critic``, ``estimator`` and ``variance``.
    """
    team = [i for i in range(len(policies)) if i != influencer]
    own = policies[influencer].unsqueeze(-1)

    def square(value: torch.Tensor, optimum: torch.Tensor) -> torch.Tensor:
        gap = value[team, :, :, None] - optimum[team, None, None, :]
        return (gap.square().mean(0) * pairs[:, None] * own).sum()

    best = critics.amax(-1)
    average, variance = marginal_moments(policies, estimates, influencer)
    true, known = square(*truth), square(marginal_moments(policies, critics, influencer)[0], best)
    drawn = (variance[team].mean(0) * pairs.sum(1).unsqueeze(-1) * policies[influencer]).sum()
    return {
        "influence": float(true),
        "critic": float(known - true),
        "estimator": float(square(average, best) - known),
        "variance": float(drawn) if one_draw else 0.0,
    }


def marginal_moments(
    policies: torch.Tensor, values: torch.Tensor, influencer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance over the others' actions, ``[N, S, L**N] -> [N, S, L]`` each."""
    num_agents, _, num_actions = policies.shape
    even = policies.clone()
    even[influencer] = 1 / num_actions
    split = (num_actions**influencer, num_actions, num_actions ** (num_agents - 1 - influencer))
    weights = num_actions * joint_policy(even).unflatten(-1, split)
    values = values.unflatten(-1, split)
    average = (weights * values).sum((2, 4))
    return average, (weights * values.square()).sum((2, 4)) - average.square()


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
        "largest_probability": float(policies.amax(-1).mean()),
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


def critic_of(source: nn.Module) -> Callable[[TensorDictBase, torch.Tensor], torch.Tensor]:
    """The values that InfluenceLoss reads, of a partner's loss or of an estimator."""
    if isinstance(source, InfluenceEstimatorLoss):
        return source.influenced_value
    return lambda states, action: source.critics.value(states, action, keys=source.tensor_keys)


def run_game(
    seed: int,
    settings: GameSettings = GAMES,
    estimators: dict[str, Estimator] = ON_GAMES,
    save: Callable[[dict], object] = lambda result: None,
) -> dict:
    """One game: learn, and compare at every checkpoint."""
    return follow(game_learner(seed, settings, estimators), compare_on_game, save)


def game_learner(
    seed: int, settings: GameSettings, estimators: dict[str, Estimator] = ON_GAMES
) -> Learner:
    torch.manual_seed(seed)
    game = MarkovGame.random(
        seed,
        settings.num_states,
        settings.num_agents,
        settings.num_actions,
        discount=settings.gamma,
        num_envs=settings.num_envs,
        horizon=settings.horizon,
    )
    return Learner(game, settings, estimators)


def follow(
    learner: Learner,
    compare: Callable[[Learner], dict],
    save: Callable[[dict], object] = lambda result: None,
) -> dict:
    """Learn to the end, and compare and save at every checkpoint."""
    started = time.perf_counter()
    result = {
        "settings": asdict(learner.settings),
        "machine": machine(),
        "finished": False,
        "seconds": 0.0,
        "points": [],
    }
    while learner.episodes < learner.settings.episodes:
        learner.play()
        if learner.episodes % learner.settings.checkpoint_every:
            continue
        with learner.own_stream():
            result["points"].append(compare(learner))
        result["seconds"] = round(time.perf_counter() - started, 1)
        result["finished"] = learner.episodes == learner.settings.episodes
        save(result)
    return result


def costs(learner: Learner, repeats: int = 9) -> dict[str, float]:
    """What a row adds to an update of MADDPG, in percent of it, forward and backward.

    Its training, ``estimator_updates`` steps on a fresh D_t, and its InfluenceLoss with
    the sampled optimum, as ALITA has them. Processor time in turns, median of the ratios.
    The learner goes on learning meanwhile.
    """
    ratios: dict[str, list[float]] = {name: [] for name in learner.estimators}
    batch = learner.replay.sample()
    losses = {
        name: influence_loss(learner, e, BestOf(uniform=4, spec=learner.algorithm.action_spec))
        for name, e in learner.estimators.items()
    }

    def update() -> None:
        learner.algorithm.update({"batch": learner.replay.sample()})

    def use(name: str, estimator: Estimator) -> None:
        if estimator.kind != "marginal":
            learner.sources[estimator[:2]].update()
        losses[name](batch)["loss_influence"].backward()

    for _ in range(repeats):
        whole = processor_time(update)
        for name, estimator in learner.estimators.items():
            work = processor_time(partial(use, name, estimator))
            ratios[name].append(100 * work / whole)
    return {name: round(median(values), 1) for name, values in ratios.items()}


def processor_time(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


# Part "spread": the truth is Monte Carlo.


def restart(env: EnvBase, observation: torch.Tensor) -> TensorDict:
    """Put cooperative navigation into the states that were observed, ``[B, N, 4N + 2]``.

    An agent observes its position, its velocity and its offsets to the landmarks; these
    are all there is to a state. Landmarks are where agent 0 sees them, up to the rounding
    of float32.

    Args:
        env: ``"vmas/spread"`` with as many environments and agents.
        observation: of all agents.

    Returns:
        What a policy reads, ``[B]``; step from it.
    """
    num_agents = observation.shape[-2]
    step = env.reset()
    offsets = observation[:, 0, 4 : 4 + 2 * num_agents].unflatten(-1, (num_agents, 2))
    for i, agent in enumerate(env.base_env.world.agents):
        agent.set_pos(observation[:, i, :2], batch_index=None)
        agent.set_vel(observation[:, i, 2:4], batch_index=None)
    for i, landmark in enumerate(env.base_env.world.landmarks):
        landmark.set_pos(observation[:, 0, :2] + offsets[:, i], batch_index=None)
    return step.set(OBSERVATION, observation)


@torch.no_grad()
def monte_carlo_values(
    env: EnvBase,
    observation: torch.Tensor,
    first_action: torch.Tensor,
    policy: Callable[[TensorDictBase], TensorDictBase],
    *,
    gamma: float,
    steps: int,
) -> torch.Tensor:
    """Discounted sum of rewards, ``[B, N, O], [B, N, A] -> [B, N, 1]``.

    The first joint action is given, the policies make all later ones. Nothing is
    bootstrapped. With deterministic policies and dynamics one episode for each state
    is the value, up to ``gamma ** steps`` of what comes after.

    Args:
        env: see :func:`restart`; with a horizon of at least ``steps``.
        observation: first observations.
        first_action: first joint actions.
        policy: writes the action.
        gamma: discount factor of a step.
        steps: of an episode.
    """
    step = restart(env, observation).set(ACTION, first_action)
    total, weight = 0.0, 1.0
    for _ in range(steps):
        step = env.step(step)["next"]
        total = total + weight * step[REWARD]
        weight *= gamma
        step = policy(step.select(OBSERVATION, DONE, TERMINATED, "truncated", "step_count"))
    return total


@torch.no_grad()
def compare_on_spread(learner: Learner, truth_env: EnvBase) -> dict:
    """Truth and estimates at this moment, on states of the replay buffer.

    The optimum, at the current state, is the best of the policies' joint action, of the
    stored one and of uniform ones: of the same candidates on both sides. Of all joint
    actions the true optimum is higher, which nobody knows here.
    """
    settings, actor = learner.settings, learner.algorithm.actor
    batch = learner.compared.sample()
    states = batch.select(OBSERVATION)
    action = actor(states.copy())[ACTION]
    spec = learner.algorithm.action_spec.space
    drawn = uniform_joint_actions(
        settings.num_optimum_samples, action, low=spec.low, high=spec.high
    )
    candidates = torch.cat([action.unsqueeze(0), batch[ACTION].unsqueeze(0), drawn])
    true = torch.stack(
        [
            monte_carlo_values(
                truth_env,
                states[OBSERVATION],
                one,
                actor,
                gamma=settings.gamma,
                steps=settings.truth_steps,
            )
            for one in candidates
        ]
    )
    expanded = states.expand(len(candidates), *states.batch_size)
    known = critic_of(learner.algorithm.maddpg)(expanded, candidates)
    return {
        "episodes": learner.episodes * settings.num_envs,
        "return": learner.last_return,
        "value": float(true[0].mean()),
        "estimators": {
            name: spread_errors(critic_of(learner.source(e))(states, action), true, known)
            for name, e in learner.estimators.items()
        },
    }


def spread_errors(value: torch.Tensor, true: torch.Tensor, known: torch.Tensor) -> dict:
    """An estimate beside the truth, ``[B, N, 1], [M, B, N, 1], [M, B, N, 1]``.

    Args:
        value: the estimated values at the policies' joint action.
        true: Monte Carlo values of the candidates; the first is the policies' action.
        known: the critics' values of the same candidates.

    Returns:
        ``estimate`` and ``truth``: F with the critics' optimum and with the true one, and
        ``relative_error``. ``value_relative_bias`` and ``value_relative_std`` of the
        values alone, in units of the mean true value; and ``same_optimum_relative_error``
        of F if the critics' optimum stands on both sides.
    """
    team = [i for i in range(value.shape[1]) if i != INFLUENCER]
    value, true, known = (each[..., team, :].double() for each in (value, true, known))

    def mean_square_gap(value: torch.Tensor, optimum: torch.Tensor) -> float:
        return float((value - optimum).square().mean())

    size = float(true[0].mean().abs())
    estimate = mean_square_gap(value, known.amax(0))
    truth = mean_square_gap(true[0], true.amax(0))
    return {
        "estimate": estimate,
        "truth": truth,
        "relative_error": estimate / truth - 1,
        "same_optimum_relative_error": estimate / mean_square_gap(true[0], known.amax(0)) - 1,
        "value_relative_bias": float((value - true[0]).mean()) / size,
        "value_relative_std": float((value - true[0]).std()) / size,
    }


def run_spread(
    seed: int,
    settings: SpreadSettings = SPREAD,
    save: Callable[[dict], object] = lambda result: None,
) -> dict:
    """Cooperative navigation: learn, and compare at every checkpoint."""
    learner = spread_learner(seed, settings)
    truth_env = make_env(
        "vmas/spread",
        num_envs=settings.compared,
        n_agents=settings.num_agents,
        horizon=settings.truth_steps + 1,
        seed=seed,
    )
    return follow(learner, lambda learner: compare_on_spread(learner, truth_env), save)


def spread_learner(seed: int, settings: SpreadSettings) -> Learner:
    torch.manual_seed(seed)
    env = make_env(
        "vmas/spread",
        num_envs=settings.num_envs,
        n_agents=settings.num_agents,
        horizon=settings.horizon,
        seed=seed,
    )
    return Learner(env, settings, ON_SPREAD)


# Runs, report, figure and page.


@dataclass
class Config:
    """Which runs to make."""

    parts: tuple[Literal["games", "spread", "spread_full"], ...] = ("games", "spread")
    """What to run; spread_full is as long as in the paper, and is reported in place of spread."""
    seeds: tuple[int, ...] | None = None
    """Default: eight, two of spread."""
    workers: int = 2
    """Runs side by side, each with one thread."""
    report_only: bool = False
    """Run nothing, report what is there."""
    quick: bool = False
    """Small games alone, nothing written, one line of JSON."""


SEEDS = {"games": tuple(range(8)), "spread": (0, 1), "spread_full": tuple(range(8))}
RUNS = {
    "games": run_game,
    "spread": run_spread,
    "spread_full": partial(run_spread, settings=SPREAD_FULL),
}


def make(part: str, seed: int) -> tuple[str, dict]:
    """The name of a run, and what it leaves."""
    torch.set_num_threads(1)
    name = f"{part}-seed{seed}"
    command = f"python benchmarks/influence_bias.py --parts {part} --seeds {seed}"

    def say(result: dict) -> None:
        print(f"{name}: {len(result['points'])}, {result['seconds']} s", flush=True)

    result = RUNS[part](seed, save=say)
    return name, {"part": part, "seed": seed, "command": command, **result}


def make_costs() -> tuple[str, dict]:
    """The costs on both environments, from one random episode each."""
    torch.set_num_threads(1)
    content: dict = {"machine": machine()}
    for part, build, settings in (
        ("games", game_learner, GAMES),
        ("spread", spread_learner, SPREAD),
    ):
        learner = build(0, replace(settings, episodes=1, warmup=1))
        learner.play()
        content[part] = costs(learner)
    return "costs", content


def load(part: str) -> list[dict]:
    """The committed runs of a part, by seed, each cut to the checkpoints that all have."""
    found = read_lines(RESULTS / RUNS_FILE).values()
    runs = sorted((run for run in found if run.get("part") == part), key=lambda run: run["seed"])
    common = min((len(run["points"]) for run in runs), default=0)
    return [{**run, "points": run["points"][:common]} for run in runs]


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Over runs; the standard deviation of a single one is 0."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def summarize_games(runs: list[dict]) -> dict[str, dict]:
    """Relative bias and its spread over the runs at the last checkpoint.

    ``relative_bias_learning`` is the mean over the runs and all earlier checkpoints, and
    ``estimator_size_learning`` the mean size there of what the estimator's own training
    adds; ``_next`` has the optimum at the next state, Eq. 7.
    """
    summary: dict[str, dict] = {}
    for name in runs[0]["points"][-1]["estimators"]:
        row = summary[name] = {}
        for place, suffix in (("current", ""), ("next", "_next")):
            rows = [[point["estimators"][name][place] for point in run["points"]] for run in runs]
            bias, std = mean_and_std([points[-1]["relative_error"] for points in rows])
            earlier = [point for points in rows for point in points[:-1]]
            row[f"relative_bias{suffix}"] = bias
            row[f"relative_std{suffix}"] = std
            if earlier:
                learning = mean(point["relative_error"] for point in earlier)
                row[f"relative_bias_learning{suffix}"] = learning
                size = mean(abs(point["estimator"]) for point in earlier)
                row[f"estimator_size_learning{suffix}"] = size
            last = [points[-1] for points in rows]
            row[f"parts{suffix}"] = {part: mean(p[part] for p in last) for part in PARTS}
            row[f"part_sizes{suffix}"] = {part: mean(abs(p[part]) for p in last) for part in PARTS}
    return summary


def summarize_spread(runs: list[dict]) -> dict[str, dict]:
    """Relative bias of F and of the values at the last checkpoint."""
    summary: dict[str, dict] = {}
    for name in runs[0]["points"][-1]["estimators"]:
        last = [run["points"][-1]["estimators"][name] for run in runs]
        bias, std = mean_and_std([point["relative_error"] for point in last])
        summary[name] = {
            "relative_bias": bias,
            "relative_std": std,
            "same_optimum_relative_bias": mean(p["same_optimum_relative_error"] for p in last),
            "value_relative_bias": mean(p["value_relative_bias"] for p in last),
            "value_relative_std": mean(p["value_relative_std"] for p in last),
        }
    return summary


SUMMARIES = {"games": summarize_games, "spread": summarize_spread}


def report() -> None:
    """Write the aggregate, the figure and the tables of the page."""
    found = {"games": load("games"), "spread": load("spread_full") or load("spread")}
    runs = {part: each for part, each in found.items() if each}
    if not runs:
        raise SystemExit("There is no result to report.")
    summary = {
        part: {
            "runs": len(each),
            "episodes": each[0]["points"][-1]["episodes"],
            "estimators": SUMMARIES[part](each),
        }
        for part, each in runs.items()
    }
    cost = read_lines(RESULTS / RUNS_FILE)["costs"]
    for part, each in summary.items():
        for name, percent_of_update in cost[part].items():
            each["estimators"][name]["cost_percent"] = percent_of_update
    draw(runs, summary)
    for name, text in tables(runs, summary).items():
        write_between(PAGE, f"influence bias, {name}", text)


def tables(runs: dict[str, list[dict]], summary: dict[str, dict]) -> dict[str, str]:
    """What stands between the markers of the page, by name."""
    result = {}
    if "games" in runs:
        rows = summary["games"]["estimators"]
        result["games"] = f"{games_table(rows)}\n\n{note('games', runs['games'])}"
        result["parts"] = parts_table(rows)
    if "spread" in runs:
        rows = summary["spread"]["estimators"]
        result["spread"] = f"{spread_table(rows)}\n\n{note('spread', runs['spread'])}"
    return result


def percent(value: float) -> str:
    return f"{100 * value:+.1f} %"


def games_table(rows: dict[str, dict]) -> str:
    titles = ("estimator", "bias, Eq. 4", "spread", "while learning", "bias, Eq. 7", "spread",
              "cost of an update")  # fmt: skip

    def cells(name: str, row: dict) -> list[str]:
        cost = f"{row['cost_percent']:.0f} %" if "cost_percent" in row else ""
        return [
            f"`{name}`",
            percent(row["relative_bias"]),
            f"{100 * row['relative_std']:.1f} %",
            percent(row["relative_bias_learning"]),
            percent(row["relative_bias_next"]),
            f"{100 * row['relative_std_next']:.1f} %",
            cost,
        ]

    return table(titles, [cells(*item) for item in rows.items()])


def parts_table(rows: dict[str, dict]) -> str:
    titles = ("estimator", "critics", "own training", "size while learning", "one draw",
              "off policy, Eq. 7 only")  # fmt: skip

    def cells(name: str, row: dict) -> list[str]:
        def cell(part: str, suffix: str = "") -> str:
            size = 100 * row[f"part_sizes{suffix}"][part]
            return f"{percent(row[f'parts{suffix}'][part])} ({size:.1f} %)"

        return [
            f"`{name}`",
            cell("critic"),
            cell("estimator"),
            f"{100 * row['estimator_size_learning']:.1f} %",
            cell("variance"),
            cell("off_policy", "_next"),
        ]

    return table(titles, [cells(*item) for item in rows.items()])


def spread_table(rows: dict[str, dict]) -> str:
    titles = ("estimator", "bias of the values", "spread of the values", "bias of F", "spread",
              "cost of an update")  # fmt: skip

    def cells(name: str, row: dict) -> list[str]:
        return [
            f"`{name}`",
            percent(row["value_relative_bias"]),
            f"{100 * row['value_relative_std']:.1f} %",
            percent(row["relative_bias"]),
            f"{100 * row['relative_std']:.1f} %",
            f"{row['cost_percent']:.0f} %",
        ]

    return table(titles, [cells(*item) for item in rows.items()])


def note(part: str, runs: list[dict]) -> str:
    """What was run, from the runs themselves."""
    settings, last = runs[0]["settings"], runs[0]["points"][-1]
    updates = (last["episodes"] // settings["num_envs"] - settings["warmup"]) * settings["horizon"]
    if part == "games":
        what = (
            f"{len(runs)} random games of {settings['num_states']} states, "
            f"{settings['num_agents']} agents and {settings['num_actions']} actions, "
            f"gamma {settings['gamma']}"
        )
    else:
        what = (
            f"{len(runs)} runs with N={settings['num_agents']}; each truth is of "
            f"{settings['compared']:,} states with {2 + settings['num_optimum_samples']} first "
            f"actions each, episodes of {settings['truth_steps']} steps, gamma {settings['gamma']}"
        )
    return (
        f"{what}; {last['episodes']:,} episodes of {settings['horizon']} steps and {updates:,} "
        f"updates of {settings['batch_size']:,} transitions. Made by "
        f"`python benchmarks/influence_bias.py`: {versions(runs[0]['machine'])}, one thread for each "
        f"run. Each run with its settings: benchmarks/results/influence_bias.jsonl."
    )


def draw(runs: dict[str, list[dict]], summary: dict[str, dict]) -> None:
    """Errors and their parts on the games; F, values and costs on spread."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7.6), layout="constrained")
    axes = figure.subplots(2, 3)
    if "games" in runs:
        draw_games(axes[0], runs["games"], summary["games"]["estimators"])
    if "spread" in runs:
        draw_spread(axes[1], runs["spread"], summary["spread"]["estimators"])
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
    figure.savefig(FIGURES / "influence_bias.png", dpi=110)


COLORS = {"marginal": "#4477aa", "clones": "#ee6677", "centralized": "#228833"}


def curve(axes: Axes, runs: list[dict], read: Callable[[dict], float], label: str, **style) -> None:
    """Mean over the runs, and one standard deviation to both sides."""
    episodes = [point["episodes"] for point in runs[0]["points"]]
    columns = zip(*([read(point) for point in run["points"]] for run in runs), strict=True)
    middle, std = map(list, zip(*map(mean_and_std, columns), strict=True))
    (line,) = axes.plot(episodes, middle, marker=".", label=label, **style)
    low = [m - s for m, s in zip(middle, std, strict=True)]
    high = [m + s for m, s in zip(middle, std, strict=True)]
    axes.fill_between(episodes, low, high, color=line.get_color(), alpha=0.06)
    axes.set_xlabel("episodes")


def draw_games(axes: Sequence[Axes], runs: list[dict], rows: dict[str, dict]) -> None:
    for place, title, panel in (
        ("current", "Eq. 4", axes[0]),
        ("next", "Eq. 7", axes[1]),
    ):
        for name in ON_GAMES:

            def read(point: dict, name: str = name, place: str = place) -> float:
                return 100 * point["estimators"][name][place]["relative_error"]

            style = {"all": "--", "uniform": ":"}.get(name.split("_")[-1], "-")
            curve(panel, runs, read, name, linestyle=style, color=COLORS[ON_GAMES[name].kind])
        panel.axhline(0, color="gray", linewidth=0.8)
        panel.set_title(f"random games, {title}: bias of F, % of the exact F")
    axes[0].legend(frameon=False, fontsize=7)
    left = [0.0] * len(rows)
    for part in PARTS[:3]:
        width = [100 * row["part_sizes"][part] for row in rows.values()]
        axes[2].barh(list(rows), width, left=left, label=part)
        left = [a + b for a, b in zip(left, width, strict=True)]
    axes[2].invert_yaxis()
    axes[2].set_title("mean size of its parts, Eq. 4, % of F")
    axes[2].legend(frameon=False, fontsize=7)


def draw_spread(axes: Sequence[Axes], runs: list[dict], rows: dict[str, dict]) -> None:
    for name in rows:
        for panel, key, factor in ((axes[0], "estimate", 1), (axes[1], "value_relative_bias", 100)):

            def read(point: dict, name: str = name, key: str = key, factor: int = factor) -> float:
                return factor * point["estimators"][name][key]

            curve(panel, runs, read, name, color=COLORS[name])
    first = next(iter(rows))
    truth = lambda point: point["estimators"][first]["truth"]  # noqa: E731
    curve(axes[0], runs, truth, "Monte Carlo truth", color="black", linestyle="--")
    axes[0].set_title("vmas/spread, N=6: F")
    axes[0].set_yscale("log")
    axes[0].legend(frameon=False, fontsize=7)
    axes[1].axhline(0, color="gray", linewidth=0.8)
    axes[1].set_title("bias of the influenced values, % of the true ones")
    axes[2].barh(list(rows), [row["cost_percent"] for row in rows.values()])
    axes[2].invert_yaxis()
    axes[2].set_title("cost of an update, % of MADDPG's")


def quick() -> None:
    """Two small games, one line of JSON on the standard output."""
    torch.set_num_threads(1)
    logger.setLevel("WARNING")  # it writes to the standard output
    started = time.perf_counter()
    learners = [game_learner(seed, QUICK, ON_QUICK_GAMES) for seed in (0, 1)]
    rows = summarize_games([follow(learner, compare_on_game) for learner in learners])
    for name, percent_of_update in costs(learners[0], repeats=3).items():
        rows[name]["cost_percent"] = percent_of_update
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"estimators": rows, "seconds": seconds, "machine": machine()}))


def main(config: Config) -> None:
    """Make what is missing, then report."""
    if config.quick:
        quick()
        return
    if not config.report_only:
        there = read_lines(RESULTS / RUNS_FILE)
        jobs = [
            partial(make, part, seed)
            for part in config.parts
            for seed in config.seeds or SEEDS[part]
            if f"{part}-seed{seed}" not in there
        ]
        jobs += [make_costs] * ("costs" not in there)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(config.workers, mp_context=context) as pool:
            for future in as_completed([pool.submit(job) for job in jobs]):
                set_line(RESULTS / RUNS_FILE, *future.result())
    report()


if __name__ == "__main__":
    main(tyro.cli(Config))
