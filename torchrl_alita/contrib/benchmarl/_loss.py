"""A learner's losses as the one LossModule that BenchMARL trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.envs import EnvBase
from torchrl.objectives import LossModule

from torchrl_alita.algorithms import ALITA, MADDPG, MADDPGSettings
from torchrl_alita.layout import PARAM
from torchrl_alita.objectives._loss import house_loss

__all__ = ["ALITA_SETTINGS", "MADDPG_SETTINGS", "GroupLoss", "with_policy"]

# What BenchMARL's experiment does not say itself. Steps, discount, targets, noise, batches and
# the policies' networks are its own; it has no place for estimators that are trained by
# themselves, nor for policies with a memory.
MADDPG_SETTINGS = (
    "scope", "num_cells", "layer_norm", "num_critics", "others_actions", "logits_coeff",
)  # fmt: skip
ALITA_SETTINGS = (
    *MADDPG_SETTINGS, "influencers", "influencees", "weights", "influence_coeff",
    "novelty_coeff", "diversity_coeff", "omega", "autoencoder_cells", "optimum", "optimum_at",
    "num_optimum_samples", "num_action_samples", "normalize", "influence_unit", "bonus_unit",
)  # fmt: skip

Algorithm = TypeVar("Algorithm", bound=type[MADDPG])


def with_policy(algorithm: Algorithm, policy: TensorDictModuleBase) -> Algorithm:
    """The algorithm with policies that another library has made."""
    # A class of which the type check only knows when it runs.
    base: Any = algorithm

    class WithPolicy(base):
        @classmethod
        def make_policy(
            cls, env: EnvBase, settings: MADDPGSettings, *, device: object = None
        ) -> TensorDictModuleBase:
            return policy

    made: Any = WithPolicy
    return made


@house_loss
class GroupLoss(LossModule):
    """Losses ``[*B] -> []`` of a team, one for each of its optimizers.

    Args:
        learner: whose losses these are.
    """

    def __init__(self, learner: MADDPG):
        super().__init__()
        self.learner = learner
        learner.maddpg.set_keys(logits=PARAM)
        self.parts = nn.ModuleDict(learner.modules)

    @property
    def in_keys(self) -> list[NestedKey]:
        return self.learner.in_keys

    def parameters_by_loss(self) -> dict[str, Iterable[nn.Parameter]]:
        """What each loss trains, by its name."""
        maddpg = self.learner.maddpg
        trained = {
            "loss_actor": maddpg.actor_network_params,
            "loss_qvalue": maddpg.qvalue_network_params,
        }
        if isinstance(self.learner, ALITA):
            trained["loss_novelty"] = self.learner.novelty_loss
            if self.learner.attention_loss is not None:
                trained["loss_attention"] = self.learner.attention_loss
        return {name: list(module.parameters()) for name, module in trained.items()}

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The losses, and beside them, detached, what there is to log."""
        # BenchMARL has one batch for all.
        losses = self.learner._losses(*[tensordict] * len(self.learner.replays()))
        influence = losses.pop("loss_influence", None)
        if influence is not None:
            losses.set("influence", influence.detach())
            losses.set("loss_actor", losses.get("loss_actor") + influence)
        # BenchMARL follows one gradient after the other. That of the actors goes through the
        # critics' weights, so it is the first.
        trained = {name: losses.pop(name) for name in self.parameters_by_loss()}
        return TensorDict(trained).update(losses.detach())
