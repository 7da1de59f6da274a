"""Small environments and batches whose sizes are distinct primes.

A silent broadcast between two of them fails.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import nn
from torch.distributions import Normal
from torchrl.data import Bounded, Categorical, Composite, OneHot, Unbounded
from torchrl.envs import EnvBase

from torchrl_alita.algorithms import Learner, get_algorithm
from torchrl_alita.modules import GumbelOneHot
from torchrl_alita.training import Config, TrainingSettings

B, N, O, A = 7, 3, 5, 2  # noqa: E741
# Steps of a sequence, features of the state, width of a memory, values of a latent variable.
T, S, H, Z = 13, 17, 11, 19


class TargetEnv(EnvBase):
    """Each agent is paid for acting as its observation says: -||a_i - s_i[:A]||^2.

    The best return is 0. Every step is an episode of its own, truncated after
    ``horizon`` steps, or terminated there.
    """

    def __init__(
        self,
        *,
        num_envs: int = B,
        n_agents: int = N,
        device: str = "cpu",
        seed: int | None = None,
        horizon: int = 4,
        discrete: bool = False,
        has_state: bool = False,
        terminates: bool = False,
        poison_after: int | None = None,
    ):
        super().__init__(device=device, batch_size=[num_envs])
        self.n_agents = n_agents
        self.horizon = horizon
        self.terminates = terminates
        self.poison_after = poison_after
        self.total_steps = 0
        lead = (num_envs, n_agents)
        action = (
            OneHot(A, shape=(*lead, A), device=device, dtype=torch.float32)
            if discrete
            else Bounded(-1, 1, shape=(*lead, A), device=device)
        )
        self.observation_spec = Composite(
            agents=Composite(observation=Unbounded((*lead, O)), shape=lead), shape=(num_envs,)
        )
        self.has_state = has_state
        if has_state:
            self.observation_spec["state"] = Unbounded((num_envs, S))
        self.action_spec = Composite(agents=Composite(action=action, shape=lead), shape=(num_envs,))
        self.reward_spec = Composite(
            agents=Composite(reward=Unbounded((*lead, 1)), shape=lead), shape=(num_envs,)
        )
        flag = Categorical(2, shape=(num_envs, 1), dtype=torch.bool)
        self.done_spec = Composite(
            done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=(num_envs,)
        )
        self.generator = torch.Generator(device).manual_seed(0 if seed is None else seed)
        self.steps = torch.zeros(num_envs, 1, dtype=torch.long)

    def _set_seed(self, seed: int | None) -> None:
        self.generator.manual_seed(seed or 0)

    def _draw(self) -> torch.Tensor:
        shape = (*self.batch_size, self.n_agents, O)
        return torch.rand(shape, generator=self.generator) * 1.6 - 0.8

    def _flags(self, ended: torch.Tensor) -> dict[str, torch.Tensor]:
        none = torch.zeros_like(ended)
        return {
            "done": ended,
            "terminated": ended if self.terminates else none,
            "truncated": none if self.terminates else ended,
        }

    def _reset(self, tensordict: TensorDict | None = None) -> TensorDict:
        reset = None if tensordict is None else tensordict.get("_reset", None)
        reset = torch.ones_like(self.steps, dtype=torch.bool) if reset is None else reset
        self.steps = torch.where(reset, 0, self.steps)
        self.observation = self._draw()
        return self._transition(torch.zeros_like(reset), observation=self.observation)

    def _transition(self, ended: torch.Tensor, **agents: torch.Tensor) -> TensorDict:
        lead = (*self.batch_size, self.n_agents)
        entries = {"agents": TensorDict(agents, lead)} | self._flags(ended)
        if self.has_state:
            seen = self.observation.flatten(1)
            entries["state"] = torch.cat([seen, seen[:, : S - seen.shape[1]]], 1)
        return TensorDict(entries, self.batch_size)

    def _step(self, tensordict: TensorDict) -> TensorDict:
        action = tensordict["agents", "action"]
        reward = -(action - self.observation[..., :A]).square().sum(-1, keepdim=True)
        self.total_steps += 1
        if self.poison_after is not None and self.total_steps > self.poison_after:
            reward = reward * torch.nan
        self.steps = self.steps + 1
        self.observation = self._draw()
        return self._transition(
            self.steps >= self.horizon, observation=self.observation, reward=reward
        )


def random_batch(*, batch_size: tuple[int, ...] = (B,), seed: int = 0) -> TensorDict:
    """Transitions in the house layout, with a novelty, a quarter of them terminal."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*batch_size, *size, generator=generator)

    terminated = torch.rand(*batch_size, 1, generator=generator) < 0.25
    return TensorDict(
        {
            "agents": {"observation": draw(N, O), "action": draw(N, A).tanh()},
            "next": {
                "agents": {
                    "observation": draw(N, O),
                    "reward": draw(N, 1),
                    "novelty": draw(N, 1).square(),
                },
                "done": terminated,
                "terminated": terminated.clone(),
            },
        },
        batch_size=batch_size,
    )


def sequences(*, batch_size: tuple[int, ...] = (B, T), seed: int = 0) -> TensorDict:
    """One-hot actions, with what networks with a memory read besides, and a state.

    Episodes begin within the sequences, and at the first step of some.
    """
    batch = random_batch(batch_size=batch_size, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*batch_size, *size, generator=generator)

    for name in ("action", "last_action"):
        taken = draw(N, A).argmax(-1)
        batch["agents", name] = nn.functional.one_hot(taken, A).float()
    batch["next", "agents", "last_action"] = batch["agents", "action"].clone()
    batch["agents", "recurrent_state"] = draw(N, H).tanh()
    batch["is_init"] = torch.rand(*batch_size, 1, generator=generator) < 0.25
    batch["state"], batch["next", "state"] = draw(S), draw(S)
    drawn = torch.randint(Z, batch_size, generator=generator)
    batch["latent"] = nn.functional.one_hot(drawn, Z).float()
    batch["next", "latent"] = batch["latent"].clone()
    batch["agents", "meta_weight"] = draw(N, 1)
    return batch


def joint_actions(num_agents: int, num_actions: int) -> torch.Tensor:
    """One-hot, in C order, ``[L**N, N, L]``."""
    indices = list(itertools.product(range(num_actions), repeat=num_agents))
    return nn.functional.one_hot(torch.tensor(indices), num_actions).double()


def steps_of_a_game(actions: torch.Tensor, reward: torch.Tensor) -> TensorDict:
    """Episodes of one step, ``[B, N, L], [B, N, 1] -> [B, 1]``."""
    seen = torch.ones(*actions.shape[:2], 1, dtype=actions.dtype)
    flag = torch.ones(len(actions), 1, dtype=torch.bool)
    batch = TensorDict(
        {
            "agents": {"observation": seen, "action": actions},
            "next": {
                "agents": {"observation": seen.clone(), "reward": reward},
                "done": flag,
                "terminated": flag.clone(),
            },
        },
        [len(actions)],
    )
    return batch.unsqueeze(1)


class LinearCritic(nn.Module):
    """Q_i(s, a) = sum_jk weight_ijk a_jk: values that can be checked by hand.

    Takes ``[*B, N, A]`` or a joint action for each critic, ``[*B, N, N, A]``.
    """

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        if action.ndim == observation.ndim:
            action = action.unsqueeze(-3)
        return (self.weight * action).sum((-1, -2)).unsqueeze(-1)


class ConstantActor(nn.Module):
    """Policies that act the same everywhere: one parameter row for each agent."""

    def __init__(self, action: torch.Tensor):
        super().__init__()
        self.action = nn.Parameter(action.clone())

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.action.expand(*observation.shape[:-1], -1)


def constant_actor(action: torch.Tensor) -> TensorDictModule:
    return TensorDictModule(
        ConstantActor(action),
        in_keys=[("agents", "observation")],
        out_keys=[("agents", "action")],
    )


def linear_critic(weight: torch.Tensor) -> TensorDictModule:
    return TensorDictModule(
        LinearCritic(weight),
        in_keys=[("agents", "observation"), ("agents", "action")],
        out_keys=[("agents", "state_action_value")],
    )


class TableActor(nn.Module):
    """Logits of each agent in each state of a game, ``[N, S, L]``; the agents see the state."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return torch.einsum("...ns,nsa->...na", observation, self.logits)


class TableCritic(nn.Module):
    """Values ``[N, S, L**N]`` at one-hot states and actions, linear in each agent's action.

    Takes ``[*B, N, L]`` or a joint action for each critic, ``[*B, N, N, L]``.
    """

    def __init__(self, values: torch.Tensor):
        super().__init__()
        self.values = nn.Parameter(values.clone())

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        num_agents = observation.shape[-2]
        if action.ndim == observation.ndim:
            action = action.unsqueeze(-3).expand(*action.shape[:-2], num_agents, -1, -1)
        joint = action[..., 0, :]
        for agent in range(1, num_agents):
            joint = (joint.unsqueeze(-1) * action[..., agent, :].unsqueeze(-2)).flatten(-2)
        return torch.einsum("...ns,nsu,...nu->...n", observation, self.values, joint).unsqueeze(-1)


def table_actor(logits: torch.Tensor) -> ProbabilisticTensorDictSequential:
    return ProbabilisticTensorDictSequential(
        TensorDictModule(
            TableActor(logits),
            in_keys=[("agents", "observation")],
            out_keys=[("agents", "logits")],
        ),
        GumbelOneHot(),
    )


def table_critic(values: torch.Tensor) -> TensorDictModule:
    return TensorDictModule(
        TableCritic(values),
        in_keys=[("agents", "observation"), ("agents", "action")],
        out_keys=[("agents", "state_action_value")],
    )


class CueEnv(EnvBase):
    """At an episode's first step each agent sees a cue; at the last one it is paid for it.

    In between there is nothing to see, but for the state, which keeps both cues. Each agent is
    paid 1 for the action of its cue, so that only those who remember it earn more than one
    half on average.
    """

    def __init__(self, *, num_envs: int = 16, horizon: int = 3, seed: int = 0):
        super().__init__(batch_size=[num_envs])
        self.horizon = horizon
        lead = (num_envs, 2)
        one_hot = OneHot(2, shape=(*lead, 2), dtype=torch.float32)
        self.observation_spec = Composite(
            agents=Composite(observation=Unbounded((*lead, 3)), shape=lead),
            state=Unbounded((num_envs, 5)),
            shape=(num_envs,),
        )
        self.action_spec = Composite(
            agents=Composite(action=one_hot, shape=lead), shape=(num_envs,)
        )
        self.reward_spec = Composite(
            agents=Composite(reward=Unbounded((*lead, 1)), shape=lead), shape=(num_envs,)
        )
        flag = Categorical(2, shape=(num_envs, 1), dtype=torch.bool)
        self.done_spec = Composite(done=flag, terminated=flag.clone(), shape=(num_envs,))
        self.generator = torch.Generator().manual_seed(seed)

    def _set_seed(self, seed: int | None) -> None:
        self.generator.manual_seed(seed or 0)

    def _seen(self) -> torch.Tensor:
        time = torch.full((*self.cue.shape[:2], 1), self.step_count / self.horizon)
        shown = self.cue if self.step_count == 0 else torch.zeros_like(self.cue)
        return torch.cat([shown, time], -1)

    def _state(self) -> torch.Tensor:
        time = torch.full((*self.batch_size, 1), self.step_count / self.horizon)
        return torch.cat([self.cue.flatten(1), time], -1)

    def _reset(self, tensordict: TensorDict | None = None) -> TensorDict:
        self.step_count = 0
        drawn = torch.randint(2, (*self.batch_size, 2), generator=self.generator)
        self.cue = nn.functional.one_hot(drawn, 2).float()
        agents = TensorDict({"observation": self._seen()}, (*self.batch_size, 2))
        return TensorDict({"agents": agents, "state": self._state()}, self.batch_size)

    def _step(self, tensordict: TensorDict) -> TensorDict:
        self.step_count += 1
        ends = self.step_count == self.horizon
        right = (tensordict["agents", "action"] * self.cue).sum(-1, keepdim=True)
        agents = {"observation": self._seen(), "reward": right * ends}
        done = torch.full((*self.batch_size, 1), ends)
        return TensorDict(
            {
                "agents": TensorDict(agents, (*self.batch_size, 2)),
                "state": self._state(),
                "done": done,
                "terminated": done.clone(),
            },
            self.batch_size,
        )


class FixedDraws(Normal):
    """A Gaussian whose draws are known: M of them, evenly from loc - scale to loc + scale."""

    def __init__(self, loc: torch.Tensor, scale: torch.Tensor):
        super().__init__(loc, scale, validate_args=False)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> torch.Tensor:
        (count,) = sample_shape
        steps = torch.linspace(-1, 1, count, dtype=self.loc.dtype)
        return (self.loc + self.scale * steps.view(count, *(1,) * self.loc.ndim)).detach()


def fixed_draws_actor(net: nn.Module) -> ProbabilisticTensorDictSequential:
    """Of a network that gives loc and scale."""
    loc, scale = ("agents", "loc"), ("agents", "scale")
    return ProbabilisticTensorDictSequential(
        TensorDictModule(net, in_keys=[("agents", "observation")], out_keys=[loc, scale]),
        ProbabilisticTensorDictModule(
            in_keys={"loc": loc, "scale": scale},
            out_keys=[("agents", "action")],
            distribution_class=FixedDraws,
        ),
    )


def conditional_names(algorithm: Learner) -> list[str]:
    """Names of the conditional batches that an algorithm reads."""
    return [name for name in algorithm.replays() if name.startswith("conditional")]


def by_name(
    algorithm: Learner,
    batch: TensorDict,
    conditional: Sequence[TensorDict] | None = None,
    recent: TensorDict | None = None,
) -> dict[str, TensorDict]:
    """What an update reads; where nothing else is given, the same batch for all."""
    batches = dict.fromkeys(["rollout"] if algorithm.on_policy else algorithm.replays(), batch)
    if recent is not None and "recent" in batches:
        batches["recent"] = recent
    names = conditional_names(algorithm)
    return batches | dict(zip(names, conditional or [batch] * len(names), strict=True))


def build(algorithm: type[Learner], env: EnvBase, **options: Any) -> Learner:
    """An algorithm with some settings of its own."""
    return algorithm(env, algorithm.Settings(**options))


def flat_config(*, algorithm: str | type[Learner], task: str = "test", **options: Any) -> Config:
    """A config from options by their names alone; those that an algorithm lacks are left out."""
    kind = get_algorithm(algorithm) if isinstance(algorithm, str) else algorithm
    own, training = ({f.name for f in fields(cls)} for cls in (kind.Settings, TrainingSettings))
    return Config(
        task=task,
        algorithm=kind.Settings(**{k: v for k, v in options.items() if k in own}),
        training=TrainingSettings(**{k: v for k, v in options.items() if k in training}),
    )


def changed_training(config: Config, **values: Any) -> Config:
    """The same run, trained otherwise."""
    return replace(config, training=replace(config.training, **values))
