"""What a team agrees on at the beginning of an episode."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.data import Composite, OneHot
from torchrl.envs import Transform

from torchrl_alita._checks import sizes
from torchrl_alita.layout import LATENT

__all__ = ["EpisodeLatent"]


class EpisodeLatent(Transform):
    """A latent variable for the team, drawn at the beginning of each episode, ``[*B, Z]``.

    Appended to an environment, for policies that act by it, as MAVEN's do
    (https://arxiv.org/abs/1910.07483): one-hot, the same for all agents and steps of an
    episode. Each of Z values is drawn equally often, or as a policy says that reads what
    there is to see at the beginning.

    Args:
        num_latents: Z.
        policy: writes ``"latent_logits"`` ``[*B, Z]``. It is borrowed: the transform neither
            saves nor trains it. Default: none, uniform.
        latent: key written. Default: ``"latent"``.

    Raises:
        ValueError: if Z is below 1.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("push_box", num_envs=5, n_agents=2, horizon=3, seed=0)
        >>> env = env.append_transform(EpisodeLatent(4))
        >>> episodes = env.rollout(6, break_when_any_done=False)
        >>> episodes["latent"].shape
        torch.Size([5, 6, 4])
        >>> drawn = episodes["latent"].argmax(-1)
        >>> bool((drawn[:, 0] == drawn[:, 2]).all() and (drawn[:, 3] == drawn[:, 5]).all())
        True
    """

    def __init__(
        self,
        num_latents: int,
        *,
        policy: TensorDictModuleBase | None = None,
        latent: NestedKey = LATENT,
    ):
        super().__init__(out_keys=[latent])
        (self.num_latents,) = sizes("num_latents", [num_latents])
        self.__dict__["policy"] = policy

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return next_tensordict.set(self.out_keys[0], tensordict.get(self.out_keys[0]).clone())

    @torch.no_grad()
    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        """For all environments; those that did not end keep theirs."""
        rows, device = self.parent.batch_size, self.parent.device
        if self.policy is None:
            logits = torch.zeros(*rows, self.num_latents, device=device)
        else:
            logits = self.policy(tensordict_reset.copy()).get("latent_logits")
        noise = torch.empty_like(logits).exponential_().log()
        best = (logits - noise).argmax(-1)
        drawn = torch.nn.functional.one_hot(best, self.num_latents).to(logits.dtype)
        return tensordict_reset.set(self.out_keys[0], drawn)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        shape = (*observation_spec.shape, self.num_latents)
        observation_spec[self.out_keys[0]] = OneHot(
            self.num_latents, shape=shape, dtype=torch.float32, device=observation_spec.device
        )
        return observation_spec
