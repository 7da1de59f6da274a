r"""Scripts for the particle games of the paper's Tables 2 to 4, with one-hot actions.

    torchrl-alita train sides --task mpe/adversary --side.good mappo \
        --side.adversary benchmarks.scripted_particles:picks

Agents steer by their position and speed: of the five actions they take the one after which they
would coast nearest to where they want to be. Scripts for a whole team know what their game's best
policy must find out: who goes to which landmark, and which of them is the goal. ``picks`` and
``follows`` are of the adversary alone, and see what it sees.
"""

from __future__ import annotations

from itertools import permutations

import torch
from tensordict import TensorDictBase
from torch.nn.functional import one_hot

from torchrl_alita.envs.particles import GOAL, POSITIONS
from torchrl_alita.layout import ACTION, OBSERVATION

# What one action adds to the speed, and where speeds lead: in as many steps, undamped, as far as
# with the damping and a correction on the way.
PUSH = 0.5 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
KEPT, COAST = 0.75, 0.25
TARGET, BEFORE = "target", "before"
# Of an adversary that does not see its speed: nearer than that it lets itself drift.
NEAR = 0.15


def steer(offset: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
    """Actions that bring agents to where they want to be, ``[B, N, 2], [B, N, 2] -> [B, N, 5]``."""
    ahead = COAST * (KEPT * velocity.unsqueeze(-2) + PUSH)
    return one_hot((ahead - offset.unsqueeze(-2)).norm(dim=-1).argmin(-1), len(PUSH)).float()


def assigned(distance: torch.Tensor) -> torch.Tensor:
    """The landmark of each agent with the least sum of distances, ``[B, N, N] -> [B, N]``."""
    agents = range(distance.shape[-1])
    orders = torch.tensor([*permutations(agents)])
    sums = [distance[:, agents, order].sum(-1) for order in orders]
    return orders[torch.stack(sums, -1).argmin(-1)]


def share_out(tensordict: TensorDictBase) -> TensorDictBase:
    """Cooperative navigation: the landmarks are shared out at the start, and kept."""
    observation = tensordict[OBSERVATION]
    agents = observation.shape[-2]
    offsets = observation[..., 4 : 4 + 2 * agents].unflatten(-1, (-1, 2))
    target = tensordict.get(TARGET, None)
    if target is None:
        target = assigned(offsets.norm(dim=-1))
    offset = offsets.take_along_dim(target[..., None, None], -2).squeeze(-2)
    return tensordict.set(TARGET, target).set(ACTION, steer(offset, observation[..., :2]))


def know_the_goal(tensordict: TensorDictBase) -> TensorDictBase:
    """Cooperative communication: the listener goes where the speaker alone may look."""
    listener = tensordict[OBSERVATION][:, 1:]
    offsets = listener[..., 2:8].unflatten(-1, (3, 2))
    offset = offsets.take_along_dim(tensordict[GOAL][..., None, None], -2).squeeze(-2)
    still = torch.zeros_like(offset)
    both = torch.cat([still, offset], 1), torch.cat([still, listener[..., :2]], 1)
    return tensordict.set(ACTION, steer(*both))


def split(tensordict: TensorDictBase, *, follow: bool) -> TensorDictBase:
    """Physical deception: good agents on all landmarks, an adversary that picks or follows."""
    positions = tensordict[POSITIONS]
    agents = (positions.shape[-2] + 1) // 2
    own, landmarks = positions.split([agents, agents - 1], -2)
    before = tensordict.get(BEFORE, own)
    target = tensordict.get(TARGET, None)
    if target is None:
        target = assigned(torch.cdist(own[:, 1:], landmarks))
    nearest = torch.cdist(landmarks, own[:, 1:]).amin(-1).argmin(-1, keepdim=True)
    picked = nearest if follow else torch.zeros_like(nearest)
    goals = landmarks.take_along_dim(torch.cat([picked, target], -1)[..., None], -2)
    action = steer(goals - own, (own - before) / 0.1)
    return tensordict.set(TARGET, target).set(BEFORE, own).set(ACTION, action)


def _approach(tensordict: TensorDictBase, picked: torch.Tensor) -> TensorDictBase:
    """Towards a landmark, ``[B, 1]``, along the longer way; the speed is not seen."""
    landmarks = tensordict[OBSERVATION][..., :4].unflatten(-1, (2, 2))
    offset = landmarks.take_along_dim(picked[..., None, None], -2).squeeze(-2)
    far = offset * (offset.norm(dim=-1, keepdim=True) > NEAR)
    return tensordict.set(ACTION, steer(far, torch.zeros_like(far)))


def picks(tensordict: TensorDictBase) -> TensorDictBase:
    """An adversary that goes to the first landmark, which is the goal in half of the episodes."""
    shape = tensordict[OBSERVATION].shape[:-1]
    return _approach(tensordict, torch.zeros(shape, dtype=torch.long))


def follows(tensordict: TensorDictBase) -> TensorDictBase:
    """An adversary that goes to the landmark that a good agent is nearest to."""
    seen = tensordict[OBSERVATION].unflatten(-1, (-1, 2))
    away = torch.cdist(seen[..., :2, :], seen[..., 2:4, :]).amin(-1)
    return _approach(tensordict, away.argmin(-1))
