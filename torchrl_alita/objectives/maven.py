"""Multi-agent variational exploration (MAVEN)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase

from torchrl_alita._checks import (
    check_non_negative,
    check_same_shape,
    require_written,
)
from torchrl_alita.layout import LATENT, LATENT_LOGITS
from torchrl_alita.modules._acting import run_network
from torchrl_alita.objectives._batch import unique
from torchrl_alita.objectives._functional_call import functional_call
from torchrl_alita.objectives._loss import house_loss
from torchrl_alita.objectives.value_decomposition import ValueDecompositionLoss

__all__ = ["MAVENLoss"]


@house_loss
class MAVENLoss(ValueDecompositionLoss):
    r"""Q-learning of a team that behaves so that its latent variable can be told.

    .. math::
        L = L_{TD} - \lambda_{MI} \, E \log q(z | \sigma(Q(\tau_t)), s_t), \qquad
        I(\sigma(\tau), z) \ge H(z) + E \log q(z | \sigma(\tau))

    Source: https://arxiv.org/abs/1910.07483. :math:`L_{TD}` is that of
    :class:`ValueDecompositionLoss`, whose networks read a latent variable z of the episode
    besides. The bound on the mutual information of z and the trajectory makes the team do
    something else for each z, and so explore together in each episode; its gradient goes into
    the discriminator q and into the agents' values.

    Args:
        local_value_network: as made by
            :func:`torchrl_alita.modules.make_latent_qnetwork`.
        mixer_network: as in :func:`torchrl_alita.modules.make_latent_mixer`.
        discriminator_network: guesses z, as made by
            :func:`torchrl_alita.modules.make_discriminator`.
        mutual_information_coeff: :math:`\lambda_{MI}`, at least 0. Default: 1, the authors'
            of StarCraft; 0 leaves QMIX with a noise.
        gamma: see :class:`ValueDecompositionLoss`.
        double_q: see :class:`ValueDecompositionLoss`.
        lmbda: see :class:`ValueDecompositionLoss`.
        reduction: see :class:`ValueDecompositionLoss`.

    Returns, from ``forward``, a TensorDict with ``loss_qvalue``, ``loss_discriminator``,
    multiplied with its coefficient, and, detached, ``pred_value``, ``target_value`` and
    ``recognized``, the share of steps at which z is guessed.

    Raises:
        ValueError: if an argument is out of range; when called, as in
            :class:`ValueDecompositionLoss`, or if z has another shape.
        TypeError: if an argument is no number.
        KeyError: when called, if the batch lacks a key, or a network does not write one.

    Examples:
        >>> from torchrl.objectives import SoftUpdate
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import (
        ...     make_discriminator,
        ...     make_latent_mixer,
        ...     make_latent_qnetwork,
        ... )
        >>> from torchrl_alita.transforms import recurrent_transforms
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> network, mixer, discriminator = (
        ...     make(env, num_latents=4)
        ...     for make in (make_latent_qnetwork, make_latent_mixer, make_discriminator)
        ... )
        >>> env = env.append_transform(recurrent_transforms(network))
        >>> maven = MAVENLoss(network, mixer, discriminator)
        >>> updater = SoftUpdate(maven, tau=0.01)
        >>> losses = maven(env.rollout(3, network))
        >>> (losses["loss_qvalue"] + losses["loss_discriminator"]).backward()
    """

    @dataclass
    class _AcceptedKeys(ValueDecompositionLoss._AcceptedKeys):
        """Keys that can be set with ``set_keys``.

        Attributes:
            latent (NestedKey): read, one-hot ``[*B, Z]``. Default: ``"latent"``.
            latent_logits (NestedKey): written by the discriminator. Default:
                ``"latent_logits"``.
        """

        latent: NestedKey = LATENT
        latent_logits: NestedKey = LATENT_LOGITS

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = [
        "loss_qvalue",
        "loss_discriminator",
        "pred_value",
        "target_value",
        "recognized",
    ]
    _schedulable_buffers = frozenset({"gamma", "lmbda", "mutual_information_coeff"})

    discriminator_network: TensorDictModuleBase
    discriminator_network_params: TensorDictParams
    target_discriminator_network_params: TensorDictParams

    def __init__(
        self,
        local_value_network: TensorDictModuleBase,
        mixer_network: TensorDictModuleBase,
        discriminator_network: TensorDictModuleBase,
        *,
        mutual_information_coeff: float = 1.0,
        gamma: float = 0.99,
        double_q: bool = True,
        lmbda: float = 0.0,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(
            local_value_network,
            mixer_network,
            gamma=gamma,
            double_q=double_q,
            lmbda=lmbda,
            reduction=reduction,
        )
        check_non_negative(mutual_information_coeff=mutual_information_coeff)
        self.convert_to_functional(
            discriminator_network, "discriminator_network", create_target_params=False
        )
        self.register_coeff_buffer("mutual_information_coeff", float(mutual_information_coeff))

    @property
    def in_keys(self) -> list[NestedKey]:
        value = self.tensor_keys.action_value
        read = [key for key in self.discriminator_network.in_keys if key != value]
        return unique([*self._value_keys(), *read, self.tensor_keys.latent])

    def _losses(
        self, tensordict: TensorDictBase, batch: TensorDictBase, local: TensorDictBase
    ) -> TensorDictBase:
        keys = self.tensor_keys
        logits = self._guess(batch, local.get(keys.action_value))
        check_same_shape(batch, keys.latent, logits.shape)
        latent = batch.get(keys.latent).to(logits.dtype)
        surprise = -(latent * logits.log_softmax(-1)).sum(-1)
        recognized = (logits.argmax(-1) == latent.argmax(-1)).to(logits.dtype)
        losses = super()._losses(tensordict, batch, local)
        losses.set(
            "loss_discriminator",
            self._reduce_loss(self.mutual_information_coeff * surprise, tensordict=batch),
        )
        mean = self._reduce_loss(recognized, tensordict=batch, reduction="mean")
        return losses.set("recognized", mean)

    def _guess(self, batch: TensorDictBase, value: torch.Tensor) -> torch.Tensor:
        """Logits of z, ``[*B, Z]``, with the gradient of the agents' values."""
        network, keys = self.discriminator_network, self.tensor_keys
        require_written(network, keys.latent_logits)
        read = [key for key in network.in_keys if key != keys.action_value]
        inputs = batch.select(*read).set(keys.action_value, value)
        params = self.discriminator_network_params
        return functional_call(
            params, network, lambda: run_network(network, inputs).get(keys.latent_logits)
        )
