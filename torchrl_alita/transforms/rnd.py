"""A bonus for observations that a network has not yet learned to predict."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import dispatch
from torch import nn
from torchrl.envs.transforms.rnd import RunningMeanStd

from torchrl_alita import functional
from torchrl_alita._borrow import borrow
from torchrl_alita._checks import (
    check_agents,
    check_at_least_one,
    check_finite,
    check_flag,
    check_positive,
    require_keys,
)
from torchrl_alita._modes import without_training
from torchrl_alita.layout import OBSERVATION, RND_BONUS, next_key
from torchrl_alita.transforms import _transition

__all__ = ["RNDBonus"]


class RNDBonus(_transition.TransitionTransform):
    r"""Random network distillation for teams, ``-> [*B, N, 1]``.

    .. math:: b(s') = \frac{1}{F} \| f(s') - \hat f(s') \|^2

    Source: https://arxiv.org/abs/1810.12894, of each agent's observation or of the team's.
    TorchRL's ``RNDTransform`` declares its bonus as a reward, and works in environments
    alone; this one writes ``("next", "agents", "rnd_bonus")``, for batches, buffers and
    environments, and trains with the same partner: ``torchrl.objectives.rnd.RNDLoss`` on the
    same networks, with ``obs_rms=bonus.obs_rms`` and
    ``set_keys(observation=("next", "agents", "observation"))``.

    :meth:`update` takes observations into their running mean and deviation, a call on a
    batch pays and changes nothing, and :meth:`observe` does both. The networks pay in evaluation
    mode, as after ``eval()``, and are put back. Appended to an environment, each step is taken
    and then paid, unless it is frozen.

    Args:
        target_network: f, random and never trained: ``[*B, N, O] -> [*B, N, F]``, or
            ``[*B, F]`` for the team, as behind ``nn.Flatten(-2)``. Borrowed.
        predictor_network: of the same shapes, trained. Borrowed.
        num_features: O, of the running mean; observations are then normalized and clipped.
            Default: None, they are read as they are, as one-hot ones should be.
        obs_clip: largest normalized observation. Default: 5, TorchRL's.
        frozen: an environment's steps are paid and not taken. Default: False.
        observation: key read, in "next". Default: ``("agents", "observation")``.
        rnd_bonus: key written, under "next" in a batch. Default: ``("agents", "rnd_bonus")``.

    Raises:
        TypeError: if a network is no module.
        ValueError: if obs_clip is not positive, num_features is below 1, or both networks are
            one; when called, if observations are to be
            normalized and none was taken yet, or the networks give other shapes; in an
            environment, if an observation to be taken is not finite.
        KeyError: when called, if the batch lacks the observation.

    Examples:
        >>> from torchrl.objectives.rnd import RNDLoss
        >>> from torchrl_alita.envs import PushBox
        >>> target, predictor = (
        ...     nn.Sequential(nn.Flatten(-2), nn.Linear(180, 16), nn.ReLU(), nn.Linear(16, 8))
        ...     for _ in range(2)
        ... )
        >>> bonus, loss = RNDBonus(target, predictor), RNDLoss(predictor, target)
        >>> loss.set_keys(observation=("next", "agents", "observation"))
        >>> rollout = bonus(PushBox(3, seed=0).rollout(4))
        >>> rollout["next", "agents", "rnd_bonus"].shape, loss(rollout)["loss_predictor"].shape
        (torch.Size([3, 4, 2, 1]), torch.Size([]))
    """

    def __init__(
        self,
        target_network: nn.Module,
        predictor_network: nn.Module,
        *,
        num_features: int | None = None,
        obs_clip: float = 5.0,
        frozen: bool = False,
        observation: NestedKey = OBSERVATION,
        rnd_bonus: NestedKey = RND_BONUS,
    ):
        super().__init__(in_keys=[next_key(observation)], out_keys=[rnd_bonus])
        check_positive(obs_clip=obs_clip)
        check_flag(frozen=frozen)
        if num_features is not None:
            check_at_least_one(num_features=num_features)
        borrow(self, "target_network", target_network)
        borrow(self, "predictor_network", predictor_network)
        if predictor_network is target_network:
            raise ValueError("target_network and predictor_network must be two, got one network.")
        target_network.requires_grad_(False)
        self.obs_clip, self.frozen = float(obs_clip), frozen
        self.obs_rms = None if num_features is None else RunningMeanStd((num_features,))
        self.updated = num_features is None

    def _observation(self, batch: TensorDictBase) -> torch.Tensor:
        require_keys(batch, self.in_keys)
        check_agents(batch, self.in_keys)
        observation = batch.get(self.in_keys[0])
        if self.obs_rms is not None and observation.shape[-1:] != self.obs_rms.mean.shape:
            raise ValueError(
                f"{self.in_keys[0]} must have num_features, {len(self.obs_rms.mean)}, numbers, got "
                f"{observation.shape[-1]}."
            )
        return observation

    def update(self, batch: TensorDictBase) -> None:
        """Take the observations of a batch into their running mean and deviation.

        Args:
            batch: of any batch size, with the next observation.

        Raises:
            KeyError: if the batch lacks the observation.
            ValueError: if it is not finite or of another size; nothing is taken.
        """
        self._update(self._observation(batch))

    @torch.no_grad()
    def _update(self, observation: torch.Tensor) -> None:
        # The mean of no observation would be NaN, for good, and so would one of NaN.
        if self.obs_rms is not None and observation.numel():
            check_finite(str(self.in_keys[0]), observation)
            self.obs_rms.update(observation)
            self.updated = True

    def observe(self, batch: TensorDictBase) -> TensorDictBase:
        """Take the observations of a batch and pay them.

        Args:
            batch: of any batch size.

        Returns:
            A shallow copy with the bonus.
        """
        self.update(batch)
        return self(batch)

    @torch.no_grad()
    def _bonus(self, observation: torch.Tensor) -> torch.Tensor:
        if not self.updated:
            raise ValueError(
                "RNDBonus has seen no observation yet: call update(batch) before the bonus is read."
            )
        inputs = observation
        if self.obs_rms is not None:
            inputs = self.obs_rms.normalize(inputs).clamp(-self.obs_clip, self.obs_clip)
        with without_training(self.target_network, self.predictor_network):
            target, predicted = self.target_network(inputs), self.predictor_network(inputs)
        lead = observation.shape[:-1]
        if target.shape != predicted.shape or target.shape[:-1] not in (lead, lead[:-1]):
            raise ValueError(
                f"The networks must give {(*lead, 'F')}, of each agent, or {(*lead[:-1], 'F')}, "
                f"of the team, got {tuple(target.shape)} and {tuple(predicted.shape)}."
            )
        error = functional.squared_distance(predicted, target) / target.shape[-1]
        if error.ndim < observation.ndim:
            error = error.unsqueeze(-2).expand(*lead, 1)
        return error.to(_transition.dtype_beside(observation.dtype))

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        key = self.in_keys[0][1:]
        require_keys(next_tensordict, [key])
        observation = next_tensordict.get(key)
        if not self.frozen:
            self._update(observation)
        return next_tensordict.set(self.out_keys[0], self._bonus(observation))

    @dispatch(source="in_keys", dest="batch_out_keys", auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        bonus = self._bonus(self._observation(tensordict))
        return _transition.set_entry(tensordict, self.batch_out_keys[0], bonus)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        count = state_dict.get(f"{prefix}obs_rms.count")
        # It begins with a small number in place of 0.
        self.updated = self.updated or (count is not None and bool(count >= 1))
