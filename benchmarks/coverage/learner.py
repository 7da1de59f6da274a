"""The stacked learner, and ALITA's own update, in a game without payoff.

R repetitions, N agents with L actions, M = L**N joint actions in C order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch.nn.functional import one_hot
from torchrl.envs import ExplorationType, set_exploration_type
from torchrl.modules import MultiAgentMLP
from torchrl.objectives import RNDLoss

from benchmarks.coverage.methods import Method, Settings
from torchrl_alita import ALITA, Autoencoder, NoveltyLoss, NoveltyReward
from torchrl_alita.envs.games import MatrixGame
from torchrl_alita.functional import brier_distance, diversity_penalty
from torchrl_alita.modules.joint_qnetwork import joint_action_number
from torchrl_alita.objectives.joint_actions import enumerate_joint_actions


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
    """Policies after one step of the learner, ``[R, N, L]``, ``[R, N, M] -> [R, N, L]``."""
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
    """Psi that counts for each agent at each joint action, ``[R, K, E] -> [R, N, M]``.

    Of E inputs: L own actions of K agents, or, for the scope ``"joint"``, M joint ones, K = 1.
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
    """Bonus of each agent for each joint action, Eq. 10 and 11, ``-> [R, N, M]``."""
    if method.penalty is None:
        return psi
    table = probabilities.unsqueeze(-2).expand(*psi.shape, -1)
    taken = one_hot(actions.T, probabilities.shape[-1]).expand_as(table)
    distance = brier_distance(table, taken).squeeze(-1)
    penalty = method.penalty * diversity_penalty(distance, psi, omega)
    return torch.cat([psi[:, :1], penalty[:, 1:]], dim=1)


class Count:
    """Novelty (1 + visits)**-0.5, exact, of R * K learners for E inputs."""

    def __init__(self, method: Method, shape: tuple[int, int], num_inputs: int):
        self.visited_only = method.visited_only
        self.visits = torch.zeros(*shape, num_inputs)

    def learn(self, seen: torch.Tensor) -> None:
        """Count what each learner saw, ``[R, K]``."""
        self.visits.scatter_add_(-1, seen.unsqueeze(-1), torch.ones(*seen.shape, 1))

    def novelty(self) -> torch.Tensor:
        """Of every input, ``-> [R, K, E]``."""
        novelty = (1 + self.visits).rsqrt()
        return novelty * (self.visits > 0) if self.visited_only else novelty


class Networks:
    """Novelty by the package's autoencoder or TorchRL's RND, one for each of R * K learners.

    The stack of learners takes the place of the agents.
    """

    def __init__(
        self, method: Method, shape: tuple[int, int], features: torch.Tensor, settings: Settings
    ):
        self.shape, stack = shape, math.prod(shape)
        self.action = features.unsqueeze(1).expand(-1, stack, -1)
        make = {"autoencoder": autoencoders, "rnd": random_networks}[method.source]
        self.loss, self.error = make(stack, features.shape[-1], settings)
        parameters = [p for p in self.loss.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=settings.lr, fused=True)
        self.updates, self.batch_size = method.updates, settings.batch_size
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.seen: list[torch.Tensor] = []

    def learn(self, seen: torch.Tensor) -> None:
        """Train on what each learner saw, ``[R, K]``, and on replayed transitions."""
        self.seen.append(seen.flatten())
        memory = torch.stack(self.seen)
        for _ in range(self.updates):
            shape = (self.batch_size - 1, memory.shape[1])
            draws = torch.randint(len(memory), shape, generator=self.generator)
            inputs = torch.cat([memory[-1:], memory.gather(0, draws)]).unsqueeze(-1)
            batch = transitions(self.action.gather(0, inputs.expand(-1, -1, self.action.shape[-1])))
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


def autoencoders(stack: int, num_features: int, settings: Settings):
    autoencoder = Autoencoder(1 + num_features, num_influencers=stack, num_cells=settings.num_cells)
    reward = NoveltyReward(autoencoder, range(stack))
    loss = NoveltyLoss(autoencoder, range(stack), reduction="none")
    return loss, lambda batch: reward(batch)["next", "agents", "novelty"].squeeze(-1)


def random_networks(stack: int, num_features: int, settings: Settings):
    options = {"centralized": False, "share_params": False, "num_cells": [64, 64]}
    predictor, target = (MultiAgentMLP(num_features, 32, stack, **options) for _ in range(2))
    loss = RNDLoss(predictor, target, reduction="none", update_fraction=1.0)
    loss.set_keys(observation=("agents", "action"))

    def error(batch: TensorDict) -> torch.Tensor:
        of_all = loss(batch)["loss_predictor"]
        return of_all / of_all.mean(0)

    return loss, error


@dataclass
class Play:
    """What R repetitions did: joint actions ``[T, R]`` and the policies' entropies."""

    joint: torch.Tensor
    entropy: torch.Tensor | None = None
    """``[N]``, mean over steps and repetitions, as a share of ln L."""
    contrast: float | None = None
    """Psi of agent 0 at unvisited over that at visited joint actions, geometric mean."""


def num_steps(num_joint: int) -> int:
    """M ln M, rounded up."""
    return math.ceil(num_joint * math.log(num_joint))


def play_random(num_joint: int, repetitions: int, seed: int) -> Play:
    """Uniform play until every repetition has visited everything."""
    generator = torch.Generator().manual_seed(seed)
    missing = torch.ones(repetitions, num_joint, dtype=torch.bool)
    drawn = []
    while missing.any():
        drawn.append(torch.randint(num_joint, (repetitions,), generator=generator))
        missing.scatter_(1, drawn[-1].unsqueeze(1), False)
    return Play(torch.stack(drawn))


def play_stacked(method: Method, num_agents: int, num_actions: int, settings: Settings) -> Play:
    """The stacked learner for ``ceil(M ln M)`` steps."""
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    every = enumerate_joint_actions(num_agents, num_actions)
    actions = every.argmax(-1)
    joint_scope = method.scope == "joint"
    features = every.flatten(1) if joint_scope else torch.eye(num_actions)
    sizes = (settings.repetitions, num_agents if method.scope == "own" else 1)
    if method.source == "count":
        source = Count(method, sizes, len(features))
    else:
        source = Networks(method, sizes, features, settings)
    # Equal policies are a stationary point of Eq. 11.
    logits = 0.1 * torch.randn(sizes[0], num_agents, num_actions, generator=generator)
    visited = torch.zeros(sizes[0], len(actions), dtype=torch.bool)
    joint, entropies, contrasts = [], [], []
    for _ in range(num_steps(len(actions))):
        probabilities = logits.softmax(-1)
        own = probabilities.flatten(0, 1).multinomial(1, generator=generator)
        own = own.reshape(sizes[0], num_agents)
        joint.append(joint_action_number(one_hot(own, num_actions)))
        visited.scatter_(1, joint[-1], True)
        source.learn(joint[-1] if joint_scope else own[:, : sizes[1]])
        psi = by_joint_action(method, source.novelty(), actions)
        reward = rewards(method, psi, probabilities, actions, settings.omega)
        logits = improved(logits, reward, actions, method)
        entropies.append(torch.special.entr(probabilities).sum(-1).mean(0))
        if not visited.all():
            contrasts.append(contrast(psi[:, 0], visited))
    return Play(
        torch.stack(joint).squeeze(-1),
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


def play_networks(method: Method, num_agents: int, num_actions: int, settings: Settings) -> Play:
    """``ALITA.update`` after every step of a matrix game; repetitions one by one."""
    joint, entropies = [], []
    for repetition in range(settings.networks_repetitions):
        torch.manual_seed(settings.seed + repetition)
        game = MatrixGame(torch.zeros(num_agents, num_actions**num_agents), seed=repetition)
        chosen = ALITA.Settings(
            influencers="all" if method.scope == "own" else 0,
            influence_coeff=0.0,
            novelty_coeff=float(method.source != "none"),
            diversity_coeff=method.penalty or 0.0,
            omega=settings.omega,
            gamma=0.0,
            actor_lr=settings.actor_lr,
        )
        algorithm = ALITA(game, chosen)
        memory = []
        for _ in range(num_steps(num_actions**num_agents)):
            with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
                memory.append(game.step(algorithm.actor(game.reset())).squeeze(0))
            draws = [-1, *torch.randint(len(memory), (settings.batch_size - 1,)).tolist()]
            batch = torch.stack([memory[draw] for draw in draws])
            algorithm.update(dict.fromkeys(algorithm.replays(), batch))
        played = torch.stack(memory)
        joint.append(joint_action_number(played["agents", "action"]).squeeze(-1))
        probabilities = played["agents", "logits"].softmax(-1)
        entropies.append(torch.special.entr(probabilities).sum(-1).mean(0))
    entropy = torch.stack(entropies).mean(0) / math.log(num_actions)
    return Play(torch.stack(joint, dim=1), entropy)
