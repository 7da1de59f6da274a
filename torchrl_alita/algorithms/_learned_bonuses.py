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
from torchrl_alita.modules import Autoencoder, ModelOfOthers, TransitionModel
from torchrl_alita.modules._mlp import multi_agent_mlp
from torchrl_alita.objectives import ModelOfOthersLoss, NoveltyLoss, TransitionModelLoss
from torchrl_alita.team import Team
from torchrl_alita.transforms import NoveltyReward, RNDBonus, SocialInfluence, TransitionInfluence

__all__ = ["LearnedBonus", "novelty_bonus", "rnd_bonus", "social_bonus", "transition_bonus"]

_CELLS, _NUM_FEATURES = (64, 64), 32
# Of the rows of a rollout: https://arxiv.org/abs/1810.12894.
_SHARE = 4
# Of a model of transitions: passes over a rollout, and transitions of a step, the source's.
_PASSES, _MOST_ROWS = 2, 512


class LearnedBonus:
    """A bonus, and the loss of the network behind it.

    Args:
        transform: what pays.
        loss: what its network learns from, of transitions or of sequences.
        reads: keys that the loss reads.
        lr: Adam's learning rate.
        sequences: the loss reads sequences.
        first: a rollout is learned from before it is paid, all of it.
    """

    def __init__(
        self,
        transform: Transform,
        loss: LossModule,
        reads: Sequence[NestedKey],
        *,
        lr: float,
        sequences: bool = False,
        first: bool = False,
    ):
        self.transform, self.loss, self.sequences = transform, loss, sequences
        self.first = first
        self.reads = list(reads)
        params = [param for param in loss.parameters() if param.requires_grad]
        self.optimizer = torch.optim.Adam(params, lr=lr, fused=True)

    def train(self, rollout: TensorDictBase, minibatch_size: int) -> TensorDict:
        """A quarter of a rollout ``[B, T]``, once; or all of it, if that comes first.

        Args:
            rollout: with what the loss reads.
            minibatch_size: transitions of a step.

        Returns:
            The last step's losses, detached.
        """
        rows = rollout.select(*self.reads, strict=False)
        rows = rows if self.sequences else rows.reshape(-1)
        size = max(1, minibatch_size // (rollout.shape[1] if self.sequences else 1))
        passes, count = 1, max(1, len(rows) // _SHARE)
        if self.first:
            passes, count, size = _PASSES, len(rows), min(size, _MOST_ROWS)
        drawn = [torch.randperm(len(rows), device=rows.device)[:count] for _ in range(passes)]
        parts = [part for order in drawn for part in order.split(size)]
        for part in parts:
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


def transition_bonus(
    layout: Layout,
    *,
    features: Sequence[int] | None,
    share_params: bool,
    value: NestedKey | None,
    gamma: float,
    lr: float,
    device: torch.device,
) -> LearnedBonus:
    """Influence on what becomes of the others, by a model of it: EITI, or EDTI with values."""
    model = TransitionModel(
        layout.num_agents,
        observation_size=layout.observation_size,
        action_size=layout.action_size,
        features=features,
        share_params=share_params,
        device=device,
    )
    bonus = TransitionInfluence(model, value=value, gamma=gamma).to(device)
    loss = TransitionModelLoss(model)
    reads = [*loss.in_keys, *loss.optional_keys]
    return LearnedBonus(bonus, loss, reads, lr=lr, first=True)
