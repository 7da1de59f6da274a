"""The algorithms and their configurations; needs BenchMARL."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable
from typing import Any, ClassVar

from benchmarl.algorithms import Maddpg
from benchmarl.algorithms.common import Algorithm, AlgorithmConfig
from benchmarl.models.mlp import MlpConfig
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.objectives import HardUpdate, LossModule, SoftUpdate
from torchrl.objectives.utils import TargetNetUpdater

from torchrl_alita.algorithms import ALITA, MADDPG, ALITASettings, MADDPGSettings
from torchrl_alita.contrib.benchmarl._loss import (
    ALITA_SETTINGS,
    MADDPG_SETTINGS,
    GroupLoss,
    with_policy,
)

__all__ = ["CONFIGS"]

_GROUP = "agents"


class AlitaMaddpg(Maddpg):
    """MADDPG with the paper's gradient, on BenchMARL's policies.

    Args:
        experiment: that it is part of.
        **settings: of the package's algorithm.

    Raises:
        ValueError: if the agents are not one group with the name "agents", or the policies have a
            memory.

    Warns:
        UserWarning: if a model for critics is asked for, which is not read.
    """

    learner_class: ClassVar[type[MADDPG]] = MADDPG

    def __init__(self, experiment: Any, **settings: Any):
        # Of BenchMARL's own MADDPG only the policies and the batches are used.
        super().__init__(
            share_param_critic=experiment.config.share_policy_params,
            loss_function="l2",
            delay_value=True,
            use_tanh_mapping=True,
            experiment=experiment,
        )
        if list(self.group_map) != [_GROUP]:
            raise ValueError(
                f"The agents must be one group named {_GROUP!r}, got {sorted(self.group_map)}."
            )
        if experiment.model_config.is_rnn:
            raise ValueError(
                f"Policies with a memory are not supported here, got {_name(self.model_config)}."
            )
        asked = experiment.critic_model_config
        if asked not in (self.model_config, MlpConfig.get_from_yaml()):
            warnings.warn(
                f"critic_model_config, {_name(asked)}, is not read: the critics are "
                "torchrl_alita's, with the algorithm's num_cells and layer_norm.",
                stacklevel=2,
            )
        self.settings = settings

    def _get_loss(
        self, group: str, policy_for_loss: TensorDictModule, continuous: bool
    ) -> tuple[LossModule, bool]:
        config = self.experiment_config
        settings = self.learner_class.Settings(
            **self.settings,
            gamma=config.gamma,
            share_params=config.share_policy_params,
            compile=False,
        )
        algorithm = with_policy(self.learner_class, policy_for_loss)
        return GroupLoss(algorithm(self.experiment.test_env, settings, device=self.device)), False

    def get_loss_and_updater(self, group: str) -> tuple[LossModule, TargetNetUpdater]:
        """The loss, and the updater of the targets, which are in a part of it."""
        loss, updater = super().get_loss_and_updater(group)
        if updater is None:
            maddpg, config = loss.learner.maddpg, self.experiment_config
            if config.soft_target_update:
                updater = SoftUpdate(maddpg, tau=config.polyak_tau)
            else:
                interval = config.hard_target_update_frequency
                updater = HardUpdate(maddpg, value_network_update_interval=interval)
            self._losses_and_updaters[group] = loss, updater
        return loss, updater

    def process_batch(self, group: str, batch: TensorDictBase) -> TensorDictBase:
        """BenchMARL's batch ``[B, T]``, which the algorithm has seen."""
        batch = super().process_batch(group, batch)
        self.get_loss_and_updater(group)[0].learner.observe(batch)
        return batch

    def _get_parameters(self, group: str, loss: LossModule) -> dict[str, Iterable[nn.Parameter]]:
        return loss.parameters_by_loss()


class Alita(AlitaMaddpg):
    """ALITA with the marginal estimate of the influenced values."""

    learner_class = ALITA


class AlitaNoF(Alita):
    """ALITA without the influence."""


class AlitaNoIM(Alita):
    """ALITA without the intrinsic motivation."""


class AlitaSymmetric(Alita):
    """ALITA whose agents are all influencers."""


@dataclasses.dataclass
class _Config(AlgorithmConfig):
    """What all of them have in common."""

    algorithm: ClassVar[type[AlitaMaddpg]]

    def __post_init__(self):
        # Hydra knows lists and no tuples.
        for field in dataclasses.fields(self):
            setattr(self, field.name, _tuples(getattr(self, field.name)))
        # A setting of another type or out of its range is an error here, with its name.
        self.associated_class().learner_class.Settings(**self.__dict__)

    @classmethod
    def associated_class(cls) -> type[Algorithm]:
        return cls.algorithm

    @classmethod
    def get_from_yaml(cls, path: str | None = None) -> _Config:
        """The defaults, or what a file of BenchMARL's form says."""
        return cls() if path is None else super().get_from_yaml(path)

    @staticmethod
    def on_policy() -> bool:
        return False

    @staticmethod
    def supports_continuous_actions() -> bool:
        return True

    @staticmethod
    def supports_discrete_actions() -> bool:
        return False

    @staticmethod
    def has_centralized_critic() -> bool:
        return True


def _name(config: Any) -> str:
    return type(config).__name__


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _config(
    algorithm: type[AlitaMaddpg], names: Iterable[str], settings: MADDPGSettings
) -> type[_Config]:
    """A configuration with these settings as its defaults."""
    # Any, for Hydra has no unions of a number and a list; __post_init__ checks.
    fields = [(name, Any, _default(getattr(settings, name))) for name in names]
    made = dataclasses.make_dataclass(
        f"{algorithm.__name__}Config", fields, bases=(_Config,), namespace={"algorithm": algorithm}
    )
    # BenchMARL pickles it.
    made.__module__ = __name__
    made.__doc__ = f"{algorithm.__doc__} See {type(settings).__name__}."
    return made


def _default(value: Any) -> Any:
    if isinstance(value, tuple):
        return dataclasses.field(default_factory=lambda: list(value))
    return value


AlitaConfig = _config(Alita, ALITA_SETTINGS, ALITASettings())
AlitaNoFConfig = _config(AlitaNoF, ALITA_SETTINGS, ALITASettings(influence_coeff=0.0))
AlitaNoIMConfig = _config(
    AlitaNoIM, ALITA_SETTINGS, ALITASettings(novelty_coeff=0.0, diversity_coeff=0.0)
)
AlitaSymmetricConfig = _config(AlitaSymmetric, ALITA_SETTINGS, ALITASettings(influencers="all"))
AlitaMaddpgConfig = _config(AlitaMaddpg, MADDPG_SETTINGS, MADDPGSettings())

CONFIGS: dict[str, type[_Config]] = {
    "alita": AlitaConfig,
    "alita_no_f": AlitaNoFConfig,
    "alita_no_im": AlitaNoIMConfig,
    "alita_symmetric": AlitaSymmetricConfig,
    "alita_maddpg": AlitaMaddpgConfig,
}
