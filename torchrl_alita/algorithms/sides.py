"""Sides with different algorithms in one game."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.envs import EnvBase, Transform

# The registry, which imports this module, builds the sides' algorithms.
from torchrl_alita._checks import agent_indices, check_callable, check_kind, did_you_mean
from torchrl_alita._extras import import_named
from torchrl_alita.algorithms import registry
from torchrl_alita.algorithms._learner import (
    AlgorithmSettings,
    Learner,
    LearnerSettings,
)
from torchrl_alita.data import Replay
from torchrl_alita.envs import SideView, check_sides, sides_of
from torchrl_alita.layout import ACTION, layout_of
from torchrl_alita.modules import RandomPolicy, SidesPolicy, side_of
from torchrl_alita.transforms import recurrent_transforms

__all__ = ["Sides", "SidesSettings", "fixed_policy"]

RANDOM = "random"
Policy = Callable[[TensorDictBase], TensorDictBase]


@dataclass(frozen=True, kw_only=True)
class SidesSettings(AlgorithmSettings):
    """Settings of :class:`Sides`: what each side follows.

    Raises:
        TypeError: for a value of another type; the field is named.
        ValueError: for settings of sides that cannot learn together; what to change is said.

    Examples:
        >>> from torchrl_alita.algorithms import ALITASettings, MADDPGSettings
        >>> sides = {"good": ALITASettings(influence_coeff=0.2), "adversary": MADDPGSettings()}
        >>> settings = SidesSettings(sides=sides)
        >>> settings.learning["good"].influence_coeff
        0.2
        >>> settings.frames_per_update
        100
        >>> SidesSettings(sides={"good": ALITASettings(), "adversary": "random"}).fixed
        {'adversary': 'random'}
    """

    sides: tuple[tuple[str, LearnerSettings | str], ...] = ()
    """Of each side its name and what it follows: settings of an algorithm, by which it learns;
    or, if it is held fixed, "random", "module:function" for a script, or the directory of a run
    whose policies it has. A dict will do."""
    agents: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Of each side its name and its agents. Default: as the environment has them, see
    ``sides_of``. A dict will do."""

    def __post_init__(self):
        for name in ("sides", "agents"):
            object.__setattr__(self, name, _pairs(name, getattr(self, name)))
        sides = [(name, _followed(name, own)) for name, own in self.sides]
        object.__setattr__(self, "sides", tuple(sides))
        agents = [
            (name, agent_indices(f"The agents of the side {name!r}", own))
            for name, own in self.agents
        ]
        object.__setattr__(self, "agents", tuple(agents))
        super().__post_init__()
        names = [name for name, _ in self.sides]
        for name in names:
            if not name.isidentifier() or names.count(name) > 1:
                raise ValueError(f"Sides must have a name each, of letters, got {names}.")
        for option in ("frames_per_update", "buffer_size"):
            values = {
                name: getattr(own, option)
                for name, own in self.learning.items()
                if hasattr(own, option)
            }
            if len(set(values.values())) > 1:
                raise ValueError(f"Sides that learn must have one {option}, got {values}.")

    @property
    def learning(self) -> dict[str, LearnerSettings]:
        """Settings of the sides that learn."""
        return {name: own for name, own in self.sides if not isinstance(own, str)}

    @property
    def fixed(self) -> dict[str, str]:
        """What the sides follow that do not learn."""
        return {name: own for name, own in self.sides if isinstance(own, str)}

    def with_sides(self, change: Callable[[str, Any], Any]) -> SidesSettings:
        """The same with what each side follows given through a function.

        Args:
            change: from a side's name and what it follows to what it follows instead.

        Examples:
            >>> settings = SidesSettings(sides={"good": "random", "adversary": "random"})
            >>> settings.with_sides(lambda name, follows: "runs/a").fixed["good"]
            'runs/a'
        """
        check_callable("change", change)
        return replace(self, sides=tuple((name, change(name, own)) for name, own in self.sides))

    # What a training loop asks of every algorithm that learns from stored transitions.

    @property
    def frames_per_update(self) -> int | None:
        """Environment steps for each update; None if all sides learn on-policy."""
        return self._first("frames_per_update")

    @property
    def buffer_size(self) -> int | None:
        """Most transitions stored; None if all sides learn on-policy."""
        return self._first("buffer_size")

    @property
    def batch_size(self) -> int | None:
        """Transitions of the first batch; each side draws as many as its own settings say."""
        return self._first("batch_size")

    @property
    def random_frames(self) -> int:
        """Environment steps at the start in which all sides act at random: the most of any."""
        return max((getattr(own, "random_frames", 0) for own in self.learning.values()), default=0)

    def _first(self, option: str) -> Any:
        own = self.learning.values()
        return next((getattr(each, option) for each in own if hasattr(each, option)), None)

    def plain(self) -> dict[str, Any]:
        """The options by name, as JSON has them; each side with its algorithm's name.

        Examples:
            >>> SidesSettings(sides={"good": "random"}).plain()
            {'sides': {'good': 'random'}, 'agents': {}}
        """
        return {
            "sides": {
                name: own
                if isinstance(own, str)
                else {"name": registry.algorithm_of(own), **own.plain()}
                for name, own in self.sides
            },
            "agents": {name: list(agents) for name, agents in self.agents},
        }

    @classmethod
    def from_plain(cls, options: Mapping[str, Any]) -> SidesSettings:
        """The settings that :meth:`plain` has written.

        Args:
            options: what it gave.

        Raises:
            TypeError: for an option that is not known, or of another type.
            ValueError: for an unknown algorithm, or a value out of its range.

        Examples:
            >>> settings = SidesSettings(sides={"good": "random"})
            >>> SidesSettings.from_plain(settings.plain()) == settings
            True
        """
        if not isinstance(options.get("sides"), Mapping):
            raise TypeError(
                f"The settings of sides must have 'sides', what each follows by its name, got "
                f"{options}."
            )

        def follows(own: Any) -> Any:
            return own if isinstance(own, str) else registry.settings_from_plain(own)

        sides = {name: follows(own) for name, own in options["sides"].items()}
        agents = options.get("agents", {})
        return cls(sides=tuple(sides.items()), agents=tuple(agents.items()))


def _pairs(option: str, value: Any) -> tuple[tuple[str, Any], ...]:
    """A dict, or what is left of one, as pairs of a side's name and something."""
    pairs = tuple(value.items()) if isinstance(value, Mapping) else value
    fitting = isinstance(pairs, (tuple, list)) and all(
        isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in pairs
    )
    if not fitting:
        raise TypeError(
            f"{option} must be a dict with the names of sides as its keys, got {value!r}."
        )
    return tuple((name, own) for name, own in pairs)


def _followed(name: str, follows: Any) -> LearnerSettings | str:
    """What a side follows, a path as text."""
    if isinstance(follows, Path):
        return str(follows)
    words = "settings of an algorithm, 'random', 'module:function' or the directory of a run"
    check_kind(f"What the side {name!r} follows", follows, (LearnerSettings, str), words)
    return follows


class Sides(Learner):
    r"""Sides of one game, each with an algorithm of its own, or held fixed.

    Agents of one side follow one algorithm, those of another side another, as in Table 4 of
    https://arxiv.org/abs/2108.12581, where two agents face an adversary. Each side's learner is
    built for its own agents and sees their entries alone, so that every algorithm works unchanged,
    and influence, novelty and diversity stay within a side. For a side of n agents the critics of
    MADDPG are

    .. math:: Q_i(o_1, \dots, o_n, a_1, \dots, a_n),

    with the observations and actions of that side; the opponents are a part of its environment.
    (The authors' code of MADDPG shows a critic the opponents too.) Where the game has a
    ``"state"``, as for ``critic_input="state"`` and ``value_input="state"``, it is the whole
    game's.

    Sides that learn from stored transitions draw batches from one buffer, each with its own
    size, once for every ``frames_per_update`` steps. Sides that learn on-policy do so once for
    every batch that is collected, from what all sides have just done. In one game both can stand
    against each other. In the first ``random_frames`` of learning from stored transitions, all
    sides act at random, and nobody learns.

    Args:
        env: an environment in the layout of this package.
        settings: what each side follows.
        device: of the networks. Default: the environment's.
        policies: of fixed sides, by name, in the place of what the settings say: a module of the
            side's agents, an :class:`torchrl_alita.modules.AllAgents`, or a callable that writes
            ``("agents", "action")`` ``[*B, n, A]`` into the side's batch. They must be given for
            sides whose settings name a run.

    Raises:
        TypeError: if the settings are of another algorithm.
        ValueError: if a side of the game is missing or unknown, an agent is on two sides or on
            none, no side learns, or a side's settings do not fit the environment.
        KeyError: if the environment has another layout.

    Examples:
        >>> from torchrl_alita.algorithms import ALITASettings, MADDPGSettings
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("mpe/adversary", num_envs=5, seed=0)
        >>> sides = {"good": ALITASettings(), "adversary": MADDPGSettings()}
        >>> algorithm = Sides(env, SidesSettings(sides=sides))
        >>> batch = env.rollout(4, algorithm.actor).reshape(-1)
        >>> logs = algorithm.update(dict.fromkeys(algorithm.replays(), batch))
        >>> sorted(key for key in logs.keys() if "gap" in key or "loss_actor" in key)
        ['adversary/loss_actor', 'good/gap_0_1', 'good/loss_actor']
    """

    Settings: ClassVar[type[SidesSettings]] = SidesSettings
    settings: SidesSettings

    def __init__(
        self,
        env: EnvBase,
        settings: SidesSettings | None = None,
        *,
        device: torch.device | str | None = None,
        policies: Mapping[str, Policy] | None = None,
    ):
        super().__init__(env, settings, device=device)
        self.sides = _sides_in(env, self.settings)
        if not self.settings.learning:
            raise ValueError(
                f"No side learns, all are fixed: {self.settings.fixed}; cross_play plays them."
            )
        self.learners: dict[str, Learner] = {
            name: registry.get_algorithm(registry.algorithm_of(own))(
                SideView(env, self.sides[name]), own, device=self.device
            )
            for name, own in self.settings.learning.items()
        }
        for name, learner in self.learners.items():
            if learner.recurrent and not learner.on_policy:
                raise ValueError(
                    f"Sides learn from stored transitions without a memory: set recurrent to "
                    f"False for the side {name!r}."
                )
            if len(learner.candidates()) > 1 or learner.prepare(env) is not env:
                kind = registry.algorithm_of(self.settings.learning[name])
                raise ValueError(f"{kind} is for a whole game, not for the side {name!r} of one.")
        fixed = _fixed_policies(env, self.settings, self.sides, policies, device=self.device)
        acting = {name: learner.actor for name, learner in self.learners.items()} | fixed
        self.actor = SidesPolicy(self.sides, acting).to(self.device)
        own = {
            name: learner.exploration
            for name, learner in self.learners.items()
            if learner.exploration is not None
        }
        # Those of the others are the training loop's.
        if own and len(own) == len(self.learners):
            self.exploration = SidesPolicy(self.sides, own)

    @classmethod
    def make_policy(
        cls,
        env: EnvBase,
        settings: SidesSettings,
        *,
        device: torch.device | str | None = None,
        policies: Mapping[str, Policy] | None = None,
    ) -> SidesPolicy:
        """All sides' policies in one module, not trained, see :meth:`Learner.make_policy`."""
        sides = _sides_in(env, settings)
        made = {
            name: registry.get_algorithm(registry.algorithm_of(own)).make_policy(
                SideView(env, sides[name]), own, device=device
            )
            for name, own in settings.learning.items()
        }
        return SidesPolicy(
            sides, made | _fixed_policies(env, settings, sides, policies, device=device)
        )

    @property
    def on_policy(self) -> bool:
        """Whether all sides learn from what they have just done."""
        return all(learner.on_policy for learner in self.learners.values())

    @property
    def reads_rollout(self) -> bool:
        """Whether a side learns from what was just done."""
        return any(learner.on_policy for learner in self.learners.values())

    @property
    def stochastic(self) -> bool:
        """Whether all policies explore by themselves."""
        return all(learner.stochastic for learner in self.learners.values())

    @property
    def recurrent(self) -> bool:
        """Never in an update from stored transitions."""
        return False

    @property
    def stored_keys(self) -> tuple[NestedKey, ...]:
        """What the sides' learners store beside what their losses read.

        Nothing of sides that learn on-policy, if others do not: a policy's own entries, as its
        log-probabilities, are not there while actions are random.
        """
        return self._keys(lambda learner: learner.stored_keys)

    @property
    def in_keys(self) -> list[NestedKey]:
        """What the sides' losses read, where the whole game's batch has it."""
        return list(self._keys(lambda learner: learner.in_keys))

    def _keys(self, read: Callable[[Learner], Any]) -> tuple[NestedKey, ...]:
        found = [
            self.actor.outside(name, key, own=not self.actor.reads_game(name, key))
            for name, learner in self.learners.items()
            if self.on_policy or not learner.on_policy
            for key in read(learner)
        ]
        return tuple(dict.fromkeys(found))

    def replays(self) -> dict[str, Replay]:
        """What an update reads, by name.

        Returns:
            Of each side that learns from stored transitions what its learner reads, as
            ``"good/batch"``. All are of the whole game.
        """
        return {
            f"{name}/{stream}": self._of_game(name, replay)
            for name, learner in self.learners.items()
            for stream, replay in learner.replays().items()
        }

    def _of_game(self, name: str, replay: Replay) -> Replay:
        """A side's stream where the storage holds the whole game."""
        settings: Any = self.settings.learning[name]
        agents, of_side = self.sides[name], replay.rows
        size = replay.batch_size or settings.batch_size
        if replay.sampler is not None:
            # It looks at one agent, by its number.
            replay.sampler.influencer = agents[replay.sampler.influencer]
        rows = None if of_side is None else lambda stored: of_side(side_of(stored, agents))
        return replace(replay, batch_size=size, rows=rows)

    def policy_params(self) -> list[tuple[TensorDictBase, TensorDictBase]]:
        """Parameters of the policies that have targets, each with them."""
        return [pair for learner in self.learners.values() for pair in learner.policy_params()]

    def env_transforms(self) -> list[Transform]:
        """What must be appended to an environment in which the policies act."""
        return [recurrent_transforms(self.actor)] if self.actor.recurrent else []

    def start_episode(self) -> None:
        """Called by the training loop when an episode starts."""
        for learner in self.learners.values():
            learner.start_episode()

    def observe(self, rollout: TensorDictBase) -> None:
        """Called by the training loop with what was just collected, before the updates.

        Args:
            rollout: ``[B, T]``, of the whole game, in order of time.
        """
        for name, learner in self.learners.items():
            learner.observe(self.actor.view(rollout, name))

    def update(self, batches: Mapping[str, TensorDictBase]) -> TensorDict:
        """An update of each side that learns, on its agents' part of the batches.

        Args:
            batches: one for each name of :meth:`replays`, of the whole game; and ``"rollout"``
                ``[B, T]`` if a side learns on-policy, which waits where it is not given, unless
                all do.

        Returns:
            What the sides' learners log, as ``"good/loss_actor"``.

        Raises:
            TypeError: if batches have no names.
            ValueError: if one is missing or not known.
            KeyError: if a batch lacks a key.
        """
        batches = self._check_names(batches)
        logs = TensorDict()
        for name, learner in self.learners.items():
            own = {
                stream.rpartition("/")[2]: self.actor.view(batch, name)
                for stream, batch in batches.items()
                if (stream == "rollout" and learner.on_policy) or stream.startswith(f"{name}/")
            }
            if not own:
                continue
            logs.update({f"{name}/{key}": value for key, value in learner.update(own).items()})
        self.updates += 1
        return logs

    def _check_names(self, batches: Mapping[str, TensorDictBase]) -> Mapping[str, TensorDictBase]:
        if not isinstance(batches, dict) or self.on_policy or not self.reads_rollout:
            return super()._check_names(batches)
        super()._check_names({name: own for name, own in batches.items() if name != "rollout"})
        return batches

    @torch.no_grad()
    def health(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """Signs of trouble that no loss shows, of each side that learns.

        Args:
            batch: fresh transitions of the whole game.

        Returns:
            The same as :meth:`Learner.health`, as ``"good/saturated_share"``.
        """
        return self._of_sides(batch, "health")

    def distributions(self, batch: TensorDictBase) -> dict[str, torch.Tensor]:
        """What is worth a histogram, of each side that learns.

        Args:
            batch: fresh transitions of the whole game.

        Returns:
            The same as :meth:`Learner.distributions`, with names as in :meth:`health`.
        """
        return self._of_sides(batch, "distributions")

    def _of_sides(self, batch: TensorDictBase, method: str) -> dict[str, torch.Tensor]:
        """What a method of each side that learns says of the side's own batch."""
        return {
            f"{name}/{key}": value
            for name, learner in self.learners.items()
            for key, value in getattr(learner, method)(self.actor.view(batch, name)).items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that training has changed."""
        sides = {name: learner.state_dict() for name, learner in self.learners.items()}
        return {"sides": sides, "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            KeyError: if the state is of other sides or other algorithms; the parts are named.
        """
        known = state_dict.get("sides", {})
        if set(known) != set(self.learners):
            raise KeyError(f"The state has the sides {sorted(known)}, not {sorted(self.learners)}.")
        for name, learner in self.learners.items():
            learner.load_state_dict(known[name])
        self.updates = state_dict["updates"]


def _sides_in(env: EnvBase, settings: SidesSettings) -> dict[str, tuple[int, ...]]:
    """The sides that settings are of, with their agents."""
    names = [name for name, _ in settings.sides]
    given = dict(settings.agents)
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"Agents are given of {unknown}, which follow nothing; sides: {names}.")
    own = {} if len(given) == len(names) and names else sides_of(env)
    for name in names:
        if name not in given and name not in own:
            hint = did_you_mean(name, own)
            raise ValueError(f"Unknown side {name!r}.{hint} The game has the sides {own}.")
    if missing := [name for name in own if name not in names and not given]:
        raise ValueError(
            f"The game has the sides {own}; say what {missing[0]!r} follows, as in "
            f"--side.{missing[0]} maddpg."
        )
    sides = {name: given[name] if name in given else own[name] for name in names}
    return check_sides(sides, layout_of(env).num_agents)


def _fixed_policies(
    env: EnvBase,
    settings: SidesSettings,
    sides: Mapping[str, tuple[int, ...]],
    policies: Mapping[str, Policy] | None,
    *,
    device: torch.device | str | None,
) -> dict[str, Policy]:
    """The policies of the sides that do not learn."""
    policies = {} if policies is None else policies
    check_kind("policies", policies, Mapping, "a mapping of sides to policies")
    for name, policy in policies.items():
        check_callable(f"The policy of the side {name!r}", policy)
    if unknown := [name for name in policies if name not in settings.fixed]:
        raise ValueError(
            f"Policies are given of {unknown}, but fixed are {sorted(settings.fixed)}."
        )
    return {
        name: policies[name]
        if name in policies
        else fixed_policy(follows, SideView(env, sides[name]), device=device)
        for name, follows in settings.fixed.items()
    }


def fixed_policy(
    follows: str, view: EnvBase, *, device: torch.device | str | None = None
) -> Policy:
    """What a fixed side does: at random, or by a script.

    Args:
        follows: ``"random"``, or ``"module:function"``, a function that writes
            ``("agents", "action")`` ``[*B, n, A]`` into the side's batch and returns it.
        view: the environment as the side sees it, a :class:`torchrl_alita.envs.SideView`.
        device: of the policy. Default: the environment's.

    Returns:
        A callable of the side's batch.

    Raises:
        ValueError: for any other text, or a function that is not there.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> view = SideView(make_env("mpe/adversary"), (0,))
        >>> fixed_policy("maddgp", view)
        Traceback (most recent call last):
        ...
        ValueError: 'maddgp' is neither an algorithm, 'random', nor 'module:function' or a run's
        directory. Did you mean 'maddpg'?
    """
    if follows == RANDOM:
        spec = view.full_action_spec_unbatched[ACTION].to(device or view.device)
        return RandomPolicy(spec, masked=layout_of(view).masked)
    if ":" not in follows:
        hint = did_you_mean(follows, [*registry.ALGORITHMS, RANDOM])
        raise ValueError(
            f"{follows!r} is neither an algorithm, {RANDOM!r}, nor 'module:function' or a run's "
            f"directory.{hint}"
        )
    found = import_named("policy", follows)
    if not callable(found):
        raise ValueError(f"The policy {follows!r} must be a function, got {found!r}.")
    return found
