"""A package that is too heavy for one agent, with a reward at its goal alone (extra ``vmas``).

VMAS's scenario ``transport``, https://arxiv.org/abs/2207.03530, pays every step by which the package
comes nearer. Without that the team has to find out by itself what its task is, as in Push-Box, with
real positions in the place of cells.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn
from torchrl.envs import Compose, EnvBase, StepCounter, TransformedEnv

from torchrl_alita._checks import check_at_least_one, check_positive, require_keys
from torchrl_alita._settings import Settings
from torchrl_alita.data import BinCode, CountCodes
from torchrl_alita.envs._grid import running
from torchrl_alita.envs.as_team import TeamLayout
from torchrl_alita.envs.registry import Task, register_task
from torchrl_alita.envs.vmas import StreamedVmasEnv, WorldPoses, draw_vmas
from torchrl_alita.layout import DONE, OBSERVATION, REWARD, TERMINATED, next_key

__all__ = [
    "SparseTransport",
    "SparseTransportSettings",
    "sparse_transport_metrics",
]

_SCENARIO = "transport"
# Of an observation: own position and velocity, the package's offset from the goal and from the
# agent, its velocity, and whether it is there.
_FROM_GOAL, _FROM_AGENT, _VELOCITY = (4, 5), (6, 7), (8, 9)
# What is counted: half widths and bins of the package's place, of the agent's beside it, and of
# on which side of it the agent is. Of three bins of velocity the middle one is a package that
# stands.
_ANYWHERE, _PLACES = 2.0, 32
_NEAR, _BESIDE = 0.6, 12
_AT, _SIDES = 0.3, 4
_MOVES = 3e-3


class SparseTransport(StreamedVmasEnv):
    r"""``transport`` of VMAS, where every agent earns the reward when the package is at its goal.

    .. math:: r_i = \begin{cases} reward & \text{the package touches the goal} \\
        0 & \text{otherwise} \end{cases}

    The episode terminates then. Agents, package and goal begin anywhere in a square of half
    width 1. ``("agents", "observation")`` is ``[B, N, 11]``: an agent's position and velocity,
    the package's offset from the goal and from the agent, its velocity, and whether it touches
    the goal.

    Args:
        package_mass: an agent has 1. Default: 5; VMAS's own is 50.
        reward: paid at the goal. Default: 1.
        action_repeat: steps of the simulator, of 0.1 s, in each of which an action is done.
            Default: 5: at random, forces that change at every step move nothing heavy.
        **kwargs: of :class:`StreamedVmasEnv`: ``num_envs``, ``n_agents``, ``seed``, ``device``.

    Raises:
        ImportError: if VMAS is not installed.
        ValueError: if a number is not above 0, or the action is repeated less than once.

    Examples:
        >>> env = SparseTransport(num_envs=2, n_agents=2, seed=0)
        >>> env.rollout(3)["next", "agents", "reward"].sum().item()
        0.0
    """

    def __init__(
        self,
        *,
        package_mass: float = 5.0,
        reward: float = 1.0,
        action_repeat: int = 5,
        **kwargs: Any,
    ):
        check_positive(package_mass=package_mass, reward=reward)
        check_at_least_one(action_repeat=action_repeat)
        super().__init__(_SCENARIO, package_mass=package_mass, **kwargs)
        self.__dict__["_reward"] = float(reward)
        self.__dict__["_action_repeat"] = action_repeat

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        after = super()._step(tensordict)
        reached = after.get(TERMINATED)
        for _ in range(self._action_repeat - 1):
            after = super()._step(tensordict)
            reached = reached | after.get(TERMINATED)
        paid = reached.unsqueeze(-2).expand_as(after.get(REWARD)) * self._reward
        after.set(REWARD, paid.to(torch.float32))
        return after.set(TERMINATED, reached).set(DONE, reached.clone())

    def count_codes(self) -> CountCodes:
        """What bonuses count: where the package is, where the agent is beside it, how it moves.

        An agent's own state is the package's offset from the goal and from the agent, in bins,
        and the direction in which the package moves; the team's is the package's offset from
        the goal. The outcome is the package's next direction: it depends on the direction
        before and on where the agents are beside the package, in wider bins.

        Returns:
            The codes.
        """
        side, moves = (_AT, _SIDES, _FROM_AGENT), (_MOVES, 3, _VELOCITY)
        beside, place = (_NEAR, _BESIDE, _FROM_AGENT), (_ANYWHERE, _BESIDE, _FROM_GOAL)
        return CountCodes(
            own=_bins(place, beside, moves),
            team=_bins((_ANYWHERE, _PLACES, _FROM_GOAL), observer=0),
            outcome=_After(_bins(moves)),
            part=_bins(side),
            before=_bins(side, moves),
        )


def _bins(*squares: tuple[float, int, tuple[int, int]], observer: int | None = None) -> BinCode:
    """The code of places in squares around 0: half width, bins of each axis, features."""
    sides = [(half_width, bins, axis) for half_width, bins, axes in squares for axis in axes]
    half_widths, bins, features = map(list, zip(*sides, strict=True))
    low = [-half_width for half_width in half_widths]
    return BinCode(low, half_widths, bins, features=features, observer=observer)


class _After(nn.Module):
    """The code of what comes after a step, ``[*B, N, O] x 2 -> [*B, N]``."""

    def __init__(self, code: BinCode):
        super().__init__()
        self.code, self.num_codes = code, code.num_codes

    def forward(self, observation: torch.Tensor, next_observation: torch.Tensor) -> torch.Tensor:
        return self.code(next_observation)


def sparse_transport_metrics(episodes: TensorDictBase) -> dict[str, torch.Tensor]:
    """Figures of merit of the sparse transport, episodes ``[B, T]`` -> scalars.

    Args:
        episodes: from their first steps on.

    Returns:
        ``success_share``: share of the episodes in which the package came to its goal.
        ``steps_to_success``: steps until then, mean over the episodes; one without success
        counts with its length. ``package_distance``: of the package from the goal at the
        episode's end, in units of the arena's half width.

    Raises:
        KeyError: if the episodes hold no next observation.

    Examples:
        >>> metrics = sparse_transport_metrics(SparseTransport(num_envs=3, seed=0).rollout(5))
        >>> float(metrics["success_share"])
        0.0
    """
    require_keys(episodes, [next_key(OBSERVATION)])
    runs = running(episodes)
    success = (episodes[next_key(TERMINATED)].squeeze(-1) & runs).any(1)
    distance = episodes[next_key(OBSERVATION)][..., 0, list(_FROM_GOAL)].norm(dim=-1)
    last = runs.sum(1, keepdim=True) - 1
    return {
        "success_share": success.float().mean(),
        "steps_to_success": runs.sum(1).float().mean(),
        "package_distance": distance.gather(1, last).mean(),
    }


@dataclass(frozen=True, kw_only=True)
class SparseTransportSettings(Settings):
    """What the task ``vmas/sparse_transport`` can set; see :class:`SparseTransport`.

    Raises:
        ValueError: for a number that is not above 0.
    """

    package_mass: float = 5.0
    """Of the package; an agent has 1 (VMAS: 50)."""
    reward: float = 1.0
    """Paid to every agent when the package is at its goal."""
    action_repeat: int = 5
    """Steps of the simulator in each of which an action is done."""
    continuous_actions: bool = False
    """A force for each agent; else one-hot actions: to stay, or one of eight directions."""

    def __post_init__(self):
        super().__post_init__()
        check_positive(package_mass=self.package_mass, reward=self.reward)
        check_at_least_one(action_repeat=self.action_repeat)


def _make(
    *,
    num_envs: int,
    n_agents: int,
    device: torch.device | str,
    seed: int | None,
    horizon: int,
    settings: SparseTransportSettings,
) -> EnvBase:
    env = SparseTransport(
        num_envs=num_envs, n_agents=n_agents, device=device, seed=seed, **asdict(settings)
    )
    layout = [] if settings.continuous_actions else [TeamLayout(env, ["observation"])]
    return TransformedEnv(env, Compose(*layout, WorldPoses(env), StepCounter(max_steps=horizon)))


register_task(
    "vmas/sparse_transport",
    Task(
        make=_make,
        metrics=sparse_transport_metrics,
        draw=partial(draw_vmas, scenario=_SCENARIO),
        settings=SparseTransportSettings(),
        n_agents=3,
        horizon=40,
    ),
)
