"""The others' actions over which an influenced value is averaged, Eq. 3."""

from __future__ import annotations

import torch

from torchrl_alita.objectives.optimum import enumerate_joint_actions


def every_other_action(
    probabilities: torch.Tensor, influencer: int, *, budget: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """All joint actions of the others and their probabilities.

    Args:
        probabilities: of the actions of all agents, ``[*B, N, L]``.
        influencer: whose action is left out: its rows are zero.
        budget: most joint actions.

    Returns:
        ``[M, 1.., N, L]`` with as many ones as ``*B`` has dimensions, and ``[M, *B]``.

    Raises:
        ValueError: if there are more than the budget.
    """
    num_agents, num_actions = probabilities.shape[-2:]
    count = num_actions ** (num_agents - 1)
    if count > budget:
        raise ValueError(
            f"The others have {num_actions}**{num_agents - 1} = {count} joint actions, more than "
            f"enumeration_budget = {budget}: draw some of them with num_action_samples."
        )
    others = enumerate_joint_actions(num_agents - 1, num_actions, device=probabilities.device)
    others = others.to(probabilities.dtype)
    own = torch.zeros_like(others[:, :1])
    joint = torch.cat([others[:, :influencer], own, others[:, influencer:]], dim=1)
    joint = joint.view(count, *(1,) * (probabilities.ndim - 2), num_agents, num_actions)
    # The influencer's row of zeros must not make every product zero.
    taken = (joint * probabilities).sum(-1)
    taken = torch.cat([taken[..., :influencer], taken[..., influencer + 1 :]], dim=-1)
    return joint, taken.prod(-1)
