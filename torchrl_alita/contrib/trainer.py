"""Every algorithm of the package inside TorchRL's Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.trainers import OptimizationStepper, Trainer

from torchrl_alita._checks import check_kind, check_same_shape, require_keys
from torchrl_alita.algorithms import Learner
from torchrl_alita.layout import ACTION, OBSERVATION, REWARD, next_key
from torchrl_alita.training import Config, make_exploration
from torchrl_alita.training.learning import Learning, check_finite

__all__ = ["AlgorithmStepper"]


class AlgorithmStepper(OptimizationStepper):
    """Trains an algorithm of the package inside :class:`torchrl.trainers.Trainer`.

    The trainer collects, logs and saves. The stepper keeps the algorithm's replay buffers, which
    are more than one where it reads conditional or recent batches, fills them with what the
    trainer has collected, and makes one update each time the trainer asks for one. An on-policy
    algorithm is given the batch as it was collected. No buffer, optimizer or target updater of
    the trainer is needed; an environment of a recurrent algorithm needs its
    ``env_transforms()``.

    Source: torchrl.trainers.OptimizationStepper; the algorithms are those of
    https://arxiv.org/abs/2108.12581 and of its baselines.

    Args:
        config: of the run. Its ``training`` must have the numbers of environments and of frames
            that the collector has.
        algorithm: that ``config.build`` has made, or one of your own with these settings.

    Attributes:
        policy: what the collector acts with, exploration included.
        losses: all networks that are trained, for the trainer's ``loss_module``.
        updates_per_batch: for the trainer's ``optim_steps_per_batch``.

    Raises:
        TypeError: if one of the two is something else.
        ValueError: if the algorithm has other settings than the config, or a sequence does not
            fit into a buffer.

    Examples:
        >>> from torchrl.collectors import Collector
        >>> from torchrl.trainers import Trainer
        >>> from torchrl_alita import make_env
        >>> from torchrl_alita.training import make_config
        >>> config = make_config(
        ...     "alita", "vmas/spread",
        ...     {"num_envs": 5, "total_frames": 60, "frames_per_batch": 20,
        ...      "algorithm.frames_per_update": 10, "algorithm.random_frames": 20,
        ...      "algorithm.batch_size": 8},
        ... )
        >>> env = make_env("vmas/spread", num_envs=5, seed=0)
        >>> stepper = AlgorithmStepper(config, config.build(env))
        >>> collector = Collector(
        ...     env, stepper.policy, frames_per_batch=20, total_frames=60, init_random_frames=20,
        ...     auto_register_policy_transforms=False,
        ... )
        >>> trainer = Trainer(
        ...     collector=collector, total_frames=60, frame_skip=1,
        ...     optim_steps_per_batch=stepper.updates_per_batch, loss_module=stepper.losses,
        ...     optimization_stepper=stepper, progress_bar=False,
        ... )
        >>> trainer.train()
        >>> stepper.algorithm.updates
        4
    """

    def __init__(self, config: Config, algorithm: Learner):
        check_kind("config", config, Config, "a Config")
        check_kind("algorithm", algorithm, Learner, "an algorithm that config.build has made")
        if algorithm.settings != config.algorithm:
            raise ValueError(
                f"The algorithm must have the config's settings, {config.algorithm}, got "
                f"{algorithm.settings}."
            )
        self.config, self.algorithm = config, algorithm
        self.exploration = make_exploration(config, algorithm)
        self.policy = TensorDictSequential(algorithm.actor, self.exploration)
        self.losses = nn.ModuleDict(algorithm.modules)
        self.learning = Learning(config, algorithm)
        self.updates_per_batch = self.learning.updates_per_batch

    def register(self, trainer: Trainer, name: str = "optimization_stepper") -> None:
        """Called by the trainer: it will save the stepper, and hand it what is collected."""
        super().register(trainer, name)
        trainer.register_op("batch_process", self.store)

    def store(self, batch: TensorDictBase) -> None:
        """Take over a batch ``[B, T]`` that was collected.

        Args:
            batch: of the trainer's collector.

        Raises:
            TypeError: if it is no tensordict.
            KeyError: if the batch lacks what the algorithm reads.
            ValueError: if it is of other environments than the config's, or empty; at a NaN or
                infinity; the key and the frame are named.
        """
        self._check_collected(batch)
        self.learning.store(batch)
        # An algorithm that hands over its exploration moves it on by itself.
        if self.algorithm.exploration is None:
            self.exploration.step()

    def _check_collected(self, batch: TensorDictBase) -> None:
        """Raise for a batch that is not what a collector of this config's environments gives."""
        check_kind("The collected batch", batch, TensorDictBase, "a tensordict")
        envs = self.config.training.num_envs
        if batch.ndim != 2 or len(batch) != envs or 0 in batch.batch_size:
            raise ValueError(
                f"The collected batch must be [B, T] of the config's {envs} environments, got "
                f"{tuple(batch.batch_size)}."
            )
        layout = self.algorithm.layout
        require_keys(batch, [OBSERVATION, ACTION, next_key(REWARD)])
        for key, width in ((OBSERVATION, layout.observation_size), (ACTION, layout.action_size)):
            check_same_shape(batch, key, (*batch.batch_size, layout.num_agents, width))

    def step(self, trainer: Trainer, sub_batch: TensorDictBase) -> TensorDictBase:
        """One update.

        Args:
            trainer: that asks for it.
            sub_batch: what was collected, ``[B, T]``; read by on-policy algorithms.

        Returns:
            Detached scalars to log: those of the algorithm's ``update``, and none before the
            first update.

        Raises:
            ValueError: at a NaN or infinity among them; its name and the frame are given.
        """
        if not self.learning.ready:
            return TensorDict()
        logs = self.learning.update(sub_batch)
        check_finite(logs, self.learning.progress["frames"])
        return logs

    def state_dict(self) -> dict[str, Any]:
        """Everything that training has changed, replay buffers included."""
        return {
            "algorithm": self.algorithm.state_dict(),
            "exploration": self.exploration.state_dict(),
            "buffers": self.learning.buffers.state_dict(),
            "progress": dict(self.learning.progress),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            TypeError: if it is no dictionary.
            KeyError: if the state is of another algorithm; the parts are named.
            ValueError: if what is stored does not fit into the buffers.
        """
        check_kind("The state", state_dict, Mapping, "a dictionary")
        parts = {"algorithm", "exploration", "buffers", "progress"}
        if missing := sorted(parts - set(state_dict)):
            raise KeyError(f"The state has no {missing}; it has {sorted(state_dict)}.")
        self.algorithm.load_state_dict(state_dict["algorithm"])
        self.exploration.load_state_dict(state_dict["exploration"])
        self.learning.buffers.load_state_dict(state_dict["buffers"])
        # The trainer's collector begins new episodes.
        self.learning.buffers.cut()
        self.learning.progress.update(state_dict["progress"])
