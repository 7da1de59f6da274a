"""Social influence: the formula by enumeration, and a model that learns who answers whom."""

from __future__ import annotations

import re

import pytest
import torch
from fakes import A, B, N, O, T
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import check_env_specs

from torchrl_alita.envs import PushBox
from torchrl_alita.modules import ModelOfOthers, PoliciesOfOthers, make_stochastic_actor
from torchrl_alita.objectives import ModelOfOthersLoss
from torchrl_alita.transforms import SocialInfluence

INFLUENCE = ("next", "agents", "social_influence")
OBSERVATION, SEEN = ("agents", "observation"), ("agents", "seen_action")
LOGITS = ("agents", "logits")
# Agent 1 sees what agent 0 does, and agent 2 sees both.
SEES = torch.tensor([[False, False, False], [True, False, False], [True, True, False]])


def acting_in_turns() -> TensorDictModule:
    torch.manual_seed(0)
    net = nn.Linear(O + N * A, A)
    nn.init.normal_(net.weight)

    def act(observation: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return net(torch.cat([observation, seen], -1))

    return TensorDictModule(act, in_keys=[OBSERVATION, SEEN], out_keys=[LOGITS])


def steps() -> TensorDict:
    generator = torch.Generator().manual_seed(1)
    taken = torch.randint(A, (B, N), generator=generator)
    agents = {
        "observation": torch.randn(B, N, O, generator=generator),
        "action": nn.functional.one_hot(taken, A).float(),
        "logits": torch.randn(B, N, A, generator=generator),
    }
    return TensorDict({"agents": agents}, [B])


def by_hand(batch: TensorDict, policies: TensorDictModule) -> torch.Tensor:
    """One step, one pair, one action at a time, ``[B, N]``."""
    result = torch.zeros(B, N)
    for b in range(B):
        row = batch[b]
        own = row[LOGITS].softmax(-1)
        for k in range(N):
            for j in set(range(N)) - {k}:
                given = []
                for a in range(A):
                    joint = row["agents", "action"].clone()
                    joint[k] = torch.eye(A)[a]
                    seen = (joint * SEES[j].unsqueeze(-1)).flatten()
                    entries = {"observation": row[OBSERVATION][j], "seen_action": seen}
                    logits = policies(TensorDict({"agents": entries}))[LOGITS]
                    given.append(logits.softmax(-1))
                marginal = sum(own[k, a] * given[a] for a in range(A))
                taken = given[int(row["agents", "action"][k].argmax())]
                result[b, k] += (taken * (taken / marginal).log()).sum()
    return result.detach()


def test_the_influence_by_true_policies_is_its_formula_by_enumeration():
    batch, policies = steps(), acting_in_turns()
    bonus = SocialInfluence(PoliciesOfOthers(policies, sees=SEES))
    paid = bonus(batch)[INFLUENCE].squeeze(-1)
    torch.testing.assert_close(paid, by_hand(batch, policies))
    assert float(paid[:, 0].min()) > 0
    # Nobody sees what the last one does.
    torch.testing.assert_close(paid[:, 2], torch.zeros(B))


def test_an_agent_whose_policy_is_certain_moves_nobody():
    """What it does was the only thing that it could do."""
    batch, policies = steps(), acting_in_turns()
    batch[LOGITS] = 1e4 * batch["agents", "action"]
    paid = SocialInfluence(PoliciesOfOthers(policies, sees=SEES))(batch)[INFLUENCE]
    torch.testing.assert_close(paid, torch.zeros(B, N, 1))


def follower(seed: int) -> TensorDict:
    """Agent 1 does what agent 0 did a step ago; agent 0 acts at random."""
    generator = torch.Generator().manual_seed(seed)
    leader = torch.randint(A, (B, T), generator=generator)
    first = torch.randint(A, (B, 1), generator=generator)
    taken = torch.stack([leader, torch.cat([first, leader[:, :-1]], 1)], -1)
    agents = {
        "observation": torch.zeros(B, T, 2, O),
        "action": nn.functional.one_hot(taken, A).float(),
        "logits": torch.zeros(B, T, 2, A),
    }
    done = torch.zeros(B, T, 1, dtype=torch.bool)
    return TensorDict({"agents": agents, "next": {"done": done}}, [B, T])


def test_a_model_learns_who_answers_whom():
    torch.manual_seed(0)
    model = ModelOfOthers(2, observation_size=O, num_actions=A, num_cells=(16,))
    loss = ModelOfOthersLoss(model)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    for seed in range(150):
        optimizer.zero_grad()
        loss(follower(seed))["loss_model_of_others"].backward()
        optimizer.step()
    paid = SocialInfluence(model)(follower(1000))[INFLUENCE].mean((0, 1)).flatten()
    # One bit, and nothing.
    torch.testing.assert_close(paid, torch.tensor([0.6931, 0.0]), atol=0.05, rtol=0)


def test_the_models_loss_is_the_cross_entropy_of_the_others_next_actions():
    torch.manual_seed(0)
    model = ModelOfOthers(2, observation_size=O, num_actions=A)
    batch = follower(0)
    batch["next", "done"][:, 4] = True
    found = ModelOfOthersLoss(model, reduction="none")(batch)["loss_model_of_others"]
    logits = model(batch[OBSERVATION], batch["agents", "action"])
    taken = batch["agents", "action"].argmax(-1)
    expected = torch.zeros(B, T)
    for b in range(B):
        for t in set(range(T - 1)) - {4}:
            for k, j in ((0, 1), (1, 0)):
                given = logits[b, t, k, taken[b, t, k], j].log_softmax(-1)
                expected[b, t] -= given[taken[b, t + 1, j]].item()
    torch.testing.assert_close(found.detach(), expected)


def test_a_model_does_not_see_the_action_that_it_varies():
    model = ModelOfOthers(N, observation_size=O, num_actions=A)
    batch = steps()
    action = batch["agents", "action"].clone()
    action[:, 1] = action[:, 1].flip(-1)
    before, after = (model(batch[OBSERVATION], a) for a in (batch["agents", "action"], action))
    torch.testing.assert_close(before[:, 1], after[:, 1], rtol=0, atol=0)
    assert not torch.equal(before[:, 0], after[:, 0])


def test_social_influence_passes_the_check_of_environments():
    env = PushBox(B, seed=0)
    actor = make_stochastic_actor(env)
    bonus = SocialInfluence(ModelOfOthers(2, observation_size=90, num_actions=5))
    env = TransformedEnv(env, bonus)
    assert env.rollout(3, actor)[INFLUENCE].shape == (B, 3, 2, 1)
    with pytest.raises(KeyError, match="logits"):
        check_env_specs(env)


def test_agents_that_see_nothing_of_each_other_are_refused():
    blind = TensorDictModule(lambda o: o, in_keys=[OBSERVATION], out_keys=[LOGITS])
    message = "Agents that see nothing of each other have no influence in the same step"
    with pytest.raises(ValueError, match=re.escape(message)):
        PoliciesOfOthers(blind, sees=SEES)
    with pytest.raises(ValueError, match=re.escape(message)):
        PoliciesOfOthers(acting_in_turns(), sees=torch.zeros(N, N, dtype=torch.bool))


def test_a_model_of_other_actions_is_refused():
    model = ModelOfOthers(N, observation_size=O, num_actions=A + 1)
    with pytest.raises(ValueError, match=re.escape(f"must have the shape ({B}, {N}, {A + 1})")):
        SocialInfluence(model)(steps())
    loss = ModelOfOthersLoss(ModelOfOthers(N, observation_size=O, num_actions=A))
    batch = steps().set("next", TensorDict({"done": torch.zeros(B, 1).bool()}, [B]))
    with pytest.raises(ValueError, match=r"need a batch .* of environments and time"):
        loss(batch)
