"""K-FAC against exact Fisher matrices, and the trust region's step against its closed form."""

from __future__ import annotations

import math
import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn

from torchrl_alita.modules import StackedLinear
from torchrl_alita.optim import KFAC, TrustRegion, conjugate_gradient

# Distinct primes: inputs, outputs, hidden units, rows, agents.
INPUTS, OUTPUTS, HIDDEN, ROWS, AGENTS = 3, 2, 5, 7, 2


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


# A standard Gaussian's mean and covariance are exactly those of these 2 * OUTPUTS equally
# likely points, so that a mean over them is no estimate.
POINTS = math.sqrt(OUTPUTS) * torch.cat(
    [torch.eye(OUTPUTS, dtype=torch.float64), -torch.eye(OUTPUTS, dtype=torch.float64)]
)


def gaussian(net: nn.Module, inputs: torch.Tensor):
    """Log-probabilities of every point at every input, ``[rows * points]``, scale 1."""

    def log_prob() -> torch.Tensor:
        rows = inputs.repeat_interleave(len(POINTS), 0)
        mean = net(rows)
        points = POINTS.repeat(len(inputs), 1).reshape(mean.shape[0], *(1,) * (mean.ndim - 2), -1)
        drawn = (mean + points).detach()
        return -0.5 * (drawn - mean).square().sum(-1)

    return log_prob


def exact_fisher(net: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """E[J^T J] of a Gaussian's mean with scale 1, by Jacobians, rows of each layer's [W, b]."""
    fisher = 0.0
    params = dict(net.named_parameters())
    for row in inputs:
        found = torch.func.jacrev(lambda p, row=row: torch.func.functional_call(net, p, (row,)))(
            params
        )
        parts = []
        for name, jacobian in found.items():
            if name.endswith("weight"):
                bias = found.get(name.replace("weight", "bias"))
                whole = jacobian if bias is None else torch.cat([jacobian, bias[..., None]], -1)
                parts.append(whole.flatten(-2).reshape(OUTPUTS, -1))
        jacobian = torch.cat(parts, -1)
        fisher = fisher + jacobian.mT @ jacobian
    return fisher / len(inputs)


def product(optimizer: KFAC, layer: nn.Module) -> torch.Tensor:
    """A layer's block, for vectors with the rows of [W, b] one after another."""
    state = optimizer.state[layer.weight]
    return torch.kron(state["output_factor"], state["input_factor"])


def vector(layer: nn.Module, name: str) -> torch.Tensor:
    weight, bias = (getattr(p, name, p) for p in (layer.weight, layer.bias))
    return torch.cat([weight, bias.unsqueeze(-1)], -1).reshape(-1).clone()


def test_the_block_of_one_linear_layer_is_the_exact_fisher_matrix():
    net, inputs = nn.Linear(INPUTS, OUTPUTS), torch.randn(ROWS, INPUTS)
    optimizer = KFAC(net)
    optimizer.observe(gaussian(net, inputs))
    torch.testing.assert_close(product(optimizer, net), exact_fisher(net, inputs))


def test_the_blocks_of_a_deep_linear_network_are_those_of_the_exact_fisher_matrix():
    """Where no unit bends, outputs' gradients do not depend on the inputs: no approximation."""
    net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, OUTPUTS))
    inputs = torch.randn(ROWS, INPUTS)
    optimizer = KFAC(net)
    optimizer.observe(gaussian(net, inputs))
    fisher, first = exact_fisher(net, inputs), HIDDEN * (INPUTS + 1)
    torch.testing.assert_close(product(optimizer, net[0]), fisher[:first, :first])
    torch.testing.assert_close(product(optimizer, net[1]), fisher[first:, first:])


def test_the_last_block_of_a_bent_network_is_exact_and_the_first_has_the_exact_factors():
    net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUTPUTS))
    inputs = torch.randn(ROWS, INPUTS)
    optimizer = KFAC(net)
    optimizer.observe(gaussian(net, inputs))
    fisher, first = exact_fisher(net, inputs), HIDDEN * (INPUTS + 1)
    torch.testing.assert_close(product(optimizer, net[2]), fisher[first:, first:])
    state = optimizer.state[net[0].weight]
    seen = torch.cat([inputs, torch.ones(ROWS, 1)], -1)
    torch.testing.assert_close(state["input_factor"], seen.mT @ seen / ROWS)
    # The outputs of the first layer are moved through W diag(1 - h^2).
    slopes = 1 - torch.tanh(net[0](inputs)).square()
    moved = net[2].weight.unsqueeze(0) * slopes.unsqueeze(1)
    torch.testing.assert_close(state["output_factor"], (moved.mT @ moved).mean(0).detach())
    # The product of both means is near to the mean of the products, and not the same.
    exact, found = fisher[:first, :first], product(optimizer, net[0])
    error = (found - exact).norm() / exact.norm()
    assert 0.01 < error < 0.5


def test_the_step_is_the_exact_natural_gradient_of_the_damped_fisher_matrix():
    net, inputs = nn.Linear(INPUTS, OUTPUTS), torch.randn(ROWS, INPUTS)
    optimizer = KFAC(net, lr=0.5, max_kl=1e9, momentum=0.0, damping=0.03)
    optimizer.observe(gaussian(net, inputs))
    fisher = exact_fisher(net, inputs)
    before = vector(net, "data")
    net(inputs).square().sum().backward()
    gradient = torch.cat([net.weight.grad, net.bias.grad.unsqueeze(-1)], -1).reshape(-1)
    natural = torch.linalg.solve(fisher + 0.03 * torch.eye(len(fisher)), gradient)
    optimizer.step()
    torch.testing.assert_close(vector(net, "data"), before - 0.5 * natural)


def test_a_free_scale_is_a_layer_of_a_constant_and_has_the_fisher_information_2():
    """For the logarithm of a Gaussian's scale; of its two points (-1, 1) times sqrt(3) and 0."""
    log_scale = nn.Linear(1, 1, bias=False)
    nodes = torch.tensor([-math.sqrt(3), 0.0, math.sqrt(3)])
    weights = torch.tensor([1 / 6, 2 / 3, 1 / 6])
    rows = nodes.repeat_interleave((weights * 6).round().long()).unsqueeze(-1)

    def log_prob():
        log = log_scale(torch.ones_like(rows))
        drawn = (rows * log.exp()).detach()
        return -0.5 * (drawn / log.exp()).square() - log

    optimizer = KFAC(log_scale)
    optimizer.observe(log_prob)
    torch.testing.assert_close(product(optimizer, log_scale), torch.full((1, 1), 2.0))


def test_stacked_layers_move_as_separate_ones_do():
    """The region is on the mean over the agents, so that each block counts 1 / N."""
    stacked = StackedLinear(INPUTS, OUTPUTS, num_agents=AGENTS)
    inputs = torch.randn(ROWS, AGENTS, INPUTS)
    separate = [nn.Linear(INPUTS, OUTPUTS) for _ in range(AGENTS)]
    for agent, net in enumerate(separate):
        net.weight.data.copy_(stacked.weight[agent])
        net.bias.data.copy_(stacked.bias[agent])
    options = {"lr": 0.5, "max_kl": 1e9, "momentum": 0.0}
    optimizer = KFAC(stacked, damping=0.03 / AGENTS, **options)
    optimizer.observe(gaussian(stacked, inputs))
    stacked(inputs).square().mean().backward()
    optimizer.step()
    for agent, net in enumerate(separate):
        alone = KFAC(net, damping=0.03, **options)
        alone.observe(gaussian(net, inputs[:, agent]))
        net(inputs[:, agent]).square().mean().backward()
        alone.step()
        torch.testing.assert_close(stacked.weight[agent], net.weight)
        torch.testing.assert_close(stacked.bias[agent], net.bias)


def mean_divergence(net: nn.Module, old: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return 0.5 * (net(inputs) - old).square().sum(-1).mean()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_trust_region_is_kept_whatever_the_gradient_and_the_momentum(momentum):
    net = nn.Linear(INPUTS, OUTPUTS)
    optimizer = KFAC(net, lr=1.0, max_kl=0.02, momentum=momentum, damping=1e-6, decay=0.0)
    for scale in (1.0, 1e6, 1e-3, 100.0, 1e-12):
        inputs = torch.randn(ROWS, INPUTS)
        optimizer.observe(gaussian(net, inputs))
        optimizer.zero_grad()
        (scale * net(inputs).square().sum()).backward()
        old = net(inputs).detach()
        optimizer.step()
        assert mean_divergence(net, old, inputs) <= 0.02 * (1 + 1e-6)
    # Where it binds, the step goes up to its edge.
    (1e6 * net(inputs).square().sum()).backward()
    old = net(inputs).detach()
    optimizer.step()
    assert mean_divergence(net, old, inputs).item() == pytest.approx(0.02, rel=1e-3)


def test_the_trust_region_of_a_bent_network_holds_nearly():
    net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUTPUTS))
    inputs = torch.randn(ROWS, INPUTS)
    optimizer = KFAC(net, lr=1.0, max_kl=0.001, damping=1e-4)
    for _ in range(10):
        optimizer.observe(gaussian(net, inputs))
        optimizer.zero_grad()
        (net(inputs) - 5).square().mean().backward()
        old = net(inputs).detach()
        optimizer.step()
        assert 0 < mean_divergence(net, old, inputs) < 0.003


def test_kfac_fits_a_badly_scaled_regression_that_plain_descent_does_not():
    inputs = torch.randn(ROWS * 5, INPUTS) * torch.tensor([100.0, 1.0, 0.01])
    targets = inputs @ torch.tensor([[0.01, 0.0], [1.0, -1.0], [100.0, 50.0]])
    net, plain = nn.Linear(INPUTS, OUTPUTS), nn.Linear(INPUTS, OUTPUTS)
    plain.load_state_dict(net.state_dict())
    optimizer = KFAC(net, lr=0.2, max_kl=1e9, momentum=0.0, damping=1e-8)
    descent = torch.optim.SGD(plain.parameters(), lr=1e-4)
    for _ in range(60):
        optimizer.observe(gaussian(net, inputs))
        for model, one in ((net, optimizer), (plain, descent)):
            one.zero_grad()
            (0.5 * (model(inputs) - targets).square().sum(-1).mean()).backward()
            one.step()
    assert (net(inputs) - targets).square().mean() < 1e-4
    assert (plain(inputs) - targets).square().mean() > 0.1


def test_the_factors_run_along_with_their_decay_and_the_basis_waits():
    net = nn.Linear(INPUTS, OUTPUTS)
    optimizer = KFAC(net, decay=0.6, basis_interval=2)
    state = optimizer.state[net.weight]
    bases, squares = [], []
    for _ in range(3):
        inputs = torch.randn(ROWS, INPUTS)
        optimizer.observe(gaussian(net, inputs))
        seen = torch.cat([inputs, torch.ones(ROWS, 1)], -1)
        squares.append(seen.mT @ seen / ROWS)
        bases.append(state["input_basis"])
    # A mean of the first two, since 1 - 1/2 is below 0.6 and 1 - 1/3 above.
    expected = 0.6 * (squares[0] + squares[1]) / 2 + 0.4 * squares[2]
    torch.testing.assert_close(state["input_factor"], expected)
    assert bases[0] is bases[1]
    assert bases[1] is not bases[2]


@pytest.mark.parametrize("seed", range(5))
def test_factors_of_low_rank_have_a_finite_step(seed):
    """Four one-hot numbers of two values each: single precision's decomposition gave NaN."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(92, 8), nn.Tanh(), nn.Linear(8, OUTPUTS)).float()
    inputs = torch.nn.functional.one_hot(torch.randint(2, (50, 4)), 23).flatten(1).float()
    optimizer = KFAC(net, lr=1.0, max_kl=1.0, basis_interval=1)
    for _ in range(3):
        optimizer.observe(gaussian(net, inputs))
        optimizer.zero_grad()
        net(inputs).sum().backward()
        optimizer.step()
    for layer in (net[0], net[2]):
        state = optimizer.state[layer.weight]
        factor = state["input_factor"].double()
        basis, values = state["input_basis"].double(), state["input_values"].double()
        torch.testing.assert_close(basis * values @ basis.mT, factor, rtol=1e-5, atol=1e-6)
        assert layer.weight.isfinite().all()


def test_kfac_goes_on_from_its_state_bit_for_bit():
    def train(net, optimizer, steps):
        for _ in range(steps):
            optimizer.observe(gaussian(net, inputs))
            optimizer.zero_grad()
            (net(inputs) - 1).square().mean().backward()
            optimizer.step()

    inputs = torch.randn(ROWS, INPUTS)
    net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUTPUTS))
    optimizer = KFAC(net, basis_interval=3)
    train(net, optimizer, 4)
    other = deepcopy(net)
    resumed = KFAC(other, basis_interval=3)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    train(net, optimizer, 4)
    train(other, resumed, 4)
    for first, second in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)


def test_kfac_says_what_it_lacks():
    net = nn.Sequential(nn.Linear(INPUTS, OUTPUTS), nn.LayerNorm(OUTPUTS))
    with pytest.raises(ValueError, match=r"1\.weight"):
        KFAC(net)
    with pytest.raises(ValueError, match="linear layers"):
        KFAC(nn.Tanh())
    layer = nn.Linear(INPUTS, OUTPUTS)
    optimizer = KFAC(layer)
    layer(torch.ones(1, INPUTS)).sum().backward()
    before = layer.weight.clone()
    with pytest.raises(ValueError, match="observe"):
        optimizer.step()
    with pytest.raises(ValueError, match="once, got 0"):
        optimizer.observe(lambda: torch.zeros(1))
    with pytest.raises(ValueError, match="once, got 2"):
        optimizer.observe(lambda: layer(torch.ones(1, INPUTS)) + layer(torch.ones(1, INPUTS)))
    assert torch.equal(before, layer.weight)
    assert not layer._forward_hooks


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"lr": 0.0}, "lr"),
        ({"max_kl": -1.0}, "max_kl"),
        ({"damping": 0.0}, "damping"),
        ({"momentum": 1.0}, "momentum"),
        ({"decay": 1.0}, "decay"),
        ({"basis_interval": 0}, "basis_interval"),
    ],
)
def test_kfac_refuses_options_out_of_range(options, word):
    with pytest.raises(ValueError, match=word):
        KFAC(nn.Linear(INPUTS, OUTPUTS), **options)


def test_stacked_layers_are_separate_linear_layers():
    layer = StackedLinear(INPUTS, OUTPUTS, num_agents=AGENTS)
    inputs = torch.randn(ROWS, AGENTS, INPUTS)
    for agent in range(AGENTS):
        expected = inputs[:, agent] @ layer.weight[agent].mT + layer.bias[agent]
        torch.testing.assert_close(layer(inputs)[:, agent], expected)
    with pytest.raises(ValueError, match=r"\(2, 3\), got \(3, 3\)"):
        layer(torch.randn(ROWS, AGENTS + 1, INPUTS))
    with pytest.raises(ValueError, match="num_agents"):
        StackedLinear(INPUTS, OUTPUTS, num_agents=0)


def spd(size: int) -> torch.Tensor:
    root = torch.randn(size, size)
    return root @ root.mT + 0.1 * torch.eye(size)


def test_conjugate_gradients_solve_a_system_in_as_many_steps_as_it_has_unknowns():
    matrix, target = spd(5), torch.randn(5)
    calls = []

    def product(x):
        calls.append(x)
        return matrix @ x

    found = conjugate_gradient(product, target, iterations=5, tolerance=0.0)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target))
    assert len(calls) == 5
    assert not conjugate_gradient(product, torch.zeros(5)).any()
    assert len(calls) == 5


def test_conjugate_gradients_stop_where_the_rest_is_small():
    calls = []

    def product(x):
        calls.append(x)
        return 2 * x

    conjugate_gradient(product, torch.ones(5))
    assert len(calls) == 1


def gaussian_policy() -> tuple[nn.Linear, torch.Tensor]:
    return nn.Linear(INPUTS, OUTPUTS), torch.randn(ROWS, INPUTS)


def test_the_longest_step_is_the_closed_form_and_reaches_the_regions_edge():
    """A Gaussian's divergence is quadratic in its mean: sqrt(2 delta / g F^-1 g) F^-1 g."""
    net, inputs = gaussian_policy()
    old = net(inputs).detach()
    slope = torch.randn(ROWS, OUTPUTS)
    optimizer = TrustRegion(net.parameters(), max_kl=0.02, damping=1e-9, iterations=20)
    before = vector(net, "data")
    done = optimizer.step(
        lambda: (slope * net(inputs)).sum(-1).mean(), lambda: mean_divergence(net, old, inputs)
    )
    rows = torch.cat([inputs, torch.ones(ROWS, 1)], -1)
    gradient = (slope.mT @ rows / ROWS).reshape(-1)
    fisher = exact_fisher(net, inputs)
    natural = torch.linalg.solve(fisher, gradient)
    length = math.sqrt(2 * 0.02 / (gradient @ natural))
    torch.testing.assert_close(vector(net, "data"), before - length * natural, rtol=1e-5, atol=1e-7)
    assert done.share == 1
    assert done.kl == pytest.approx(0.02, rel=1e-6)
    assert done.kl <= 0.02


def test_the_line_search_halves_until_the_divergence_fits():
    """The divergence rises as the fourth power beyond what its curvature says."""
    value = nn.Parameter(torch.zeros(1))

    def divergence():
        return (0.5 * value.square() + 1e3 * value.pow(4)).sum()

    optimizer = TrustRegion([value], max_kl=0.02, damping=0.0)
    done = optimizer.step(lambda: -value.sum(), divergence)
    # The longest step is 0.2: 0.02 + 1.6; halved twice, 0.05: 0.00125 + 0.00625.
    assert done.share == 0.25
    torch.testing.assert_close(value.detach(), torch.tensor([0.05]))
    assert done.kl == pytest.approx(0.0075)
    assert done.objective == pytest.approx(-0.05)


def test_where_no_length_is_better_the_parameters_stay():
    value = nn.Parameter(torch.zeros(1))
    optimizer = TrustRegion([value], max_kl=0.02, damping=0.0, searches=3)
    # Its slope at 0 promises a fall that no step finds.
    done = optimizer.step(
        lambda: (value.abs() * 100 - value).sum() * (value != 0) - value.sum() * (value == 0),
        lambda: 0.5 * value.square().sum(),
    )
    assert done.share == 0
    assert value.item() == 0


def test_without_a_slope_nothing_moves():
    value = nn.Parameter(torch.ones(3))
    done = TrustRegion([value]).step(lambda: (0 * value).sum(), lambda: value.square().sum() - 3)
    assert done.share == 0
    assert torch.equal(value.detach(), torch.ones(3))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"max_kl": 0.0}, "max_kl"),
        ({"damping": -1.0}, "damping"),
        ({"iterations": 0}, "iterations"),
        ({"shrinkage": 1.0}, "shrinkage"),
        ({"searches": 0}, "searches"),
    ],
)
def test_the_trust_region_refuses_options_out_of_range(options, word):
    with pytest.raises(ValueError, match=word):
        TrustRegion([nn.Parameter(torch.zeros(1))], **options)


@pytest.mark.parametrize("copied", [deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_of_kfac_goes_on_with_its_own_network(copied):
    net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUTPUTS))
    pairs = [(net, KFAC(net)), copied((net, KFAC(net)))]
    inputs = torch.randn(ROWS, INPUTS)
    for own, optimizer in pairs:
        optimizer.observe(gaussian(own, inputs))
        own(inputs).square().mean().backward()
        optimizer.step()
    (first, _), (second, _) = pairs
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_the_trust_region_makes_its_own_gradients():
    net = nn.Linear(INPUTS, 1)
    inputs, before = torch.randn(ROWS, INPUTS), deepcopy(net)

    def divergence() -> torch.Tensor:
        return (net(inputs) - before(inputs).detach()).square().mean()

    optimizer = TrustRegion(net.parameters())
    with torch.no_grad():
        optimizer.step(lambda: net(inputs).mean(), divergence)
    assert net(inputs).mean() < before(inputs).mean()
