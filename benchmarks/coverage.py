"""Proposition 1, measured: joint actions visited against steps, by kind of bonus.

    python benchmarks/coverage.py                # run what is missing, then report
    python benchmarks/coverage.py --quick        # one JSON line in less than a minute
    python benchmarks/coverage.py --report-only  # report from the committed results

A matrix game of N agents with L actions has M = L**N joint actions and no payoff:
whoever learns there learns to explore. Proposition 1 of https://arxiv.org/abs/2108.12581
gives the mean steps of uniform random play to visit them all: M * H_M, above M ln M.
No team visits them in fewer than M steps.

The stacked learner. Each agent has a softmax policy of its own. After every step it
follows the entropy-regularized natural policy gradient of its expected bonus,

    logits_i <- (1 - rate * temperature) * logits_i + rate * A_i,
    A_i(k) = Q_i(k) - E_{pi_i} Q_i,    Q_i(k) = E_{a_-i ~ pi_-i} r_i(k, a_-i),

where the expectation runs over all joint actions: it is MADDPG's gradient with an exact
critic, so that what a row loses is lost by its bonus. All coefficients are
1: psi is counted in bits of the action, and RND, whose scale means nothing, in its mean
over the joint actions. The bonuses are the package's functions, the
autoencoder is its module (narrower than the paper's: the inputs are a few bits), RND is
TorchRL's loss on the joint action, and repetitions are stacked. Since the game's observation is always 1 and its payoff 0, this
learner counts joint actions and plays no environment. The rows "networks" are
``ALITA.update`` itself, on replayed transitions of a ``MatrixGame``: actors, sampled
actions, learned critics, the package's defaults but for the coefficients, which are 1.

Why Eq. 11 cannot help here: its expected value for action k of teammate i is
-c * (1 + |pi_i|**2 - 2 * pi_i(k)), where c, the mean of exp(-omega * psi), is the same for
all k as long as psi sees agent 0 alone. So it says nothing of what is new, pays for the
likeliest action, and makes that likelier still. "in turns" lets each agent answer the
policies that the agents before it have just taken: together they then move towards one
joint action, and not each towards a half of another. "sharp" is the same learner without
turns.

Each cell (method, L, N) leaves a line in results/coverage.jsonl; an existing one is not run
again. The report computes the finding from the cells, and writes
docs/figures/coverage.png and the part between the markers of docs/coverage.md.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import Literal

import torch
import tyro
from pages import FIGURES, RESULTS, ROOT, read_lines, set_line, table, versions, write_between
from tensordict import TensorDict
from torch.nn.functional import one_hot
from torchrl.envs import ExplorationType, set_exploration_type
from torchrl.modules import MultiAgentMLP
from torchrl.objectives import RNDLoss

from torchrl_alita import ALITA, Autoencoder, NoveltyLoss, NoveltyReward
from torchrl_alita.envs.games import MatrixGame
from torchrl_alita.functional import brier_distance, diversity_penalty
from torchrl_alita.saving import machine

CELLS = "coverage.jsonl"
PAGE = ROOT / "docs" / "coverage.md"


@dataclass(frozen=True)
class Method:
    """A row: who is paid for what, and how the policies follow."""

    title: str
    source: Literal["none", "count", "autoencoder", "rnd"] = "autoencoder"
    """What measures novelty; count is (1 + visits)**-0.5."""
    scope: Literal["own", "influencer", "joint"] = "joint"
    """Whose action it sees: each agent's own, agent 0's alone, or all agents'."""
    penalty: float | None = None
    """Factor of Eq. 11 for the agents but 0; -1 reverses it, None pays them novelty."""
    visited_only: bool = False
    """What was never visited is worth 0, as to a critic that starts at 0."""
    rate: float = 3.0
    """Of the policy gradient."""
    temperature: float = 0.1
    """Weight of the policies' entropy; rate * temperature is below 1."""
    in_turns: bool = False
    """Each agent follows the policies that the agents before it have just taken."""
    updates: int = 8
    """Of the networks at each step."""
    networks: bool = False
    """Learn by ``ALITA.update``."""
    max_agents: int = 5
    """Of the teams that the row is run for: ``ALITA.update`` cannot be stacked."""


SHARP = {"rate": 30.0, "temperature": 0.02}
TURNS = {**SHARP, "in_turns": True}
METHODS = {
    "random": Method("uniform random", "none"),
    "independent": Method("independent novelty", scope="own"),
    "rnd": Method("RND, joint action", "rnd"),
    "alita": Method("ALITA: novelty, diversity", scope="influencer", penalty=1.0),
    "alita_no_penalty": Method("novelty of agent 0 alone", scope="influencer", penalty=0.0),
    "alita_reversed": Method("ALITA, penalty reversed", scope="influencer", penalty=-1.0),
    "alita_turns": Method("ALITA, in turns", scope="influencer", penalty=1.0, **TURNS),
    "alita_joint": Method("ALITA, joint psi", penalty=1.0),
    "alita_joint_reversed": Method("ALITA, joint psi, penalty reversed", penalty=-1.0),
    "joint": Method("joint novelty"),
    "joint_one_update": Method("joint novelty, 1 update a step", updates=1),
    "joint_turns": Method("joint novelty, in turns", **TURNS),
    "rnd_turns": Method("RND, joint action, in turns", "rnd", **TURNS),
    "count": Method("joint count", "count"),
    "count_visited_only": Method("joint count, unvisited worth 0", "count", visited_only=True),
    "count_sharp": Method("joint count, sharp", "count", **SHARP),
    "count_turns": Method("joint count, in turns", "count", **TURNS),
    "independent_count": Method("independent count", "count", scope="own"),
    "alita_count": Method("ALITA, count", "count", scope="influencer", penalty=1.0),
    "alita_joint_count": Method("ALITA, joint count", "count", penalty=1.0),
    "nothing_networks": Method("no bonus, networks", "none", networks=True, max_agents=3),
    "alita_networks": Method(
        "ALITA, networks", scope="influencer", penalty=1.0, networks=True, updates=1, max_agents=3
    ),
    "independent_networks": Method(
        "independent novelty, networks", scope="own", networks=True, updates=1, max_agents=3
    ),
}
QUICK = {
    2: ("random", "independent", "rnd", "alita", "joint_turns", "alita_count", "count_turns"),
    3: ("random", "independent_count", "alita_count", "count_turns"),
    4: ("random", "alita_count", "count_turns"),
    5: ("random",),
}


@dataclass(frozen=True)
class Config:
    """What to run."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Rows."""
    num_actions: tuple[int, ...] = (3,)
    """L."""
    num_agents: tuple[int, ...] = (2, 3, 4, 5)
    """N."""
    repetitions: int = 20
    """Of each learner."""
    random_repetitions: int = 1000
    """Of random play."""
    omega: float = 5.0
    """Of Eq. 11; psi lies between 0 and about 1 here."""
    networks_repetitions: int = 10
    """Of ``ALITA.update``."""
    lr: float = 3e-3
    """Adam's step of the autoencoders and of RND."""
    num_cells: tuple[int, ...] = (64, 8, 64)
    """Of the stacked learner's autoencoder; ``ALITA.update`` has the paper's."""
    actor_lr: float = 3e-4
    """Adam's step of the actors, of the rows "networks"."""
    batch_size: int = 32
    """Transitions of an update, from all so far; the newest is one of them."""
    seed: int = 0
    """Of every cell."""
    quick: bool = False
    """Print one JSON line of a few small cells and write nothing."""
    report_only: bool = False
    """Run nothing, report what is there."""


# The exact values of random play and of two schedules.


def random_share(steps: int, num_joint: int) -> float:
    """Expected share of M joint actions that uniform play has visited.

    Each is missed by ``steps`` independent draws with probability
    ``(1 - 1 / M)**steps`` (the proof of Proposition 1,
    https://arxiv.org/abs/2108.12581).

    Examples:
        >>> random_share(2, 2)
        0.75
    """
    return 1 - (1 - 1 / num_joint) ** steps


def random_cover_steps(num_joint: int) -> float:
    """Expected steps of uniform play until all are visited, M * H_M, Eq. 14.

    Examples:
        >>> random_cover_steps(3)
        5.5
    """
    return num_joint * math.fsum(1 / k for k in range(1, num_joint + 1))


def balanced_share(steps: int, num_joint: int, num_actions: int) -> float:
    """Expected share when each agent plays its L actions in shuffled rounds.

    No agent can be more even in its own actions, and none knows of the others: what
    independent novelty can reach. A round of L steps visits L different joint actions.
    Exact at whole rounds.

    Examples:
        >>> balanced_share(4, num_joint=4, num_actions=2)
        0.75
    """
    return 1 - (1 - num_actions / num_joint) ** (steps / num_actions)


def interval(values: torch.Tensor, seed: int = 0, resamples: int = 10_000) -> list[float]:
    """95 % percentile bootstrap interval of the mean, ``[B] -> [low, high]``."""
    values = values.double()
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(10):  # In parts, for the memory.
        draws = torch.randint(len(values), (resamples // 10, len(values)), generator=generator)
        means.append(values[draws].mean(-1))
    return torch.cat(means).quantile(torch.tensor([0.025, 0.975]).double()).tolist()


# Joint actions, policies and their gradient. R repetitions, M = L**N joint actions.


def joint_actions(num_agents: int, num_actions: int) -> torch.Tensor:
    """All joint actions in C order, ``-> [M, N]``; agent 0 is the slowest index.

    Examples:
        >>> joint_actions(2, 2).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    return torch.cartesian_prod(*[torch.arange(num_actions)] * num_agents).reshape(-1, num_agents)


def expected_rewards(
    reward: torch.Tensor, probabilities: torch.Tensor, actions: torch.Tensor
) -> torch.Tensor:
    r"""Expected reward of each own action, ``[R, N, M], [R, N, L], [M, N] -> [R, N, L]``.

    .. math:: Q_i(k) = \sum_{a: a_i = k} r_i(a) \prod_{j \ne i} \pi_j(a_j)
    """
    num_agents = probabilities.shape[1]
    taken = actions.T.expand(len(probabilities), -1, -1)
    each = probabilities.gather(-1, taken)  # [R, N, M]
    own = torch.eye(num_agents, dtype=torch.bool).unsqueeze(-1)
    others = torch.where(own, 1.0, each.unsqueeze(1)).prod(2)
    return torch.zeros_like(probabilities).scatter_add_(-1, taken, reward * others)


def improved(
    logits: torch.Tensor, reward: torch.Tensor, actions: torch.Tensor, method: Method
) -> torch.Tensor:
    """Policies after one step of the stacked learner, ``[R, N, L] -> [R, N, L]``.

    Args:
        logits: ``[R, N, L]``.
        reward: ``[R, N, M]`` of each agent for each joint action.
        actions: ``[M, N]``, all joint actions.
        method: its rate, temperature and order.

    Returns:
        The new logits, with mean 0.
    """
    agents = torch.arange(logits.shape[1])
    for group in agents.split(1) if method.in_turns else [agents]:
        probabilities = logits.softmax(-1)
        value = expected_rewards(reward, probabilities, actions)
        advantage = value - (probabilities * value).sum(-1, keepdim=True)
        moved = (1 - method.rate * method.temperature) * logits + method.rate * advantage
        logits = logits.clone()
        logits[:, group] = moved[:, group]
    return logits - logits.mean(-1, keepdim=True)


def by_joint_action(method: Method, novelty: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Psi that counts for each agent at each joint action, ``-> [R, N, M]``.

    Args:
        method: its scope.
        novelty: ``[R, K, E]`` of E inputs: L own actions of K agents, or, for the scope
            ``"joint"``, M joint actions with K = 1.
        actions: ``[M, N]``, all joint actions.
    """
    shape = (len(novelty), actions.shape[1], len(actions))
    if method.scope == "joint":
        return novelty.expand(shape)
    seen = actions.T if method.scope == "own" else actions.T[:1]
    return novelty.gather(-1, seen.expand(len(novelty), -1, -1)).expand(shape)


def rewards(
    method: Method,
    psi: torch.Tensor,
    probabilities: torch.Tensor,
    actions: torch.Tensor,
    omega: float,
) -> torch.Tensor:
    """Bonus of each agent for each joint action, Eq. 10 and 11, ``-> [R, N, M]``.

    Args:
        method: who is paid for what.
        psi: ``[R, N, M]``.
        probabilities: ``[R, N, L]``, of the policies.
        actions: ``[M, N]``, all joint actions.
        omega: of Eq. 11.
    """
    if method.penalty is None:
        return psi
    table = probabilities.unsqueeze(-2).expand(*psi.shape, -1)
    taken = one_hot(actions.T, probabilities.shape[-1]).expand_as(table)
    distance = brier_distance(table, taken).squeeze(-1)
    penalty = method.penalty * diversity_penalty(distance, psi, omega)
    return torch.cat([psi[:, :1], penalty[:, 1:]], dim=1)


# What measures novelty: of R * K learners, for E inputs.


class Count:
    """Novelty (1 + visits)**-0.5, exact."""

    def __init__(self, method: Method, repetitions: int, learners: int, num_inputs: int):
        self.visited_only = method.visited_only
        self.visits = torch.zeros(repetitions, learners, num_inputs)

    def learn(self, seen: torch.Tensor) -> None:
        """Count what each learner saw, ``[R, K]``."""
        self.visits.scatter_add_(-1, seen.unsqueeze(-1), torch.ones(*seen.shape, 1))

    def novelty(self) -> torch.Tensor:
        """Of every input, ``-> [R, K, E]``."""
        novelty = (1 + self.visits).rsqrt()
        return novelty * (self.visits > 0) if self.visited_only else novelty


class Networks:
    """Novelty by the package's autoencoder or TorchRL's RND, one for each of R * K.

    The stack of learners takes the place of the agents.
    """

    def __init__(
        self,
        method: Method,
        repetitions: int,
        learners: int,
        features: torch.Tensor,
        config: Config,
    ):
        self.shape = (repetitions, learners)
        stack = repetitions * learners
        self.action = features.unsqueeze(1).expand(-1, stack, -1)
        make = {"autoencoder": autoencoders, "rnd": random_networks}[method.source]
        self.loss, self.error = make(stack, features.shape[-1], config)
        self.optimizer = torch.optim.Adam(
            [p for p in self.loss.parameters() if p.requires_grad], lr=config.lr, fused=True
        )
        self.updates, self.batch_size = method.updates, config.batch_size
        self.generator = torch.Generator().manual_seed(config.seed)
        self.seen: list[torch.Tensor] = []

    def batch(self, seen: torch.Tensor) -> TensorDict:
        """Transitions of inputs ``[B, R * K]``."""
        action = self.action.gather(0, seen.unsqueeze(-1).expand(-1, -1, self.action.shape[-1]))
        return transitions(action)

    def learn(self, seen: torch.Tensor) -> None:
        """Train on what each learner saw, ``[R, K]``, and on replayed transitions."""
        self.seen.append(seen.flatten())
        memory = torch.stack(self.seen)
        for _ in range(self.updates):
            shape = (self.batch_size - 1, memory.shape[1])
            draws = torch.randint(len(memory), shape, generator=self.generator)
            batch = self.batch(torch.cat([memory[-1:], memory.gather(0, draws)]))
            self.optimizer.zero_grad(set_to_none=True)
            # The sum over the stack: no learner's gradient depends on their number.
            sum(self.loss(batch).values()).reshape(len(batch), -1).sum(1).mean().backward()
            self.optimizer.step()

    @torch.no_grad()
    def novelty(self) -> torch.Tensor:
        """Of every input, ``-> [R, K, E]``."""
        return self.error(transitions(self.action)).T.reshape(*self.shape, -1)


def transitions(action: torch.Tensor) -> TensorDict:
    """A batch of the one state, whose observation is 1, ``[B, R * K, A]``."""
    observation = torch.ones_like(action[..., :1])
    return TensorDict({"agents": {"observation": observation, "action": action}}, [len(action)])


def autoencoders(stack: int, num_features: int, config: Config):
    autoencoder = Autoencoder(1 + num_features, num_influencers=stack, num_cells=config.num_cells)
    reward = NoveltyReward(autoencoder, range(stack))
    loss = NoveltyLoss(autoencoder, range(stack), reduction="none")
    return loss, lambda batch: reward(batch)["next", "agents", "novelty"].squeeze(-1)


def random_networks(stack: int, num_features: int, config: Config):
    predictor, target = (
        MultiAgentMLP(
            num_features, 32, stack, centralized=False, share_params=False, num_cells=[64, 64]
        )
        for _ in range(2)
    )
    loss = RNDLoss(predictor, target, reduction="none", update_fraction=1.0)
    loss.set_keys(observation=("agents", "action"))

    def error(batch: TensorDict) -> torch.Tensor:
        of_all = loss(batch)["loss_predictor"]
        return of_all / of_all.mean(0)

    return loss, error


# Play.


@dataclass
class Play:
    """What R repetitions did: joint actions ``[T, R]`` and the policies' entropies."""

    joint: torch.Tensor
    entropy: torch.Tensor | None = None
    """``[N]``, mean over steps and repetitions, as a share of ln L."""
    contrast: float | None = None
    """Psi of agent 0 at unvisited over that at visited joint actions, geometric mean."""


def play_random(num_joint: int, repetitions: int, seed: int) -> Play:
    """Uniform play until every repetition has visited everything."""
    generator = torch.Generator().manual_seed(seed)
    missing = torch.ones(repetitions, num_joint, dtype=torch.bool)
    drawn = []
    while missing.any():
        drawn.append(torch.randint(num_joint, (repetitions,), generator=generator))
        missing.scatter_(1, drawn[-1].unsqueeze(1), False)
    return Play(torch.stack(drawn))


def play_stacked(method: Method, num_agents: int, num_actions: int, config: Config) -> Play:
    """The stacked learner for ``ceil(M ln M)`` steps."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    actions = joint_actions(num_agents, num_actions)
    joint_scope = method.scope == "joint"
    features = one_hot(actions, num_actions).float().flatten(1)
    if not joint_scope:
        features = torch.eye(num_actions)
    sizes = (config.repetitions, num_agents if method.scope == "own" else 1)
    if method.source == "count":
        source = Count(method, *sizes, len(features))
    else:
        source = Networks(method, *sizes, features, config)
    # Equal policies are a stationary point of Eq. 11.
    logits = 0.1 * torch.randn(sizes[0], num_agents, num_actions, generator=generator)
    place = num_actions ** torch.arange(num_agents - 1, -1, -1)
    visited = torch.zeros(sizes[0], len(actions), dtype=torch.bool)
    joint, entropies, contrasts = [], [], []
    for _ in range(num_steps(len(actions))):
        probabilities = logits.softmax(-1)
        own = probabilities.flatten(0, 1).multinomial(1, generator=generator)
        own = own.reshape(sizes[0], num_agents)
        joint.append((own * place).sum(-1))
        visited.scatter_(1, joint[-1].unsqueeze(1), True)
        source.learn(joint[-1].unsqueeze(1) if joint_scope else own[:, : sizes[1]])
        psi = by_joint_action(method, source.novelty(), actions)
        reward = rewards(method, psi, probabilities, actions, config.omega)
        logits = improved(logits, reward, actions, method)
        entropies.append(torch.special.entr(probabilities).sum(-1).mean(0))
        if not visited.all():
            contrasts.append(contrast(psi[:, 0], visited))
    return Play(
        torch.stack(joint),
        torch.stack(entropies).mean(0) / math.log(num_actions),
        None if method.visited_only else torch.stack(contrasts).mean().exp().item(),
    )


def contrast(novelty: torch.Tensor, visited: torch.Tensor) -> torch.Tensor:
    """Log ratio of the mean novelty of what is not visited to that of what is, ``[R, M]``."""
    unfinished = ~visited.all(1)
    novelty, visited = novelty[unfinished], visited[unfinished].float()

    def mean_of(weight: torch.Tensor) -> torch.Tensor:
        return ((novelty * weight).sum(1) / weight.sum(1)).clamp_min(1e-12)

    return (mean_of(1 - visited) / mean_of(visited)).log().mean()


def play_networks(method: Method, num_agents: int, num_actions: int, config: Config) -> Play:
    """``ALITA.update`` after every step of a matrix game; repetitions one by one."""
    joint, entropies = [], []
    place = num_actions ** torch.arange(num_agents - 1, -1, -1)
    for repetition in range(config.networks_repetitions):
        torch.manual_seed(config.seed + repetition)
        game = MatrixGame(torch.zeros(num_agents, num_actions**num_agents), seed=repetition)
        algorithm = ALITA(
            game,
            ALITA.Settings(
                influencers="all" if method.scope == "own" else 0,
                influence_coeff=0.0,
                novelty_coeff=float(method.source != "none"),
                diversity_coeff=method.penalty or 0.0,
                omega=config.omega,
                gamma=0.0,
                actor_lr=config.actor_lr,
            ),
        )
        memory = []
        for _ in range(num_steps(num_actions**num_agents)):
            with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
                memory.append(game.step(algorithm.actor(game.reset())).squeeze(0))
            draws = [-1, *torch.randint(len(memory), (config.batch_size - 1,)).tolist()]
            batch = torch.stack([memory[draw] for draw in draws])
            algorithm.update(dict.fromkeys(algorithm.replays(), batch))
        played = torch.stack(memory)
        joint.append((played["agents", "action"].argmax(-1) * place).sum(-1))
        probabilities = played["agents", "logits"].softmax(-1)
        entropies.append(torch.special.entr(probabilities).sum(-1).mean(0))
    entropy = torch.stack(entropies).mean(0) / math.log(num_actions)
    return Play(torch.stack(joint, dim=1), entropy)


def num_steps(num_joint: int) -> int:
    """M ln M, rounded up.

    Examples:
        >>> num_steps(9)
        20
    """
    return math.ceil(num_joint * math.log(num_joint))


# Cells.


def covered(joint: torch.Tensor, num_joint: int) -> torch.Tensor:
    """Share of M joint actions visited after each step, ``[T, R] -> [T, R]``.

    Examples:
        >>> covered(torch.tensor([[0], [0], [3]]), 4).T
        tensor([[0.2500, 0.2500, 0.5000]])
    """
    first = torch.full((num_joint, joint.shape[1]), len(joint))
    times = torch.arange(len(joint)).unsqueeze(1).expand_as(joint)
    first.scatter_reduce_(0, joint, times, "amin")
    found = torch.zeros(len(joint) + 1, joint.shape[1])
    found.scatter_add_(0, first, torch.ones(first.shape))
    return found[:-1].cumsum(0) / num_joint


def actions_beside(joint: torch.Tensor, num_joint: int, num_actions: int) -> torch.Tensor:
    """Teammates' joint actions seen beside one action of agent 0, ``[T, R] -> [R]``.

    A share of the L**(N-1) there are, in the first M steps, as a mean over the actions
    that agent 0 took.

    Examples:
        >>> actions_beside(torch.tensor([[0], [1], [0], [0]]), 4, 2)
        tensor([1.])
    """
    seen = torch.zeros(joint.shape[1], num_joint).scatter_(1, joint[:num_joint].T, 1.0)
    by_first = seen.reshape(len(seen), num_actions, -1)
    taken = by_first.amax(-1)
    return by_first.mean(-1).sum(-1) / taken.sum(-1)


def repeats(joint: torch.Tensor, num_joint: int) -> torch.Tensor:
    """Share of the first M steps that repeat the joint action before, ``[T, R] -> [R]``.

    Examples:
        >>> repeats(torch.tensor([[2], [2], [1], [1], [1]]), 4)
        tensor([0.6667])
    """
    first = joint[:num_joint]
    return (first[1:] == first[:-1]).float().mean(0)


def cell(name: str, num_agents: int, num_actions: int, config: Config) -> dict:
    """One method in one game: its shares, their curve, and what its policies did."""
    method, num_joint = METHODS[name], num_actions**num_agents
    start = time.perf_counter()
    if name == "random":
        play = play_random(num_joint, config.random_repetitions, config.seed)
    else:
        learner = play_networks if method.networks else play_stacked
        play = learner(method, num_agents, num_actions, config)
    shares, steps = covered(play.joint, num_joint), num_steps(num_joint)
    full = (shares < 1 - 1e-6).sum(0) + 1
    reached = full <= len(shares)
    grid = torch.linspace(1, steps, 61).round().long().unique()
    return {
        "method": name,
        "num_agents": num_agents,
        "num_actions": num_actions,
        "settings": asdict(method),
        "share_at_m": rounded(shares[num_joint - 1]),
        "share_at_m_ln_m": rounded(shares[steps - 1]),
        "full_cover_steps": [
            value if done else None
            for value, done in zip(full.tolist(), reached.tolist(), strict=True)
        ],
        "curve": {"steps": grid.tolist(), "share": rounded(shares[grid - 1].mean(1))},
        "beside_an_action_of_agent_0": rounded(actions_beside(play.joint, num_joint, num_actions)),
        "repeats": rounded(repeats(play.joint, num_joint)),
        "entropy": None if play.entropy is None else rounded(play.entropy),
        "contrast": play.contrast,
        "seconds": round(time.perf_counter() - start, 1),
    }


def rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


def cell_name(name: str, num_agents: int, num_actions: int) -> str:
    return f"{name}-l{num_actions}-n{num_agents}"


def run(name: str, num_agents: int, num_actions: int, config: Config) -> None:
    """One cell, unless its result is there."""
    key = cell_name(name, num_agents, num_actions)
    if key in read_lines(RESULTS / CELLS):
        return
    content = cell(name, num_agents, num_actions, config)
    content |= {
        "config": settings(config),
        "command": f"python benchmarks/coverage.py --methods {name} "
        f"--num-actions {num_actions} --num-agents {num_agents}{options(config)}",
        "machine": machine(),
    }
    set_line(RESULTS / CELLS, key, content)
    print(f"{key}: {summary(content)}", flush=True)


def settings(config: Config) -> dict:
    """What shapes a cell, but for its method and its game."""
    chosen = ("methods", "num_actions", "num_agents", "quick", "report_only")
    return {key: value for key, value in asdict(config).items() if key not in chosen}


def options(config: Config) -> str:
    """Settings that are no defaults, for the command line."""
    usual = settings(Config())
    return "".join(
        f" --{key.replace('_', '-')} {value}"
        for key, value in settings(config).items()
        if value != usual[key]
    )


def summary(raw: dict) -> dict:
    """Means and 95 % intervals of a cell, and what its policies did.

    ``contrast`` is psi of unvisited over that of visited joint actions, ``entropy`` a share
    of ln L, and the steps to full cover have a mean only if every repetition got there.
    """
    result = {"repetitions": len(raw["share_at_m"])}
    for key in ("share_at_m", "share_at_m_ln_m"):
        result[key] = with_interval(raw[key])
    for key in ("beside_an_action_of_agent_0", "repeats"):
        result[key] = mean(raw[key])
    if raw["entropy"] is not None:
        result["agent_0_entropy"] = raw["entropy"][0]
        result["teammates_entropy"] = mean(raw["entropy"][1:])
    result["contrast"] = raw["contrast"]
    full = [steps for steps in raw["full_cover_steps"] if steps is not None]
    result["fully_covered"] = len(full) / len(raw["full_cover_steps"])
    if result["fully_covered"] == 1:
        result["full_cover_steps"] = with_interval(full)
    return result


def with_interval(values: list[float]) -> dict:
    return {"mean": mean(values), "interval": interval(torch.tensor(values))}


def exact(num_agents: int, num_actions: int) -> dict:
    """What needs no measurement: random play and two schedules."""
    num_joint = num_actions**num_agents
    at = {"share_at_m": num_joint, "share_at_m_ln_m": num_steps(num_joint)}
    return {
        "steps": at,
        "random": {
            **{key: random_share(steps, num_joint) for key, steps in at.items()},
            "full_cover_steps": random_cover_steps(num_joint),
        },
        "balanced_independent": {
            key: balanced_share(steps, num_joint, num_actions) for key, steps in at.items()
        },
        "schedule": {"share_at_m": 1.0, "share_at_m_ln_m": 1.0, "full_cover_steps": num_joint},
    }


def quick(config: Config) -> dict:
    """A few cells, in memory: learners with networks play with two agents alone."""
    config = replace(config, repetitions=8)
    games = {}
    for num_agents, names in QUICK.items():
        cells = {name: summary(cell(name, num_agents, 3, config)) for name in names}
        game = {"exact": exact(num_agents, 3), "methods": cells}
        games[f"n{num_agents}"] = {**game, "random_agrees_with_m_h_m": agrees(game)}
    return {"num_actions": 3, **games}


# The report. A game is what ``exact`` says beside the summaries of its methods.


def agrees(game: dict) -> bool:
    """Whether M * H_M lies in the measured interval of random play."""
    low, high = game["methods"]["random"]["full_cover_steps"]["interval"]
    return low <= game["exact"]["random"]["full_cover_steps"] <= high


def against_random(game: dict, name: str, key: str = "share_at_m_ln_m") -> str:
    """A method's interval held against the exact share of random play."""
    low, high = game["methods"][name][key]["interval"]
    expected = game["exact"]["random"][key]
    return "above" if low > expected else "below" if high < expected else "no difference"


def never_above(name: str):
    """Above random play neither after M nor after M ln M steps."""
    return lambda game: all(
        against_random(game, name, key) != "above" for key in ("share_at_m", "share_at_m_ln_m")
    )


def always_above(name: str):
    """Above random play both after M and after M ln M steps."""
    return lambda game: all(
        against_random(game, name, key) == "above" for key in ("share_at_m", "share_at_m_ln_m")
    )


def covers_less(name: str, other: str):
    """Whether the interval of one method lies below that of another, after M ln M steps."""

    def holds(game: dict) -> bool:
        first, second = (game["methods"][which]["share_at_m_ln_m"] for which in (name, other))
        return first["interval"][1] < second["interval"][0]

    return holds


def smaller(key: str, name: str, other: str):
    """Whether a mean of one method lies below that of another."""
    return lambda game: game["methods"][name][key] < game["methods"][other][key]


CLAIMS = [
    ("Random play needs M * H_M steps", agrees, ["random"]),
    ("ALITA's novelty with diversity does not beat random play", never_above("alita"), ["alita"]),
    (
        "ALITA.update with the same bonus does not beat random play",
        never_above("alita_networks"),
        ["alita_networks"],
    ),
    (
        "ALITA.update without any bonus does not either, so that it shows no cause",
        never_above("nothing_networks"),
        ["nothing_networks"],
    ),
    (
        "ALITA with exact counts for psi does not beat random play",
        never_above("alita_count"),
        ["alita_count"],
    ),
    (
        "Cause 1: its psi tells new joint actions from old ones less than a joint psi does",
        smaller("contrast", "alita", "joint"),
        ["alita", "joint"],
    ),
    (
        "Cause 2: its penalty makes the teammates predictable",
        smaller("teammates_entropy", "alita", "alita_no_penalty"),
        ["alita", "alita_no_penalty"],
    ),
    (
        "Without the penalty the team covers more than with it",
        covers_less("alita", "alita_no_penalty"),
        ["alita", "alita_no_penalty"],
    ),
    (
        "The penalty reversed does not beat random play",
        never_above("alita_reversed"),
        ["alita_reversed"],
    ),
    (
        "A joint psi in Eq. 11 does not beat random play",
        never_above("alita_joint"),
        ["alita_joint"],
    ),
    (
        "A joint psi with the penalty reversed does not beat random play",
        never_above("alita_joint_reversed"),
        ["alita_joint_reversed"],
    ),
    (
        "A joint count for psi in Eq. 11 does not beat random play",
        never_above("alita_joint_count"),
        ["alita_joint_count"],
    ),
    ("ALITA in turns does not beat random play", never_above("alita_turns"), ["alita_turns"]),
    ("Independent novelty does not beat random play", never_above("independent"), ["independent"]),
    (
        "Joint novelty paid to all agents, in turns, beats random play",
        always_above("joint_turns"),
        ["joint_turns"],
    ),
    (
        "RND of the joint action, in turns, beats random play",
        always_above("rnd_turns"),
        ["rnd_turns"],
    ),
    ("The joint count, in turns, beats random play", always_above("count_turns"), ["count_turns"]),
    (
        "The joint count covers less if all agents move at once, by the same learner",
        covers_less("count_sharp", "count_turns"),
        ["count_sharp", "count_turns"],
    ),
    (
        "Joint novelty covers less with 1 update of its autoencoder a step than with 8",
        covers_less("joint_one_update", "joint"),
        ["joint_one_update", "joint"],
    ),
    (
        "A joint count that values what was never visited at 0 does not beat random play",
        never_above("count_visited_only"),
        ["count_visited_only"],
    ),
]
"""What a claim says, whether it holds in a game, and the methods whose numbers show it.

To beat random play is to lie above it with the whole interval, after M and after M ln M
steps; a claim that a method does not is refuted by either.
"""


SHOWN = ("share_at_m", "share_at_m_ln_m", "full_cover_steps", "contrast", "teammates_entropy")


def finding(games: dict[str, dict]) -> list[dict]:
    """Each claim, the games in which it holds, those in which it fails, and the numbers.

    A game that lacks one of the methods says nothing.
    """
    result = []
    for text, holds, names in CLAIMS:
        able = {key: game for key, game in games.items() if set(names) <= set(game["methods"])}
        true = [key for key, game in able.items() if holds(game)]
        result.append(
            {
                "claim": text,
                "holds": true,
                "fails": [key for key in able if key not in true],
                "numbers": {
                    key: {name: shown(game["methods"][name]) for name in names}
                    for key, game in able.items()
                },
            }
        )
    return result


def shown(found: dict) -> dict:
    """The means that speak for or against a claim, to three digits."""
    means = {key: found.get(key) for key in SHOWN}
    return {
        key: round(value["mean"] if isinstance(value, dict) else value, 3)
        for key, value in means.items()
        if value is not None
    }


def read_games(config: Config) -> tuple[dict[str, dict], dict[str, dict]]:
    """Games with their summaries, and the raw cells, by the games' names."""
    games, raw = {}, {}
    lines = read_lines(RESULTS / CELLS)
    for num_actions in config.num_actions:
        for num_agents in config.num_agents:
            keys = {name: cell_name(name, num_agents, num_actions) for name in METHODS}
            cells = {name: lines[key] for name, key in keys.items() if key in lines}
            if cells:
                key = f"L={num_actions}, n={num_agents}"
                raw[key] = cells
                methods = {name: summary(content) for name, content in cells.items()}
                games[key] = {"exact": exact(num_agents, num_actions), "methods": methods}
    return games, raw


def common(configs: Iterable[dict]) -> dict:
    """What all cells were run with; each cell's file has the rest."""
    first, *others = configs
    return {
        key: value
        for key, value in first.items()
        if all(other.get(key) == value for other in others)
    }


def report(config: Config) -> None:
    """Write the page and coverage.png from the cells that are there, print a table."""
    games, raw = read_games(config)
    if not games:
        raise ValueError(f"There is no cell in {RESULTS / CELLS}.")
    first = next(iter(next(iter(raw.values())).values()))
    content = {
        "command": "python benchmarks/coverage.py",
        "machine": first["machine"],
        "config": common(cell["config"] for cells in raw.values() for cell in cells.values()),
        "interval": "95 %, percentile bootstrap of the mean over repetitions, 10,000 resamples",
        "finding": finding(games),
        "games": games,
    }
    draw(raw)
    page = "\n\n".join([page_table(games), page_findings(content["finding"])])
    write_between(PAGE, "coverage", page + "\n\n" + page_note(content))
    for key, game in games.items():
        print(f"\n{key}: share after M and after M ln M steps [95 %], steps to cover all")
        line = "{:38} {:>22} {:>22} {:>18}".format
        known = game["exact"]["random"]
        shares = [f"{known[k]:.3f}" for k in ("share_at_m", "share_at_m_ln_m")]
        print(line("random, exact", *shares, f"{known['full_cover_steps']:.1f}"))
        for name, found in game["methods"].items():
            cover = found.get("full_cover_steps")
            cover = f"{cover['mean']:.1f}" if cover else f"{found['fully_covered']:.0%} did"
            shares = [
                f"{found[k]['mean']:.3f} [{found[k]['interval'][0]:.3f}, {found[k]['interval'][1]:.3f}]"
                for k in ("share_at_m", "share_at_m_ln_m")
            ]
            print(line(METHODS[name].title, *shares, cover))
    for claim in content["finding"]:
        held, failed = (" | ".join(claim[key]) or "none" for key in ("holds", "fails"))
        print(f"{claim['claim']}. Holds in {held}; fails in {failed}.")


def page_table(games: dict[str, dict]) -> str:
    """Share covered after M ln M steps with its interval, a column for each game."""
    names = [name for name in METHODS if any(name in game["methods"] for game in games.values())]
    exact_row = [f"{game['exact']['random']['share_at_m_ln_m']:.3f}" for game in games.values()]
    rows = [["random, exact", *exact_row]]
    for name in names:
        cells = []
        for game in games.values():
            found = game["methods"].get(name)
            share = found and found["share_at_m_ln_m"]
            ends = share and " to ".join(f"{end:.3f}" for end in share["interval"])
            cells.append(f"{share['mean']:.3f} [{ends}]" if share else "")
        rows.append([METHODS[name].title, *cells])
    return table(["joint actions covered after M ln M steps", *games], rows)


def page_findings(found: list[dict]) -> str:
    """What is claimed, and where it holds and fails."""
    lines = []
    for claim in found:
        failed = f"; not at {' or '.join(claim['fails'])}" if claim["fails"] else ""
        lines.append(f"- {claim['claim']}: at {', '.join(claim['holds']) or 'none'}{failed}.")
    return "\n".join(lines)


def page_note(content: dict) -> str:
    """How the table was made."""
    return (
        f"Interval: {content['interval']}. Made by `{content['command']}`: "
        f"{versions(content['machine'])}. Numbers of both marks, entropies and steps to full "
        f"cover, of each cell: benchmarks/results/coverage.jsonl."
    )


DRAWN = (
    "independent", "rnd", "alita", "alita_networks", "alita_reversed", "joint", "joint_turns",
    "count_turns",
)  # fmt: skip


def draw(raw: dict[str, dict]) -> None:
    """Covered share against steps / M in each game, beside random play's exact curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(raw), 3.8), layout="constrained")
    for axes, (key, cells) in zip(
        figure.subplots(1, len(raw), squeeze=False)[0], raw.items(), strict=True
    ):
        sizes = next(iter(cells.values()))
        num_joint = sizes["num_actions"] ** sizes["num_agents"]
        steps = list(range(1, num_steps(num_joint) + 1))
        scaled = [step / num_joint for step in steps]
        exact_curve = [random_share(step, num_joint) for step in steps]
        axes.plot(scaled, exact_curve, "--", color="black", label="random, exact")
        schedule = [min(1, step) for step in scaled]
        axes.plot(scaled, schedule, ":", color="black", label="schedule, the limit")
        for index, name in enumerate(DRAWN):
            if name in cells:
                curve = cells[name]["curve"]
                steps_drawn = [step / num_joint for step in curve["steps"]]
                title = METHODS[name].title
                axes.plot(steps_drawn, curve["share"], color=f"C{index}", label=title)
        axes.set_title(f"{key}, M={num_joint}")
        axes.set_xlabel("steps / M")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("share of joint actions visited")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(FIGURES / "coverage.png", dpi=110)


def main(config: Config) -> None:
    """Run what is missing, then report; or print the quick line."""
    torch.set_num_threads(1)
    if config.quick:
        print(json.dumps(quick(config)))
        return
    if not config.report_only:
        for num_actions in config.num_actions:
            for num_agents in config.num_agents:
                for name in config.methods:
                    if num_agents <= METHODS[name].max_agents:
                        run(name, num_agents, num_actions, config)
    report(config)


if __name__ == "__main__":
    main(tyro.cli(Config))
