"""What a run collects: environments, policies that explore, what they have seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torchrl.collectors import Collector
from torchrl.envs import EnvBase
from torchrl.modules import AdditiveGaussianModule, EGreedyModule

from torchrl_alita.algorithms import Learner, Sides
from torchrl_alita.envs import Task, environment_state, sides_of
from torchrl_alita.layout import ACTION, ACTION_MASK, REWARD, next_key
from torchrl_alita.metrics import exploration_metrics
from torchrl_alita.modules import SidesPolicy, TeamExploration
from torchrl_alita.saving import CollectorState
from torchrl_alita.training.config import Config

__all__ = ["Collection", "make_exploration", "sides_played", "with_memory"]


class Collection:
    """Batches ``[B, T]`` of a run, without an end, by policies that explore.

    Args:
        config: of the run.
        env: in which the algorithm is trained.
        algorithm: whose policies act.
        task: whose events are counted.
    """

    def __init__(self, config: Config, env: EnvBase, algorithm: Learner, task: Task):
        self.env = env
        self._sides = sides_played(env, algorithm)
        self.noise = make_exploration(config, algorithm)
        self.policy = TensorDictSequential(algorithm.actor, self.noise)
        self.exploration = exploration_metrics(env, events=task.events(env) if task.events else ())
        # An algorithm that hands over its exploration moves it on by itself.
        self._shrinks = algorithm.exploration is None
        training = config.training
        self.collector = Collector(
            env,
            self.policy,
            frames_per_batch=training.frames_per_batch,
            # At an end of its own it would close the environments, which are still to be saved.
            total_frames=-1,
            # The frames that a collector draws by itself no exploration module can shape.
            init_random_frames=config.random_frames if training.exploration == "independent" else 0,
            track_traj_ids=False,
            auto_register_policy_transforms=False,
        )

    def __iter__(self) -> Iterator[TensorDictBase]:
        return iter(self.collector)

    def explored(self, collected: TensorDictBase) -> dict[str, float]:
        """What all batches so far have explored; the noise shrinks by a step."""
        if self._shrinks:
            self.noise.step()
        return {name: float(value) for name, value in self.exploration(collected).items()}

    def rewards(self, collected: TensorDictBase) -> dict[str, float]:
        """Mean reward of a batch, and of each side of a game."""
        reward = collected[next_key(REWARD)]
        of_sides = {
            f"reward_mean_{name}": float(reward[..., list(agents), :].mean())
            for name, agents in self._sides.items()
        }
        return {"reward_mean": float(reward.mean())} | of_sides

    @property
    def exact(self) -> bool:
        """Whether the environment can give its state, in the middle of an episode too."""
        return environment_state(self.env) is not None

    @property
    def components(self) -> dict[str, Any]:
        """What of it a checkpoint has."""
        parts = {
            "noise": self.noise,
            "exploration": self.exploration,
            "collector": CollectorState(self.collector, mid_episode=self.exact),
        }
        return parts | ({"environment": environment_state(self.env)} if self.exact else {})

    def close(self) -> None:
        """End it; its environment is the caller's to close."""
        self.collector.shutdown(close_env=False)

    def begin_episodes(self, seed: int) -> None:
        """Set every environment back."""
        self.env.set_seed(seed)
        self.collector.reset()


def with_memory(env: EnvBase, algorithm: Learner) -> EnvBase:
    """An environment in which the algorithm's policies can act.

    Args:
        env: to which transforms are appended.
        algorithm: that says which.
    """
    for transform in algorithm.env_transforms():
        env = env.append_transform(transform)
    return env


def sides_played(env: EnvBase, algorithm: Learner) -> dict[str, tuple[int, ...]]:
    """The sides of a game, if there are several: as an algorithm has them, or the environment.

    Args:
        env: the game.
        algorithm: that is trained in it.
    """
    sides = algorithm.sides if isinstance(algorithm, Sides) else sides_of(env)
    return sides if len(sides) > 1 else {}


class _NoNoise(TensorDictModuleBase):
    """For a policy that explores by itself."""

    in_keys: list = []
    out_keys: list = []

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict

    def step(self) -> None:
        """Nothing shrinks."""


class _SidesNoise(SidesPolicy):
    """The noise of each side that learns, on its own agents' actions."""

    def __init__(
        self,
        sides: Mapping[str, Sequence[int]],
        noises: Mapping[str, TensorDictModuleBase],
        shrinking: Sequence[str],
    ):
        super().__init__(sides, noises)
        # The others are moved on by their learners.
        self.shrinking = tuple(shrinking)

    def step(self) -> None:
        """Let those of the training loop shrink."""
        for name in self.shrinking:
            self.of_side[name].step()


_Noise: TypeAlias = (
    "AdditiveGaussianModule | EGreedyModule | TeamExploration | _NoNoise | _SidesNoise"
)


def make_exploration(config: Config, algorithm: Learner) -> _Noise:
    """What follows the policies in training, so that they explore.

    Noise on continuous actions, a share of random one-hot ones; both shrink.

    Args:
        config: of the run.
        algorithm: whose policies explore.

    Returns:
        A module that reads and writes the actions, with a ``step``.

    Raises:
        ValueError: if a team is to explore together whose policies explore by themselves.
    """
    own = algorithm.exploration is not None
    if config.training.exploration == "team" and algorithm.stochastic and not own:
        raise ValueError(
            f"exploration must be 'independent' for {config.algorithm_name}, whose policies draw "
            f"their actions and have no other noise, got 'team'."
        )
    return _noise_of(config, algorithm)


def _noise_of(config: Config, algorithm: Learner) -> _Noise:
    """The noise of an algorithm, or of one side's."""
    if algorithm.exploration is not None:
        return algorithm.exploration
    if isinstance(algorithm, Sides):
        learners = algorithm.learners
        noises = {
            name: _noise_of(replace(config, algorithm=learner.settings), learner)
            for name, learner in learners.items()
        }
        if all(isinstance(noise, _NoNoise) for noise in noises.values()):
            return _NoNoise()
        shrinking = [name for name, learner in learners.items() if learner.exploration is None]
        return _SidesNoise(algorithm.sides, noises, shrinking)
    if algorithm.stochastic:
        return _NoNoise()
    training = config.training
    # Those of an algorithm without an exploration of its own have the noise.
    settings: Any = config.algorithm
    steps = settings.noise_frames // training.frames_per_batch
    common = {
        "spec": algorithm.action_spec,
        "annealing_num_steps": max(1, steps),
        "action_key": ACTION,
    }
    start, end = settings.noise_start, settings.noise_end
    masked = algorithm.layout.discrete and algorithm.layout.masked
    mask = ACTION_MASK if masked else None
    if training.exploration == "team":
        return TeamExploration(
            **common,
            agreement=training.agreement,
            persistence=training.persistence,
            spread=training.spread,
            burst_length=training.burst_length,
            eps_init=start,
            eps_end=end,
            action_mask_key=mask,
        )
    common["device"] = algorithm.device
    if algorithm.layout.discrete:
        return EGreedyModule(eps_init=start, eps_end=end, action_mask_key=mask, **common)
    return AdditiveGaussianModule(sigma_init=start, sigma_end=end, **common)
