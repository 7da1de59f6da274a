"""The layout of the data: keys, sizes and checks."""

from __future__ import annotations

from typing import NamedTuple

from tensordict import NestedKey
from torchrl.data import Bounded, MultiOneHot, OneHot
from torchrl.envs import EnvBase

from torchrl_alita._checks import check_kind

__all__ = [
    "ACTION",
    "ACTION_MASK",
    "ACTION_VALUE",
    "ADVANTAGE",
    "AGENT_DONE",
    "AGENT_TERMINATED",
    "ALIVE",
    "ATTENDED_VALUE",
    "ATTENTION",
    "CHOSEN_ACTION_VALUE",
    "CHOSEN_JOINT_VALUE",
    "DIVERSITY_PENALTY",
    "DONE",
    "EXPLORING",
    "INTRINSIC_REWARD",
    "IS_INIT",
    "JOINT_ACTION",
    "JOINT_ACTION_VALUE",
    "LAST_ACTION",
    "LATENT",
    "LATENT_LOGITS",
    "LATENT_LOG_PROB",
    "LOC",
    "LOGITS",
    "LOG_PROB",
    "META_WEIGHT",
    "NOVELTY",
    "OBSERVATION",
    "PARAM",
    "RECURRENT_STATE",
    "REWARD",
    "RND_BONUS",
    "SCALE",
    "SOCIAL_INFLUENCE",
    "STATE",
    "STATE_VALUE",
    "STEPS",
    "TERMINATED",
    "TOTAL_REWARD",
    "TRANSITION_INFLUENCE",
    "TURN",
    "VALUE",
    "VALUE_TARGET",
    "VISIT_BONUS",
    "Layout",
    "has_state",
    "layout_of",
    "next_key",
    "state_size_of",
    "terminated_key_of",
]

OBSERVATION = ("agents", "observation")
ACTION = ("agents", "action")
ACTION_MASK = ("agents", "action_mask")
# Of environments whose agents can end before the episode does: whether each is in it, and
# whether it has ended for good; bool [*B, N, 1].
ALIVE = ("agents", "alive")
AGENT_TERMINATED = ("agents", "terminated")
# What TorchRL's losses read, which want a flag for each reward; no environment's own.
AGENT_DONE = ("agents", "done")
LOGITS = ("agents", "logits")
PARAM = ("agents", "param")
LOC = ("agents", "loc")
SCALE = ("agents", "scale")
LOG_PROB = ("agents", "action_log_prob")
VALUE = ("agents", "state_action_value")
ACTION_VALUE = ("agents", "action_value")
CHOSEN_ACTION_VALUE = ("agents", "chosen_action_value")
VALUE_TARGET = ("agents", "value_target")
# Of a network that values all joint actions: values [*B, L^N], the number of one [*B, 1] in C
# order over the agents, and its value [*B, 1].
JOINT_ACTION_VALUE = "joint_action_value"
JOINT_ACTION = "joint_action"
CHOSEN_JOINT_VALUE = "chosen_joint_value"
ADVANTAGE = ("agents", "advantage")
# Who explored in a step, instead of following its policy.
EXPLORING = ("agents", "exploring")
# Of the whole team, [*B, S]; not every environment has it.
STATE = "state"
# What recurrent networks read besides, written by TorchRL's InitTracker, by LastAction and by
# the networks themselves.
IS_INIT = "is_init"
LAST_ACTION = ("agents", "last_action")
RECURRENT_STATE = ("agents", "recurrent_state")
STATE_VALUE = ("agents", "state_value")
# Whom an agent attends to, [*B, N, N], and the value that it tells from them.
ATTENTION = ("agents", "attention")
ATTENDED_VALUE = ("agents", "attended_value")
# How much the team's return depends on what LIIR learns to pay.
META_WEIGHT = ("agents", "meta_weight")
# What a team agrees on in each episode, one-hot [*B, Z], and a guess of it.
LATENT = "latent"
LATENT_LOGITS = "latent_logits"
# Of its draw, where a policy draws it.
LATENT_LOG_PROB = "latent_log_prob"
# How many steps a transition is of, where it is of several; TorchRL's name.
STEPS = "steps_to_next_obs"
# Whose turn it is, where agents act alone.
TURN = "turn"
# As a step writes them; in a batch of transitions they stand under "next".
REWARD = ("agents", "reward")
DONE = "done"
TERMINATED = "terminated"
NOVELTY = ("agents", "novelty")
DIVERSITY_PENALTY = ("agents", "diversity_penalty")
TOTAL_REWARD = ("agents", "total_reward")
VISIT_BONUS = ("agents", "visit_bonus")
TRANSITION_INFLUENCE = ("agents", "transition_influence")
RND_BONUS = ("agents", "rnd_bonus")
SOCIAL_INFLUENCE = ("agents", "social_influence")
# The sum of all bonuses, each scaled and weighted; or what LIIR learns to pay.
INTRINSIC_REWARD = ("agents", "intrinsic_reward")


def next_key(key: NestedKey) -> NestedKey:
    """Where a batch of transitions has what a step writes.

    Args:
        key: as a step writes it.

    Returns:
        The key under "next".

    Raises:
        TypeError: if it is no key.

    Examples:
        >>> next_key(REWARD)
        ('next', 'agents', 'reward')
    """
    check_kind("A key", key, (str, tuple), "a text or a tuple of texts")
    return ("next", key) if isinstance(key, str) else ("next", *key)


class Layout(NamedTuple):
    """Sizes of an environment: N agents, O features and A action features each.

    ``discrete`` says that actions are one-hot, ``masked`` that some are forbidden.
    """

    num_agents: int
    observation_size: int
    action_size: int
    discrete: bool
    masked: bool = False


def layout_of(env: EnvBase) -> Layout:
    """Sizes of an environment in the layout of this package.

    Args:
        env: an environment with ``("agents", "observation")`` ``[*B, N, O]`` and
            ``("agents", "action")`` ``[*B, N, A]``.

    Returns:
        Its :class:`Layout`.

    Raises:
        TypeError: if it is no environment.
        KeyError: if one of the two, or "done", is missing; the keys present are named.
        ValueError: if they disagree on the number of agents, an agent's entry is no vector,
            agents have entries of unequal size, or an action is several choices or has
            infinite bounds.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> layout_of(make_env("vmas/spread", num_envs=2, n_agents=3))
        Layout(num_agents=3, observation_size=14, action_size=2, discrete=False, masked=False)
    """
    check_kind("The environment", env, EnvBase, "a TorchRL environment")
    shapes = {}
    for key, spec in (
        (OBSERVATION, env.full_observation_spec_unbatched),
        (ACTION, env.full_action_spec_unbatched),
    ):
        if key not in spec.keys(True):
            present = ", ".join(sorted(str(k) for k in spec.keys(True, True))) or "nothing"
            raise KeyError(
                f"The environment has no {key}; it has {present}: lay it out with as_team."
            )
        shapes[key] = tuple(spec[key].shape)
        if len(shapes[key]) != 2:
            raise ValueError(f"{key} must have the shape (agents, features), got {shapes[key]}.")
        if min(shapes[key]) < 0:
            raise ValueError(
                f"{key} must be of equal size for all agents: lay the environment out with as_team."
            )
    num_agents, observation_size = shapes[OBSERVATION]
    if shapes[ACTION][0] != num_agents:
        raise ValueError(
            f"{OBSERVATION} is of {num_agents} agents, {ACTION} of {shapes[ACTION][0]}."
        )
    if DONE not in set(env.full_done_spec.keys()):
        present = ", ".join(sorted(str(key) for key in env.full_done_spec.keys(True, True)))
        raise KeyError(
            f"The environment has no {DONE!r}; it has {present}: lay it out with as_team."
        )
    action = env.full_action_spec_unbatched[ACTION]
    if isinstance(action, MultiOneHot):
        raise ValueError(
            f"{ACTION} must be one choice of each agent, got {action.shape[-1]} entries of several: "
            "lay the environment out with as_team."
        )
    discrete = isinstance(action, OneHot)
    if isinstance(action, Bounded):
        low, high = action.space.low, action.space.high
        if not bool((high - low).isfinite().all()):
            raise ValueError(
                f"{ACTION} must have finite bounds, got {float(low.min())} to {float(high.max())}."
            )
    masked = ACTION_MASK in env.full_observation_spec_unbatched.keys(True)
    return Layout(num_agents, observation_size, shapes[ACTION][1], discrete, masked)


def terminated_key_of(env: EnvBase) -> NestedKey:
    """The flag that ends the return of each agent: its own where it has one, or the episode's.

    An agent that has ended for good earns nothing more, so that its value there is 0, also
    where the episode goes on for the others.

    Args:
        env: an environment in the layout of this package.

    Returns:
        ``("agents", "terminated")`` ``[*B, N, 1]`` or ``"terminated"`` ``[*B, 1]``, as a step
        writes it.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> terminated_key_of(make_env("push_box"))
        'terminated'
    """
    own = AGENT_TERMINATED in env.full_observation_spec_unbatched.keys(True)
    return AGENT_TERMINATED if own else TERMINATED


def has_state(env: EnvBase) -> bool:
    """Whether an environment gives a ``"state"`` of the whole team.

    Args:
        env: an environment in the layout of this package.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> has_state(make_env("push_box"))
        False
    """
    return STATE in set(env.full_observation_spec_unbatched.keys())


def state_size_of(env: EnvBase) -> int:
    """Features S of an environment's ``"state"`` ``[*B, S]``.

    Args:
        env: an environment in the layout of this package.

    Returns:
        S.

    Raises:
        ValueError: if it has no state, or one that is no vector.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> state_size_of(make_env("vmas/spread", num_envs=2, n_agents=3))
        Traceback (most recent call last):
        ...
        ValueError: The environment has no 'state'; it has [...].
    """
    spec = env.full_observation_spec_unbatched
    if not has_state(env):
        present = sorted(str(key) for key in spec.keys(True, True))
        raise ValueError(f"The environment has no {STATE!r}; it has {present}.")
    if len(spec[STATE].shape) != 1:
        raise ValueError(f"The state must be a vector, got the shape {tuple(spec[STATE].shape)}.")
    return spec[STATE].shape[0]
