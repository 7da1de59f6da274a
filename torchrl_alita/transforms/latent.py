"""What a team agrees on at the beginning of an episode."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torchrl.data import Composite, OneHot, Unbounded
from torchrl.envs import Transform

from torchrl_alita._borrow import borrow
from torchrl_alita._checks import check_same_shape, sizes
from torchrl_alita.layout import LATENT, LATENT_LOG_PROB
from torchrl_alita.modules.one_hot import one_hot
from torchrl_alita.transforms import _transition

__all__ = ["EpisodeLatent"]


class EpisodeLatent(Transform):
    """A latent variable for the team, drawn at the beginning of each episode, ``[*B, Z]``.

    Appended to an environment, for policies that act by it, as MAVEN's do
    (https://arxiv.org/abs/1910.07483): one-hot, the same for all agents and steps of an
    episode. Each of Z values is drawn equally often, or by a policy that reads what there is
    to see at the beginning; the log-probability of its draw stays for the episode too.

    Args:
        num_latents: Z.
        policy: writes the variable ``[*B, Z]`` and ``"latent_log_prob"`` ``[*B]``, as
            :func:`torchrl_alita.modules.make_latent_policy` does. It is borrowed: the transform
            neither saves nor trains it. Default: none, uniform.
        latent: key written; the policy writes its last part, and the log-probability stands beside
            it. Default: ``"latent"``.

    Raises:
        ValueError: if Z is below 1, the policy does not write what it must, or in a worker
            process is a copy that does not learn; when called, if it writes a variable of another
            shape.

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
        path = (latent,) if isinstance(latent, str) else tuple(latent)
        self.drawn_keys = [path[-1], LATENT_LOG_PROB][: 1 if policy is None else 2]
        super().__init__(out_keys=[unravel_key((*path[:-1], key)) for key in self.drawn_keys])
        (self.num_latents,) = sizes("num_latents", [num_latents])
        missing = set() if policy is None else set(self.drawn_keys) - set(policy.out_keys)
        if missing:
            raise ValueError(f"The policy of the latent variable must write {sorted(missing)}.")
        self.policy: TensorDictModuleBase | None = None
        if policy is not None:
            borrow(self, "policy", policy)

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        for key in self.out_keys:
            next_tensordict.set(key, tensordict.get(key).clone())
        return next_tensordict

    @torch.no_grad()
    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        """For all environments; those that did not end keep theirs."""
        shape = (*self.parent.batch_size, self.num_latents)
        if self.policy is not None:
            drawn = self.policy(tensordict_reset.copy())
            check_same_shape(drawn, self.drawn_keys[0], shape)
            for key, written in zip(self.drawn_keys, self.out_keys, strict=True):
                tensordict_reset.set(written, drawn.get(key).float())
            return tensordict_reset
        # The least of exponential draws is each one's equally often.
        best = torch.empty(shape, device=self.parent.device).exponential_().argmin(-1)
        return tensordict_reset.set(self.out_keys[0], one_hot(best, self.num_latents))

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        _transition.check_trained_here(self)
        rows, device = observation_spec.shape, observation_spec.device
        shape = (*rows, self.num_latents)
        observation_spec[self.out_keys[0]] = OneHot(
            self.num_latents, shape=shape, dtype=torch.float32, device=device
        )
        if self.policy is not None:
            observation_spec[self.out_keys[1]] = Unbounded(shape=rows, device=device)
        return observation_spec
