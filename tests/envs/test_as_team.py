"""Any environment of TorchRL, laid out: what is padded, masked, kept and refused."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    MultiCategorical,
    MultiOneHot,
    OneHot,
    Unbounded,
)
from torchrl.envs import EnvBase, GymEnv, RenameTransform, SerialEnv, TransformedEnv
from torchrl.envs.utils import check_env_specs

from torchrl_alita import ALITA, MADDPG
from torchrl_alita.envs import as_team, layout_of
from torchrl_alita.transforms import LastAction

B, T = 3, 7
ACTION, OBSERVATION = ("agents", "action"), ("agents", "observation")
ALIVE, MASK = ("agents", "alive"), ("agents", "action_mask")


class Groups(EnvBase):
    """Agents in groups; each observes its number, one entry more than the agent before.

    ``flags``: the agents have flags of their own; agent k ends at step k + 1 and is paid
    1000 then, and 1 before and after. ``masks``: at step t, agent k may not do t + k.
    """

    def __init__(
        self,
        actions: dict,
        *,
        batch=(B,),
        flags=False,
        masks=False,
        shared=False,
        named="action_mask",
    ):
        super().__init__(batch_size=list(batch))
        self.named = named
        self.flags, self.masks, self.shared = flags, masks, shared
        self.names = list(actions)
        lead = tuple(batch)
        flag = Categorical(2, shape=(*lead, 1, 1), dtype=torch.bool)
        self.full_action_spec = Composite(
            {g: Composite(action=a, shape=(*lead, 1)) for g, a in actions.items()}, shape=lead
        )
        seen = {}
        for number, group in enumerate(self.names):
            leaves = {"observation": Unbounded((*lead, 1, number + 1))}
            if masks:
                size = actions[group].shape[-1]
                leaves[named] = Categorical(2, shape=(*lead, 1, size), dtype=torch.bool)
            seen[group] = Composite(**leaves, shape=(*lead, 1))
        self.full_observation_spec = Composite(seen, shape=lead)
        paid = Unbounded((*lead, 1, 1))
        if shared:
            self.full_reward_spec = Composite(reward=Unbounded((*lead, 1)), shape=lead)
        else:
            self.full_reward_spec = Composite(
                {g: Composite(reward=paid.clone(), shape=(*lead, 1)) for g in self.names},
                shape=lead,
            )
        root = Categorical(2, shape=(*lead, 1), dtype=torch.bool)
        names = ("done", "terminated", "truncated")
        if flags:
            self.full_done_spec = Composite(
                {g: Composite({n: flag.clone() for n in names}, shape=(*lead, 1))
                 for g in self.names},
                shape=lead,
            )  # fmt: skip
        else:
            self.full_done_spec = Composite({n: root.clone() for n in names}, shape=lead)
        self.steps = 0
        self.taken = None
        self.resets = []

    def _set_seed(self, seed) -> None:
        pass

    def entries(self, *, step: bool) -> TensorDict:
        lead, td = self.batch_size, {}
        for number, group in enumerate(self.names):
            own = {"observation": torch.full((*lead, 1, number + 1), float(number + 1))}
            if self.masks:
                size = self.full_action_spec[group, "action"].shape[-1]
                mask = torch.ones(*lead, 1, size, dtype=torch.bool)
                mask[..., (self.steps + number) % size] = False
                own[self.named] = mask
            ended = self.flags and self.steps >= number + 1
            if self.flags:
                flag = torch.full((*lead, 1, 1), ended)
                own |= {"done": flag, "terminated": flag, "truncated": torch.zeros_like(flag)}
            if step and not self.shared:
                own["reward"] = torch.full(
                    (*lead, 1, 1), 1000.0 if self.flags and self.steps == number + 1 else 1.0
                )
            td[group] = TensorDict(own, (*lead, 1))
        if step and self.shared:
            td["reward"] = torch.full((*lead, 1), 2.5)
        if not self.flags:
            no = torch.zeros(*lead, 1, dtype=torch.bool)
            td |= {"done": no, "terminated": no.clone(), "truncated": no.clone()}
        return TensorDict(td, lead)

    def _reset(self, tensordict=None, **kwargs) -> TensorDict:
        self.resets.append(None if tensordict is None else tensordict.clone())
        self.steps = 0
        return self.entries(step=False)

    def _step(self, tensordict) -> TensorDict:
        self.steps += 1
        self.taken = {g: tensordict[g, "action"].clone() for g in self.names}
        return self.entries(step=True)


class Brief(Groups):
    """An agent's flags are set in the step in which it ends, and in no later one."""

    def entries(self, *, step: bool) -> TensorDict:
        td = super().entries(step=step)
        for number, group in enumerate(self.names):
            for name in ("done", "terminated"):
                td[group, name] = td[group, name] & (self.steps == number + 1)
        return td


class Undefined(Groups):
    """What is seen and earned after an agent's end is NaN."""

    def entries(self, *, step: bool) -> TensorDict:
        td = super().entries(step=step)
        for number, group in enumerate(self.names):
            if self.steps > number + 1:
                td[group, "observation"].fill_(torch.nan)
                td[group, "reward"].fill_(torch.nan)
        return td


def numbers(low: float, high: float, size: int, dtype: torch.dtype = torch.float32) -> Bounded:
    return Bounded(low, high, shape=(B, 1, size), dtype=dtype)


# What is laid out


def test_unequal_agents_are_padded_behind_their_own_entries():
    env = as_team(Groups({"a": numbers(-1, 1, 2), "b": numbers(0, 3, 5)}))
    assert layout_of(env)[:4] == (2, 2, 5, False)
    first = env.reset()[OBSERVATION]
    assert first[0].tolist() == [[1, 0], [2, 2]]
    spec = env.full_action_spec[ACTION]
    assert spec.space.low[0].tolist() == [[-1, -1, 0, 0, 0], [0] * 5]
    assert spec.space.high[0].tolist() == [[1, 1, 0, 0, 0], [3] * 5]
    check_env_specs(env)


def test_each_agent_gets_its_own_part_of_the_action():
    env = as_team(Groups({"a": numbers(-1, 1, 2), "b": numbers(0, 3, 5)}))
    step = env.reset()
    step[ACTION] = torch.arange(10.0).reshape(2, 5).expand(B, 2, 5) / 10
    env.step(step)
    assert env.base_env.taken["a"][0].tolist() == [[0, pytest.approx(0.1)]]
    assert torch.equal(env.base_env.taken["b"], step[ACTION][:, 1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_are_handed_over_in_the_environments_type_within_its_bounds(dtype):
    """In float32, 0.1 is above that of float64."""
    spec = numbers(-0.1, 0.1, 2, dtype)
    env = as_team(Groups({"a": spec}))
    bounds = env.full_action_spec[ACTION].space
    for bound in (bounds.low, bounds.high):
        assert bound.dtype == torch.float32
        env.step(env.reset().set(ACTION, bound.clone()))
        taken = env.base_env.taken["a"]
        assert taken.dtype == dtype
        assert spec.is_in(taken)
        torch.testing.assert_close(taken.float(), bound)
    check_env_specs(env)


@pytest.mark.parametrize(
    ("spec", "size", "chosen", "expected"),
    [
        (Categorical(5, shape=(B, 1)), 5, 3, [3]),
        (Categorical(5, shape=(B, 1, 1)), 5, 3, [[3]]),
        (OneHot(5, shape=(B, 1, 5)), 5, 3, [[0, 0, 0, 1, 0]]),
        # 4 is 1, 1 in bases 2 and 3: the last choice is counted fastest.
        (MultiCategorical([2, 3], shape=(B, 1, 2)), 6, 4, [[1, 1]]),
        (MultiOneHot([2, 3], shape=(B, 1, 5)), 6, 4, [[0, 1, 0, 1, 0]]),
        (Binary(3, shape=(B, 1, 3)), 8, 6, [[1, 1, 0]]),
    ],
)
def test_choices_of_every_kind_are_one_hot(spec, size, chosen, expected):
    env = as_team(Groups({"a": spec}))
    assert layout_of(env)[2:4] == (size, True)
    step = env.reset()
    step[ACTION] = torch.eye(size)[chosen].expand(B, 1, size).clone()
    env.step(step)
    taken = env.base_env.taken["a"]
    assert taken[0].long().tolist() == expected
    assert taken.dtype == spec.dtype
    assert spec.is_in(taken)
    check_env_specs(env)


def test_agents_with_fewer_actions_are_masked():
    env = as_team(Groups({"a": Categorical(3, shape=(B, 1)), "b": Categorical(5, shape=(B, 1))}))
    rollout = env.rollout(T)
    assert rollout[MASK][0, 0].tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert (rollout[ACTION].bool() & ~rollout[MASK]).sum() == 0
    assert rollout[ACTION][:, :, 1, 3:].sum() > 0
    check_env_specs(env)


@pytest.mark.parametrize("named", ["action_mask", "legal"])
def test_masks_of_the_environment_are_followed_at_every_step(named):
    spec = {name: OneHot(size, shape=(B, 1, size)) for name, size in (("a", 3), ("b", 5))}
    env = as_team(Groups(spec, masks=True, named=named), action_mask=named)
    rollout = env.rollout(T)
    for step in range(T):
        mask = rollout[MASK][0, step]
        assert not mask[0, step % 3]
        assert not mask[1, (step + 1) % 5]
        assert mask.sum() == 2 + 4
    assert (rollout[ACTION].bool() & ~rollout[MASK]).sum() == 0


def test_a_reward_of_everybody_is_each_agents():
    env = as_team(Groups({"a": numbers(-1, 1, 2), "b": numbers(0, 3, 5)}, shared=True))
    assert env.rollout(2)["next", "agents", "reward"][0].tolist() == [[[2.5]] * 2] * 2


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("reward", None, KeyError, "no reward of the group 'b' in this step"),
        ("reward", torch.zeros(B, 1), ValueError, "reward of the group 'b' must have the shape"),
        ("observation", torch.zeros(B, 1, 1), ValueError, "'b' must see 2 numbers.* got 1"),
    ],
)
def test_what_the_specs_promise_and_a_step_does_not_give_is_named(key, value, error, message):
    class Lacking(Groups):
        def entries(self, *, step: bool) -> TensorDict:
            td = super().entries(step=step)
            if step and value is None:
                del td["b", key]
            elif step:
                td["b"].batch_size = (B,)
                td["b", key] = value
            return td

    env = as_team(Lacking({"a": numbers(-1, 1, 2), "b": numbers(0, 3, 5)}))
    with pytest.raises(error, match=message):
        env.rollout(2)


@pytest.mark.parametrize("kind", [Groups, Brief, Undefined])
def test_agents_that_end_are_paid_for_it_and_nothing_later(kind):
    spec = {name: Categorical(3, shape=(B, 1)) for name in "abc"}
    env = as_team(kind(spec, flags=True))
    rollout = env.rollout(T)
    after = rollout["next"]
    assert rollout.shape == (B, 3)
    paid = after["agents", "reward"][0, ..., 0].tolist()
    assert paid == [[1000, 1, 1], [0, 1000, 1], [0, 0, 1000]]
    assert after[ALIVE][0, ..., 0].tolist() == [
        [False, True, True], [False, False, True], [False, False, False],
    ]  # fmt: skip
    assert torch.equal(after["agents", "terminated"], ~after[ALIVE])
    # Of the dead nothing is seen, and only the first action is allowed.
    assert after[OBSERVATION][0, 0].tolist() == [[0, 0, 0], [2, 2, 0], [3, 3, 3]]
    assert after[MASK][0, 0].tolist() == [[True, False, False], [True] * 3, [True] * 3]
    assert after["done"][0].tolist() == [[False], [False], [True]]
    assert torch.equal(after["terminated"], after["done"])
    assert not after["truncated"].any()
    check_env_specs(env)


def test_an_episode_is_terminated_by_an_agent_that_was_steps_ago():
    class Late(Brief):
        """The last agent is truncated."""

        def entries(self, *, step: bool) -> TensorDict:
            td = super().entries(step=step)
            flags = td["b"]
            flags["terminated"], flags["truncated"] = flags["truncated"], flags["terminated"]
            return td

    spec = {name: Categorical(3, shape=(B, 1)) for name in "ab"}
    after = as_team(Late(spec, flags=True)).rollout(T)["next"]
    assert after["agents", "terminated"][0, ..., 0].tolist() == [[True, False], [True, False]]
    assert after["terminated"][0].flatten().tolist() == [False, True]
    assert not after["truncated"].any()
    # Who is stopped by a limit still sees what its value goes on from.
    assert after[OBSERVATION][0, 1].tolist() == [[0, 0], [2, 2]]
    assert after[ALIVE][0, 1].tolist() == [[False], [True]]


def test_a_reset_of_some_environments_reaches_agents_with_flags():
    env = as_team(Groups({"a": Categorical(3, shape=(B, 1))}, flags=True))
    step = env.step(env.rand_action(env.reset()))["next"]
    step["_reset"] = torch.tensor([[True], [False], [True]])
    env.reset(step)
    given = env.base_env.resets[-1]["a", "_reset"]
    assert given[..., 0, 0].tolist() == [True, False, True]


def test_a_reset_of_some_environments_leaves_the_others_what_they_may_do():
    """TorchRL's batches return old entries of the environments that go on."""

    class One(Groups):
        """At step t only action t is allowed; the episode ends after ``length`` of them."""

        def __init__(self, length: int):
            spec = {"a": OneHot(4, shape=(1, 4))}
            super().__init__(spec, batch=(), masks=True)
            self.length = length

        def entries(self, *, step: bool) -> TensorDict:
            td = super().entries(step=step)
            mask = torch.zeros(1, 4, dtype=torch.bool)
            mask[:, self.steps % 4] = True
            td["a", "action_mask"] = mask
            for name in ("done", "terminated"):
                td[name] = torch.tensor([self.steps >= self.length])
            return td

        def _step(self, tensordict) -> TensorDict:
            assert tensordict["a", "action"].int().argmax(-1).tolist() == [self.steps % 4]
            return super()._step(tensordict)

    env = as_team(SerialEnv(2, [lambda: One(3), lambda: One(5)]))
    rollout = env.rollout(12, break_when_any_done=False)
    assert rollout["next", "done"][..., 0].sum(-1).tolist() == [4, 2]
    assert torch.equal(rollout[ACTION].bool(), rollout[MASK])


class Inside(Groups):
    """Two agents of one group whose specs differ: TorchRL stacks them lazily."""

    def __init__(self):
        super().__init__({"a": numbers(-1, 1, 2), "b": numbers(0, 3, 5)})
        for name in ("full_action_spec", "full_observation_spec", "full_reward_spec"):
            spec = getattr(self, name)
            members = [spec[group].squeeze(-1) for group in "ab"]
            setattr(self, name, Composite(team=torch.stack(members, 1), shape=(B,)))

    def entries(self, *, step: bool) -> TensorDict:
        td = super().entries(step=step)
        members = [td.pop(group).squeeze(1) for group in "ab"]
        td["team"] = torch.stack(members, 1) if False else _lazy(members)
        return td

    def _step(self, tensordict) -> TensorDict:
        self.steps += 1
        self.taken = [member["action"].clone() for member in tensordict["team"].unbind(1)]
        return self.entries(step=True)


def _lazy(members):
    from tensordict import LazyStackedTensorDict

    return LazyStackedTensorDict.lazy_stack(members, 1)


def test_unequal_agents_of_one_group_are_padded_too():
    env = as_team(Inside())
    assert layout_of(env)[:4] == (2, 2, 5, False)
    step = env.reset()
    assert step[OBSERVATION][0].tolist() == [[1, 0], [2, 2]]
    step[ACTION] = torch.arange(10.0).reshape(2, 5).expand(B, 2, 5) / 10
    after = env.step(step)["next"]
    assert [tuple(action.shape) for action in env.base_env.taken] == [(B, 2), (B, 5)]
    assert torch.equal(env.base_env.taken[1], step[ACTION][:, 1])
    assert after["agents", "reward"].tolist() == [[[1.0], [1.0]]] * B


def test_a_single_agent_is_a_team_of_one():
    env = as_team(SerialEnv(2, lambda: GymEnv("CartPole-v1")))
    assert layout_of(env)[:4] == (1, 4, 2, True)
    rollout = env.rollout(5)
    assert rollout["next", "agents", "reward"].shape == (2, 5, 1, 1)
    check_env_specs(env)
    continuous = as_team(GymEnv("Pendulum-v1"))
    assert layout_of(continuous)[:4] == (1, 3, 1, False)
    assert continuous.full_action_spec[ACTION].space.high.tolist() == [[2.0]]
    check_env_specs(continuous)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("algorithm", [MADDPG, ALITA])
def test_algorithms_learn_on_padded_agents(algorithm, discrete):
    spec = (
        {"a": Categorical(3, shape=(B, 1)), "b": Categorical(5, shape=(B, 1))}
        if discrete
        else {"a": numbers(-1, 1, 2), "b": numbers(0, 3, 5)}
    )
    env = as_team(Groups(spec))
    learner = algorithm(env)
    policy = learner.actor
    rollout = env.rollout(T, policy)
    if not discrete:
        assert (rollout[ACTION][..., 0, 2:] == 0).all()
    else:
        assert (rollout[ACTION].bool() & ~rollout[MASK]).sum() == 0


# What is refused


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (
            lambda: Groups({"a": numbers(-1, 1, 2), "b": Categorical(3, shape=(B, 1))}),
            {},
            ValueError,
            "All agents must have actions of one kind, got {'a': 'continuous', 'b': 'discrete'}",
        ),
        (
            lambda: Groups({"a": Unbounded((B, 1, 2))}),
            {},
            ValueError,
            "The actions of a must be bounded or choices",
        ),
        (
            lambda: Groups({"a": numbers(-float("inf"), float("inf"), 2)}),
            {},
            ValueError,
            "The actions of a must have finite bounds, got -inf to inf",
        ),
        (
            lambda: Groups({"a": MultiCategorical([40, 40], shape=(B, 1, 2))}),
            {},
            ValueError,
            "The actions of a have 1600 combinations, at most 1000 can be laid out",
        ),
        (
            lambda: Groups({"a": numbers(-1, 1, 2)}),
            {"observation": "pixels"},
            KeyError,
            "a has no observation 'pixels'; it has ['observation']",
        ),
        (
            lambda: Groups({"a": numbers(-1, 1, 2)}),
            {"state": "map"},
            KeyError,
            "The environment has no 'map'; it has",
        ),
        (
            lambda: Groups({"a": Categorical(3, shape=(B, 1))}, masks=False),
            {"action_mask": "legal"},
            KeyError,
            "No mask 'legal' in any group; the environment has",
        ),
        (
            lambda: TransformedEnv(
                Groups({"a": numbers(-1, 1, 2)}),
                RenameTransform([], [], [("a", "action")], [("a", "force")]),
            ),
            {},
            KeyError,
            "a has no entry 'action' but ['force']: rename it",
        ),
    ],
)
def test_what_cannot_be_laid_out_is_refused(make, options, error, message):
    with pytest.raises(error) as caught:
        as_team(make(), **options)
    assert message in caught.value.args[0]


@pytest.mark.parametrize(
    "actions",
    [
        {"a": numbers(-1, 1, 2), "b": numbers(0, 3, 5)},
        {"agents": Categorical(3, shape=(B, 1))},
    ],
)
def test_transforms_around_it_read_the_action_of_the_layout(actions):
    env = as_team(Groups(actions)).append_transform(LastAction())
    rollout = env.rollout(4)
    last = rollout["next", "agents", "last_action"]
    assert torch.equal(last, rollout[ACTION].to(last.dtype))


class LaidOut(EnvBase):
    """In the layout already, with an action of one's choice."""

    def __init__(self, action, *, flags: str = "root", observation=None):
        super().__init__(batch_size=[B])
        seen = Unbounded((B, 2, 3)) if observation is None else observation
        self.full_observation_spec = Composite(
            agents=Composite(observation=seen, shape=(B, 2)), shape=(B,)
        )
        self.full_action_spec = Composite(agents=Composite(action=action, shape=(B, 2)), shape=(B,))
        self.full_reward_spec = Composite(
            agents=Composite(reward=Unbounded((B, 2, 1)), shape=(B, 2)), shape=(B,)
        )
        shape = (B, 1) if flags == "root" else (B, 2, 1)
        spec = {n: Categorical(2, shape=shape, dtype=torch.bool) for n in ("done", "terminated")}
        if flags != "root":
            spec = {"agents": Composite(**spec, shape=(B, 2))}
        self.full_done_spec = Composite(**spec, shape=(B,))

    def _reset(self, tensordict=None, **kwargs):
        return self.full_observation_spec.zero()

    def _step(self, tensordict):
        return self.full_observation_spec.zero()

    def _set_seed(self, seed):
        pass


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: LaidOut(MultiOneHot([3, 2], shape=(B, 2, 5), dtype=torch.float32)),
            ValueError,
            "must be one choice of each agent, got 5 entries of several: lay the environment out",
        ),
        (
            lambda: LaidOut(Bounded(-float("inf"), float("inf"), shape=(B, 2, 2))),
            ValueError,
            "must have finite bounds, got -inf to inf",
        ),
        (
            lambda: LaidOut(Bounded(-1, 1, shape=(B, 2, 2)), flags="agents"),
            KeyError,
            "The environment has no 'done'; it has",
        ),
    ],
)
def test_environments_that_only_look_laid_out_are_refused_by_every_algorithm(make, error, message):
    for use in (layout_of, MADDPG):
        with pytest.raises(error) as caught:
            use(make())
        assert message in caught.value.args[0]
