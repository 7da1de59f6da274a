"""What an environment must say at each step to networks with a memory."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.data import Composite
from torchrl.envs import Compose, InitTracker, TensorDictPrimer, Transform
from torchrl.modules.utils import get_primers_from_module

from torchrl_alita.layout import ACTION, LAST_ACTION
from torchrl_alita.modules import LatentGRU, SidesPolicy
from torchrl_alita.transforms.latent import EpisodeLatent

__all__ = ["LastAction", "recurrent_transforms"]


class LastAction(Transform):
    """The action that led to an observation, ``[*B, N, A]``, zeros where an episode begins.

    Appended to an environment, for networks that read it beside the observation, as PyMARL's
    agents do (https://arxiv.org/abs/1902.04043).

    Args:
        action: key read. Default: ``("agents", "action")``.
        last_action: key written. Default: ``("agents", "last_action")``.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2).append_transform(LastAction())
        >>> episode = env.rollout(3)
        >>> bool((episode["agents", "last_action"][:, 1] == episode["agents", "action"][:, 0]).all())
        True
    """

    def __init__(self, *, action: NestedKey = ACTION, last_action: NestedKey = LAST_ACTION):
        super().__init__(in_keys=[action], out_keys=[last_action])

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return next_tensordict.set(self.out_keys[0], tensordict.get(self.in_keys[0]).clone())

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        spec = self.parent.full_action_spec[self.in_keys[0]]
        none = torch.zeros(spec.shape, dtype=spec.dtype, device=spec.device)
        return tensordict_reset.set(self.out_keys[0], none)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        spec = self.parent.full_action_spec[self.in_keys[0]].clone()
        observation_spec[self.out_keys[0]] = spec
        return observation_spec


def recurrent_transforms(network: TensorDictModuleBase) -> Compose:
    """What an environment needs for a network with a memory.

    TorchRL's InitTracker, which marks where episodes begin, :class:`LastAction`, the network's
    primers, which give its state, and for one with a latent variable :class:`EpisodeLatent`.
    With them an agent sees what PyMARL's see (https://arxiv.org/abs/1902.04043). An
    EpisodeLatent of your own must be appended after these, or theirs replaces what it draws.

    Args:
        network: as in :func:`torchrl_alita.modules.make_recurrent_actor`; or a
            :class:`torchrl_alita.modules.SidesPolicy` of which a side has a memory.

    Returns:
        For ``env.append_transform``.

    Raises:
        ValueError: if the network has no memory.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import make_recurrent_actor
        >>> env = make_env("vmas/spread", num_envs=2, n_agents=3)
        >>> [type(t).__name__ for t in recurrent_transforms(make_recurrent_actor(env))]
        ['InitTracker', 'LastAction', 'TensorDictPrimer']
    """
    primers = _primers(network)
    if primers is None:
        raise ValueError(f"{type(network).__name__} has no memory to prime.")
    last_action = [LastAction()] if LAST_ACTION in network.in_keys else []
    return Compose(InitTracker(), *last_action, *_latents(network), primers)


def _latents(network: TensorDictModuleBase) -> list[Transform]:
    """What draws the latent variable of a network; of each side's, where the side has it."""
    parts = network.of_side if isinstance(network, SidesPolicy) else {"": network}
    found = [
        (name, module)
        for name, policy in parts.items()
        for module in policy.modules()
        if isinstance(module, LatentGRU)
    ]
    return [
        EpisodeLatent(
            module.num_latents,
            policy=module.latent_policy,
            latent=network.outside(name, module.latent, own=True) if name else module.latent,
        )
        for name, module in found
    ]


def _primers(network: TensorDictModuleBase) -> Transform | None:
    if not isinstance(network, SidesPolicy):
        return get_primers_from_module(network, warn=False)
    specs = Composite()
    for name, policy in network.of_side.items():
        primers = get_primers_from_module(policy, warn=False)
        for key in () if primers is None else primers.primers.keys(True, True):
            specs[network.outside(name, key, own=True)] = primers.primers[key]
    return None if specs.is_empty() else TensorDictPrimer(specs, expand_specs=True)
