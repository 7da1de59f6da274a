"""A network computes with given parameters, and has its own again."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.modules import MultiAgentMLP

from torchrl_alita.modules._mlp import multi_agent_mlp
from torchrl_alita.objectives._functional_call import functional_call


class Shifted(nn.Module):
    """A linear layer and a buffer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("shift", torch.zeros(2))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.linear(inputs) + self.shift


def torchrl_network() -> nn.Module:
    sizes = {"n_agent_inputs": 2, "n_agent_outputs": 2, "n_agents": 3, "num_cells": [5]}
    return nn.Sequential(MultiAgentMLP(**sizes, centralized=False, share_params=False))


NETWORKS = {
    "ordinary": Shifted,
    "nested": lambda: nn.Sequential(Shifted(), nn.Sequential(nn.ReLU(), Shifted())),
    "ours": lambda: multi_agent_mlp(in_features=2, out_features=2, num_agents=3, num_cells=[5]),
    "torchrl": torchrl_network,
}
INPUTS = torch.linspace(-1, 1, 24).view(4, 3, 2)


@pytest.fixture(params=NETWORKS)
def network(request) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[request.param]()


def own_of(network: nn.Module) -> dict[str, int]:
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return {name: id(tensor) for name, tensor in tensors}


def others(network: nn.Module) -> TensorDict:
    return TensorDict.from_module(network).data.apply(lambda tensor: tensor + 0.5)


def test_it_computes_as_tensordicts_own_context_does(network):
    params, own = others(network), own_of(network)
    before = network(INPUTS)
    with params.to_module(network):
        expected = network(INPUTS)
    given = functional_call(params, network, lambda: network(INPUTS))
    assert torch.equal(given, expected)
    assert not torch.equal(given, before)
    assert torch.equal(network(INPUTS), before)
    assert own_of(network) == own


def test_gradients_go_to_the_given_parameters_alone(network):
    params = others(network).apply(lambda tensor: tensor.requires_grad_())
    functional_call(params, network, lambda: network(INPUTS)).sum().backward()
    assert all(tensor.grad is not None for tensor in params.values(True, True))
    assert all(tensor.grad is None for tensor in network.parameters())


def test_a_stack_of_parameters_gives_a_stack_of_results(network):
    given = [others(network), others(network).apply(lambda tensor: 2 * tensor)]
    alone = [functional_call(params, network, lambda: network(INPUTS)) for params in given]

    def call(params: TensorDict) -> torch.Tensor:
        return functional_call(params, network, lambda: network(INPUTS))

    own = own_of(network)
    torch.testing.assert_close(
        torch.vmap(call)(torch.stack(given).contiguous()), torch.stack(alone)
    )
    assert own_of(network) == own


def test_after_an_error_a_network_has_its_own(network):
    own, before = own_of(network), network(INPUTS)
    with pytest.raises(ZeroDivisionError):
        functional_call(others(network), network, lambda: 1 / 0)
    assert own_of(network) == own
    assert torch.equal(network(INPUTS), before)


def test_one_swap_within_another_and_within_tensordicts_context(network):
    first, before = others(network), network(INPUTS)
    second = first.apply(lambda tensor: 2 * tensor)
    alone = [
        functional_call(params, network, lambda: network(INPUTS)) for params in (first, second)
    ]

    def nested() -> tuple[torch.Tensor, torch.Tensor]:
        return functional_call(second, network, lambda: network(INPUTS)), network(INPUTS)

    within, after = functional_call(first, network, nested)
    with first.to_module(network):
        within_context, after_context = nested()
    for inner, outer in ((within, after), (within_context, after_context)):
        assert torch.equal(inner, alone[1])
        assert torch.equal(outer, alone[0])
    assert torch.equal(network(INPUTS), before)


def test_tensordicts_context_within_leaves_a_network_its_own(network):
    own, before = own_of(network), network(INPUTS)
    given, other = others(network), others(network).apply(lambda tensor: 2 * tensor)

    def shown() -> tuple[str, torch.Tensor]:
        with other.to_module(network):
            network(INPUTS)
        # TorchRL's networks of several agents enter such a context to show themselves.
        return repr(network), network(INPUTS)

    alone = functional_call(given, network, lambda: network(INPUTS))
    _, within = functional_call(given, network, shown)
    assert torch.equal(within, alone)
    assert own_of(network) == own
    assert torch.equal(network(INPUTS), before)
    assert torch.equal(functional_call(given, network, lambda: network(INPUTS)), alone)


def test_parameters_that_do_not_fit_are_an_error_and_change_nothing():
    network = Shifted()
    own = own_of(network)
    params = others(network).set(("other", "weight"), torch.zeros(2))
    with pytest.raises(KeyError, match="other"):
        functional_call(params, network, lambda: network(INPUTS))
    assert own_of(network) == own
