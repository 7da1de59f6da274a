"""What trust region policy optimization descends, and the divergence that it limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import ProbabilisticTensorDictSequential, dispatch
from torch.distributions import Distribution, kl_divergence
from torchrl.objectives import LossModule

from torchrl_alita._checks import REDUCTIONS, check_choice, check_same_shape
from torchrl_alita.layout import ACTION, ADVANTAGE
from torchrl_alita.modules._acting import distribution_of
from torchrl_alita.objectives._batch import check_batch, row_mask, unique
from torchrl_alita.objectives._functional_call import functional_call
from torchrl_alita.objectives._loss import house_loss

__all__ = ["TRPOLoss"]


@house_loss
class TRPOLoss(LossModule):
    r"""Objective of trust region policy optimization, ``[*B, N, .] -> []``.

    .. math::
        L(\theta) = -E \left[\frac{\pi_\theta(a | o)}{\pi_{old}(a | o)} \hat A \right], \qquad
        D(\theta) = E \left[KL(\pi_{old}(\cdot | o) \, \| \, \pi_\theta(\cdot | o)) \right]

    Source: https://arxiv.org/abs/1502.05477. Both are means over the agents too, each of
    which is a policy of its own observation. :class:`torchrl_alita.optim.TrustRegion` descends
    L where D, of :meth:`divergence`, is at most a limit. The policy that acted is known by
    the parameters of its distributions, which it wrote into the batch.

    The loss trains no value: the advantages come with the batch, as from TorchRL's ``GAE``.

    Args:
        actor_network: stochastic policies with ``get_dist``, see
            :func:`torchrl_alita.modules.make_gaussian_actor`. PyTorch must know the
            divergence of their distributions (``torch.distributions.kl_divergence``).
        reduction: ``"none"`` (the shape of the batch), ``"mean"`` or ``"sum"``.

    Returns, from ``forward``, a TensorDict with ``loss_objective`` and, detached, ``kl``,
    the divergence.

    Raises:
        ValueError: if the actor is deterministic or the reduction unknown; when called, if
            the batch is empty or its entries do not fit each other.
        KeyError: when called, if the batch lacks a key.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import make_gaussian_actor
        >>> from torchrl_alita.optim import TrustRegion
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> actor = make_gaussian_actor(env)
        >>> batch = env.rollout(4, actor).detach()
        >>> batch["agents", "advantage"] = batch["next", "agents", "reward"]
        >>> loss = TRPOLoss(actor)
        >>> done = TrustRegion(loss.parameters(), max_kl=0.01).step(
        ...     lambda: loss(batch)["loss_objective"], lambda: loss.divergence(batch)
        ... )
        >>> bool(0 < done.kl <= 0.01)
        True
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that can be set with ``set_keys``.

        Attributes:
            action (NestedKey): read. Default: ``("agents", "action")``.
            advantage (NestedKey): read, ``[*B, N, 1]``. Default: ``("agents", "advantage")``.
        """

        action: NestedKey = ACTION
        advantage: NestedKey = ADVANTAGE

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_objective", "kl"]

    actor_network: ProbabilisticTensorDictSequential
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        if not hasattr(actor_network, "get_dist"):
            raise ValueError(
                f"actor_network must be stochastic, with get_dist, got "
                f"{type(actor_network).__name__}."
            )
        self.convert_to_functional(actor_network, "actor_network")
        self.reduction = reduction

    @property
    def in_keys(self) -> list[NestedKey]:
        keys, network = self.tensor_keys, self.actor_network
        read = [key for key in network.in_keys if key != keys.action]
        return unique([keys.action, *read, *network[-1].in_keys, keys.advantage])

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        batch = check_batch(self, tensordict)
        acted, policy = self._distributions(batch)
        action = batch.get(self.tensor_keys.action)
        check_same_shape(batch, self.tensor_keys.advantage, (*action.shape[:-1], 1))
        gain = _log_prob(policy, action) - _log_prob(acted, action).detach()
        gain = gain.exp() * batch.get(self.tensor_keys.advantage).squeeze(-1)
        divergence = _of_agents(kl_divergence(acted, policy), action).detach()
        return TensorDict(
            {
                "loss_objective": self._reduce_loss(-gain.mean(-1), tensordict=batch),
                "kl": self._mean(divergence, batch),
            }
        )

    def divergence(self, tensordict: TensorDictBase) -> torch.Tensor:
        """Mean divergence from the policy that acted, ``[*B, N, .] -> []``, with its gradient.

        Args:
            tensordict: what ``forward`` reads.

        Raises:
            KeyError: if the batch lacks a key.
            ValueError: if it is empty or its entries do not fit each other.
        """
        batch = check_batch(self, tensordict)
        acted, policy = self._distributions(batch)
        action = batch.get(self.tensor_keys.action)
        return self._mean(_of_agents(kl_divergence(acted, policy), action), batch)

    def _distributions(self, batch: TensorDictBase) -> tuple[Distribution, Distribution]:
        """Those from which the actions were drawn, and those of the present parameters."""
        network, params = self.actor_network, self.actor_network_params
        policy, built = functional_call(
            params, network, lambda: distribution_of(network, batch.copy())
        )
        acted = batch.select(*network[-1].in_keys)
        for key in network[-1].in_keys:
            check_same_shape(batch, key, policy.get(key).shape)
        mask = row_mask(self, batch, batch.get(self.tensor_keys.action).shape[:-2])
        if mask is not None:
            # Hidden rows have zeros, and a scale of 0 is none.
            for key, value in acted.items(True, True):
                shown = mask.reshape(*mask.shape, *(1,) * (value.ndim - mask.ndim))
                acted.set(key, torch.where(shown, value, policy.get(key).detach()))
        shape = (*built.batch_shape, *built.event_shape)
        check_same_shape(batch, self.tensor_keys.action, shape)
        return network.build_dist_from_params(acted), built

    def _mean(self, values: torch.Tensor, batch: TensorDictBase) -> torch.Tensor:
        return self._reduce_loss(values.mean(-1), tensordict=batch, reduction="mean")


def _log_prob(distribution: Distribution, action: torch.Tensor) -> torch.Tensor:
    return _of_agents(distribution.log_prob(action), action)


def _of_agents(values: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Summed over the action's features where the distribution does not, ``-> [*B, N]``."""
    return values.sum(-1) if values.shape == action.shape else values
