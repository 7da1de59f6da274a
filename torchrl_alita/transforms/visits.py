"""A bonus for what was seldom seen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import dispatch

from torchrl_alita import functional
from torchrl_alita._checks import check_agents, check_at_least_one, check_flag, require_keys
from torchrl_alita.data.codes import call_code, number_of_codes
from torchrl_alita.data.counts import CountTable, check_codes
from torchrl_alita.layout import OBSERVATION, VISIT_BONUS, next_key
from torchrl_alita.transforms import _transition

__all__ = ["VisitBonus"]


class VisitBonus(_transition.TransitionTransform):
    r"""Bonus for states that were seldom visited, ``-> [*B, N, 1]``.

    .. math:: b(s') = \frac{1}{\sqrt{\max(n(s'), 1)}}

    with n the number of visits of the state's code, this one included: the count-based bonus
    of https://arxiv.org/abs/1910.05512, up to its factor of 10. With a code of each agent it is
    their "decentralized" curiosity, with one of the team their "centralized" one, paid to all.
    It is written under ``("next", "agents", "visit_bonus")``, and the reward stays as it is.

    Counting and paying are two things. :meth:`update` counts the states of a rollout, a
    call on a batch pays by today's counts and changes nothing, and :meth:`observe` does both.
    So a replay buffer pays a transition as often as it is drawn and counts it once. Appended to
    an environment, each step is counted and then paid, unless it is frozen. In worker processes
    each counts alone.

    Args:
        code: the next observation's code, ``[*B, N, O] -> [*B, N]`` for each agent or
            ``[*B]`` for the team, as in :class:`torchrl_alita.data.OneHotCode`.
        num_codes: C, for a code that does not say it by an attribute of this name.
        num_agents: N, for a table of each agent's own. Default: None, the agents share
            their counts.
        slots: entries of a hashed table, see :class:`torchrl_alita.data.CountTable`.
            Default: None, a dense table.
        frozen: an environment's steps are paid and not counted, as for evaluation. Default:
            False.
        observation: key read, in "next". Default: ``("agents", "observation")``.
        visit_bonus: key written, under "next" in a batch. Default:
            ``("agents", "visit_bonus")``.

    Raises:
        ValueError: if num_codes is not that of the code; when called, if nothing was
            counted yet, a code does not fit the table, or is of other agents.
        TypeError: when called, if the codes are not int64.
        KeyError: when called, if the batch lacks the observation.

    Examples:
        >>> from tensordict import TensorDict
        >>> from torchrl_alita.data import BinCode
        >>> bonus = VisitBonus(BinCode([0.0], [1.0], 10))
        >>> seen = torch.tensor([[[0.11], [0.12]], [[0.13], [0.95]], [[0.14], [0.55]]])
        >>> batch = TensorDict({"next": {"agents": {"observation": seen}}}, [3])
        >>> bonus.update(batch)
        >>> bonus(batch)["next", "agents", "visit_bonus"].squeeze(-1)
        tensor([[0.5000, 0.5000],
                [0.5000, 1.0000],
                [0.5000, 1.0000]])
    """

    def __init__(
        self,
        code: Callable[[torch.Tensor], torch.Tensor],
        *,
        num_codes: int | None = None,
        num_agents: int | None = None,
        slots: int | None = None,
        frozen: bool = False,
        observation: NestedKey = OBSERVATION,
        visit_bonus: NestedKey = VISIT_BONUS,
    ):
        super().__init__(in_keys=[next_key(observation)], out_keys=[visit_bonus])
        self.code = code
        self.num_codes = number_of_codes("code", code, num_codes)
        if num_agents is not None:
            check_at_least_one(num_agents=num_agents)
        check_flag(frozen=frozen)
        self.num_agents = None if num_agents is None else int(num_agents)
        self.frozen = frozen
        self.table = CountTable(self.num_codes * (self.num_agents or 1), slots=slots)

    @torch.no_grad()
    def _codes(self, observation: torch.Tensor) -> torch.Tensor:
        self.table.check_device(observation)
        codes = call_code("code", self.code, observation)
        if self.num_agents is None:
            return codes
        if codes.shape != (*observation.shape[:-2], self.num_agents):
            raise ValueError(
                f"Tables of {self.num_agents} agents need a code of each of them, got the shape "
                f"{tuple(codes.shape)}."
            )
        check_codes(codes, self.num_codes)
        first = torch.arange(self.num_agents, device=codes.device) * self.num_codes
        return codes + first

    def update(self, batch: TensorDictBase) -> None:
        """Count the states that the steps of a batch led to.

        Args:
            batch: of any batch size, with the next observation.

        Raises:
            ValueError: if a code does not fit the table; nothing is counted then.
            KeyError: if the batch lacks the observation.
        """
        self.table.add(self._codes(self._observation(batch)))

    def observe(self, batch: TensorDictBase) -> TensorDictBase:
        """Count the states of a batch and pay them, which is faster than one by one.

        Args:
            batch: of any batch size.

        Returns:
            A shallow copy with the bonus.
        """
        observation = self._observation(batch)
        codes = self._codes(observation)
        self.table.add(codes)
        bonus = self._bonus(codes, observation)
        return _transition.set_entry(batch, self.batch_out_keys[0], bonus)

    def _observation(self, batch: TensorDictBase) -> torch.Tensor:
        require_keys(batch, self.in_keys)
        check_agents(batch, self.in_keys)
        return batch.get(self.in_keys[0])

    @torch.no_grad()
    def _bonus(self, codes: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        if self.table.empty:
            raise ValueError(
                "VisitBonus has counted no visit yet: call update(batch) before the bonus is read."
            )
        dtype = _transition.dtype_beside(observation.dtype)
        bonus = functional.visit_bonus(self.table.count(codes)).to(dtype)
        if bonus.ndim == observation.ndim - 2:
            bonus = bonus.unsqueeze(-1).expand(observation.shape[:-1])
        return bonus.unsqueeze(-1)

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        key = self.in_keys[0][1:]
        require_keys(next_tensordict, [key])
        observation = next_tensordict.get(key)
        codes = self._codes(observation)
        if not self.frozen:
            self.table.add(codes)
        return next_tensordict.set(self.out_keys[0], self._bonus(codes, observation))

    @dispatch(source="in_keys", dest="batch_out_keys", auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        observation = self._observation(tensordict)
        bonus = self._bonus(self._codes(observation), observation)
        return _transition.set_entry(tensordict, self.batch_out_keys[0], bonus)
