"""Bonuses with a network behind them, which an on-policy algorithm trains on its rollouts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import nn
from torchrl.envs import Transform
from torchrl.modules import MLP
from torchrl.objectives import LossModule
from torchrl.objectives.rnd import RNDLoss

from torchrl_alita.layout import OBSERVATION, Layout, next_key
from torchrl_alita.modules import Autoencoder, ModelOfOthers
from torchrl_alita.modules._mlp import multi_agent_mlp
from torchrl_alita.objectives import ModelOfOthersLoss, NoveltyLoss
from torchrl_alita.team import Team
from torchrl_alita.transforms import NoveltyReward, RNDBonus, SocialInfluence

__all__ = ["LearnedBonus", "novelty_bonus", "rnd_bonus", "social_bonus"]

_CELLS, _NUM_FEATURES = (64, 64), 32
# Of the rows of a rollout: https://arxiv.org/abs/1810.12894.
_SHARE = 4


class LearnedBonus:
    """A bonus, and the loss of the network behind it.

    Args:
        transform: what pays.
        loss: what its network learns from, of transitions or of sequences.
        reads: keys that the loss reads.
        lr: Adam's learning rate.
        sequences: the loss reads sequences.
    """

    def __init__(
        self,
        transform: Transform,
        loss: LossModule,
        reads: Sequence[NestedKey],
        *,
        lr: float,
        sequences: bool = False,
    ):
        self.transform, self.loss, self.sequences = transform, loss, sequences
        self.reads = list(reads)
        params = [param for param in loss.parameters() if param.requires_grad]
        self.optimizer = torch.optim.Adam(params, lr=lr, fused=True)

    def train(self, rollout: TensorDictBase, minibatch_size: int) -> TensorDict:
        """A quarter of a rollout ``[B, T]``, once.

        Args:
            rollout: with what the loss reads.
            minibatch_size: transitions of a step.

        Returns:
            The last step's losses, detached.
        """
        rows = rollout.select(*self.reads)
        rows = rows if self.sequences else rows.reshape(-1)
        size = max(1, minibatch_size // (rollout.shape[1] if self.sequences else 1))
        chosen = torch.randperm(len(rows), device=rows.device)[: max(1, len(rows) // _SHARE)]
        for part in chosen.split(size):
            self.optimizer.zero_grad(set_to_none=True)
            losses = self.loss(rows[part])
            sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
            self.optimizer.step()
        return losses.detach()


def novelty_bonus(
    layout: Layout, influencer: int, *, lr: float, device: torch.device
) -> LearnedBonus:
    """The paper's: what the influencer's autoencoder cannot reconstruct."""
    team = Team(layout.num_agents, influencers=influencer)
    autoencoder = Autoencoder(layout.observation_size + layout.action_size, device=device)
    loss = NoveltyLoss(autoencoder, team)
    return LearnedBonus(NoveltyReward(autoencoder, team), loss, loss.in_keys, lr=lr)


def rnd_bonus(layout: Layout, *, joint: bool, lr: float, device: torch.device) -> LearnedBonus:
    """Random network distillation of all observations at once, or of each agent's own."""
    agents, features = layout.num_agents, layout.observation_size

    def network() -> nn.Module:
        if not joint:
            return multi_agent_mlp(
                in_features=features,
                out_features=_NUM_FEATURES,
                num_agents=agents,
                num_cells=_CELLS,
                layer_norm=False,
                device=device,
            )
        return nn.Sequential(
            nn.Flatten(-2),
            MLP(
                in_features=agents * features,
                out_features=_NUM_FEATURES,
                num_cells=_CELLS,
                activation_class=nn.ReLU,
                device=device,
            ),
        )

    target, predictor = network(), network()
    # The rows are a quarter already.
    loss = RNDLoss(predictor, target, update_fraction=1.0)
    bonus, seen = RNDBonus(target, predictor).to(device), next_key(OBSERVATION)
    loss.set_keys(observation=seen)
    return LearnedBonus(bonus, loss, [seen], lr=lr)


def social_bonus(layout: Layout, *, lr: float, device: torch.device) -> LearnedBonus:
    """Influence on what each agent's model expects the others to do next."""
    model = ModelOfOthers(
        layout.num_agents,
        observation_size=layout.observation_size,
        num_actions=layout.action_size,
        device=device,
    )
    bonus, loss = SocialInfluence(model).to(device), ModelOfOthersLoss(model)
    return LearnedBonus(bonus, loss, loss.in_keys, lr=lr, sequences=True)
