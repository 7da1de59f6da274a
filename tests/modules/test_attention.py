"""Attention over agents: other implementations' numbers, who is read, any team."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from fakes import A, B, N, O, TargetEnv, random_batch
from torch import nn
from torchrl.objectives import SoftUpdate

from torchrl_alita import MADDPGLoss
from torchrl_alita.modules import (
    AgentAttention,
    AttentionNet,
    make_attention_actor,
    make_attention_critic,
)

H, M = 22, 2
SCORES = ("dot", "gatv2")
ABSENT = torch.tensor([True, False, True]).expand(B, N)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def attention(scores: str = "dot", **options) -> AgentAttention:
    return AgentAttention(in_features=O, hidden_size=H, num_heads=M, scores=scores, **options)


def test_the_dot_product_is_that_of_torchs_multihead_attention():
    ours = attention()
    theirs = nn.MultiheadAttention(H, M, batch_first=True, kdim=O, vdim=O)
    features = torch.randn(B, N, O)
    with torch.no_grad():
        # Theirs reads queries of its own width: they are projected here, and not again.
        theirs.q_proj_weight.copy_(torch.eye(H))
        theirs.k_proj_weight.copy_(ours.key.weight)
        theirs.v_proj_weight.copy_(ours.value.weight)
        theirs.in_proj_bias.copy_(torch.cat([torch.zeros(H), ours.key.bias, ours.value.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
        expected, weights = theirs(
            ours.query(features), features, features, key_padding_mask=~ABSENT,
            average_attn_weights=False,
        )  # fmt: skip
    there = ABSENT.unsqueeze(-1)
    torch.testing.assert_close(ours(features, ABSENT), expected * there)
    torch.testing.assert_close(
        ours.weights(features, ABSENT), weights * there.unsqueeze(1), rtol=1e-5, atol=1e-6
    )


@torch.no_grad()
def test_the_scores_of_gatv2_are_those_of_its_equation_edge_by_edge():
    ours = attention("gatv2")
    features = torch.randn(N, O)
    queries, keys = ours.query(features), ours.key(features)
    width = H // M
    heads = []
    for head in range(M):
        part = slice(head * width, (head + 1) * width)
        rows = []
        for i in range(N):
            scores = []
            for j in range(N):
                joined = queries[i, part] + keys[j, part]
                joined = torch.where(joined > 0, joined, 0.2 * joined)
                scores.append(float(ours.score[head] @ joined))
            shares = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
            rows.append(sum(share * keys[j, part] for j, share in enumerate(shares)))
        heads.append(torch.stack(rows))
    torch.testing.assert_close(ours(features), ours.out(torch.cat(heads, -1)))


@pytest.mark.skipif(
    importlib.util.find_spec("torch_geometric") is None, reason="needs torch_geometric"
)
@pytest.mark.parametrize("see_self", [True, False])
def test_the_scores_of_gatv2_are_those_of_torch_geometric(see_self):
    from torch_geometric.nn import GATv2Conv

    ours = attention("gatv2", see_self=see_self)
    theirs = GATv2Conv(O, H // M, heads=M, add_self_loops=False)
    with torch.no_grad():
        theirs.lin_l.weight.copy_(ours.key.weight)
        theirs.lin_l.bias.copy_(ours.key.bias)
        theirs.lin_r.weight.copy_(ours.query.weight)
        theirs.lin_r.bias.copy_(ours.query.bias)
        theirs.att.copy_(ours.score.unsqueeze(0))
        theirs.bias.zero_()
    features = torch.randn(N, O)
    edges = [[j, i] for i in range(N) for j in range(N) if see_self or i != j]
    expected = ours.out(theirs(features, torch.tensor(edges).T))
    torch.testing.assert_close(ours(features), expected)


@pytest.mark.parametrize("scores", SCORES)
def test_who_is_absent_changes_nothing_and_gets_no_gradient(scores):
    net = AttentionNet(in_features=O, out_features=A, hidden_size=H, num_heads=M, scores=scores)
    features = torch.randn(B, N, O)
    without = net(features[:, [0, 2]])
    poisoned = features.clone()
    poisoned[:, 1] = torch.nan
    poisoned.requires_grad_()
    result = net(poisoned, ABSENT)
    assert bool(result.isfinite().all())
    torch.testing.assert_close(result[:, [0, 2]], without)
    without.sum().backward()
    expected = {name: param.grad.clone() for name, param in net.named_parameters()}
    net.zero_grad()
    result[:, [0, 2]].sum().backward()
    for name, param in net.named_parameters():
        torch.testing.assert_close(param.grad, expected[name], msg=name)
    assert not poisoned.grad[:, 1].any()


@pytest.mark.parametrize("scores", SCORES)
def test_a_team_of_nobody_gathers_nothing(scores):
    nobody = torch.zeros(B, N, dtype=torch.bool)
    features = torch.full((B, N, O), torch.nan)
    module = attention(scores)
    result = module(features, nobody)
    assert not result.any()
    result.sum().backward()
    assert all(param.grad.isfinite().all() for param in module.parameters())


@pytest.mark.parametrize("scores", SCORES)
def test_agents_in_another_order_give_the_same_in_that_order(scores):
    net = AttentionNet(in_features=O, out_features=A, hidden_size=H, num_heads=M, scores=scores)
    features, order = torch.randn(B, N, O), [2, 0, 1]
    torch.testing.assert_close(net(features[:, order]), net(features)[:, order])


def test_one_module_serves_teams_of_every_size():
    net = AttentionNet(in_features=O, out_features=A)
    assert [net(torch.randn(B, size, O)).shape[-2] for size in (1, 2, 31)] == [1, 2, 31]


@pytest.mark.parametrize("scores", SCORES)
def test_weights_sum_to_one_over_those_who_are_seen(scores):
    module = attention(scores, see_self=False)
    features = torch.randn(B, N, O)
    weights = module.weights(features)
    assert weights.shape == (B, M, N, N)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, M, N))
    assert not weights.diagonal(dim1=-2, dim2=-1).any()
    # Agents 0 and 2 are left: each sees the other alone; agent 1 sees nobody.
    alone = torch.tensor([[0.0, 0, 1], [0, 0, 0], [1, 0, 0]])
    torch.testing.assert_close(module.weights(features, ABSENT), alone.expand(B, M, N, N))


@pytest.mark.parametrize("num_rounds", [1, 2])
def test_in_each_round_an_agent_hears_of_those_one_step_further(num_rounds):
    """A chain: agent i sees itself and agent i + 1."""
    net = AttentionNet(in_features=O, out_features=A, num_rounds=num_rounds)
    chain = torch.eye(N, dtype=torch.bool) | torch.eye(N, dtype=torch.bool).roll(1, 1)
    chain[-1, 0] = False
    features = torch.randn(B, N, O)
    other = features.clone()
    other[:, 2] += 1
    differs = (net(features, chain.expand(B, N, N)) != net(other, chain.expand(B, N, N))).any(-1)
    assert differs.all(0).tolist() == [num_rounds > 1, True, True]
    assert bool(differs[:, 0].any()) == (num_rounds > 1)


@pytest.mark.parametrize("scores", SCORES)
def test_it_compiles_in_one_graph(scores):
    torch._dynamo.reset()
    net = AttentionNet(in_features=O, out_features=A, hidden_size=H, num_heads=M, scores=scores)
    features = torch.randn(B, N, O)
    graph = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(graph(features, ABSENT), net(features, ABSENT))


def test_it_runs_under_vmap():
    """TorchRL's value estimators evaluate several parameters of a network at once."""
    module = attention()
    features = torch.randn(2, B, N, O)
    torch.testing.assert_close(torch.vmap(module)(features), module(features))


def test_an_agents_action_depends_on_what_its_teammates_see():
    actor = make_attention_actor(TargetEnv(), hidden_size=H, num_heads=M)
    batch = random_batch()
    other = batch.clone()
    other["agents", "observation"][:, 2] += 1
    before, after = (actor(each.copy())["agents", "action"] for each in (batch, other))
    assert bool((before != after).any(-1).all())


def test_a_dead_teammate_is_not_read_by_the_actor_and_the_critic():
    env = TargetEnv()
    actor = make_attention_actor(env, alive=("agents", "alive"))
    critic = make_attention_critic(env, alive=("agents", "alive"))
    batch = random_batch().set(("agents", "alive"), ABSENT)
    poisoned = batch.clone()
    for name in ("observation", "action"):
        poisoned["agents", name][:, 1] = torch.nan
    for network, key in ((actor, "action"), (critic, "state_action_value")):
        first, second = (network(each.copy())["agents", key] for each in (batch, poisoned))
        torch.testing.assert_close(first[:, [0, 2]], second[:, [0, 2]])
        assert bool(second.isfinite().all())
        # As environments write it.
        batch["agents", "alive"] = ABSENT.unsqueeze(-1)
        again = network(batch.copy())["agents", key]
        torch.testing.assert_close(again, first, rtol=0, atol=0)
        batch["agents", "alive"] = ABSENT


def test_each_critic_sees_the_joint_action_that_is_its_own():
    critic = make_attention_critic(TargetEnv(), hidden_size=H, num_heads=M)
    batch = random_batch()
    joint = torch.randn(B, N, N, A)
    values = critic(batch.clone().set(("agents", "action"), joint))["agents", "state_action_value"]
    for i in range(N):
        alone = critic(batch.clone().set(("agents", "action"), joint[:, i]))
        torch.testing.assert_close(values[:, i], alone["agents", "state_action_value"][:, i])


def test_maddpgs_gradient_goes_through_attention_to_both_trunks():
    env = TargetEnv()
    loss = MADDPGLoss(make_attention_actor(env), make_attention_critic(env))
    SoftUpdate(loss, tau=0.5)
    losses = loss(random_batch())
    (losses["loss_actor"] + losses["loss_qvalue"]).backward()
    for name in ("actor_network_params", "qvalue_network_params"):
        for key, param in getattr(loss, name).items(True, True):
            if isinstance(param, nn.Parameter):
                assert bool(param.grad.any()), (name, key)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: AgentAttention(in_features=0), ValueError, "in_features"),
        (lambda: AgentAttention(in_features=O, num_heads=3), ValueError, "multiple"),
        (lambda: attention("softmax"), ValueError, "scores"),
        (lambda: AttentionNet(in_features=O, out_features=0), ValueError, "out_features"),
        (lambda: AttentionNet(in_features=O, out_features=A, num_rounds=0), ValueError, "rounds"),
        (lambda: attention()(torch.zeros(N, O + 1)), ValueError, "features"),
        (lambda: attention()(torch.zeros(B, N, O), torch.ones(B, N)), TypeError, "bool"),
        (lambda: attention()(torch.zeros(B, N, O), ABSENT[0]), ValueError, "mask"),
    ],
)
def test_bad_input_has_one_clear_error(call, error, text):
    with pytest.raises(error, match=text):
        call()
