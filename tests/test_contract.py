"""Every loss and every transform keeps the contract."""

from __future__ import annotations

import contract
import pytest
import torch
from fakes import A, B, H, N, O, S, T, TargetEnv, fixed_draws_actor, random_batch, sequences
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.envs import Transform
from torchrl.modules import QMixer, VDNMixer
from torchrl.objectives import SoftUpdate

from torchrl_alita import (
    Autoencoder,
    DiversityPenalty,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    MADDPGLoss,
    NoveltyLoss,
    NoveltyReward,
    TotalReward,
    TRPOLoss,
    TsallisLoss,
    ValueDecompositionLoss,
    make_actor,
    make_critic,
    make_influence_network,
    make_qnetwork,
    make_recurrent_actor,
)
from torchrl_alita.data import BinCode, JointCode, TransitionCounts
from torchrl_alita.modules import (
    make_counterfactual_critic,
    make_gaussian_actor,
    make_mixing_critic,
    make_value,
)
from torchrl_alita.objectives import COMALoss, LICALoss
from torchrl_alita.transforms import BonusScale, TransitionInfluence, VisitBonus

ENV = TargetEnv()
DISCRETE = TargetEnv(discrete=True)
SPEC = ENV.full_action_spec_unbatched["agents", "action"]
SMALL = (11,)
STATE = TargetEnv(discrete=True, has_state=True)


def maddpg(num_critics: int = 1, **kwargs) -> MADDPGLoss:
    torch.manual_seed(3)
    critic = make_critic(ENV, num_cells=SMALL, num_critics=num_critics)
    loss = MADDPGLoss(make_actor(ENV, num_cells=SMALL), critic, **kwargs)
    SoftUpdate(loss, tau=0.5)
    return loss


def maddpg_all(**kwargs) -> MADDPGLoss:
    """One-hot actions, each agent's mean over its own."""
    torch.manual_seed(3)
    actor = make_actor(DISCRETE, num_cells=SMALL)
    critic = make_critic(DISCRETE, num_cells=SMALL)
    loss = MADDPGLoss(actor, critic, own_actions="all", **kwargs)
    SoftUpdate(loss, tau=0.5)
    return loss


def recurrent(**kwargs) -> MADDPGLoss:
    """Policies with a memory, critics that read the state."""
    torch.manual_seed(3)
    actor = make_recurrent_actor(STATE, hidden_size=H)
    critic = make_critic(STATE, num_cells=SMALL, critic_input="state")
    loss = MADDPGLoss(actor, critic, **kwargs)
    SoftUpdate(loss, tau=0.5)
    return loss


def value_decomposition(mixer: str | None = "qmix", recurrent: bool = True, **kwargs):
    torch.manual_seed(3)
    network = make_qnetwork(STATE, recurrent=recurrent, hidden_size=H, num_cells=SMALL)
    mixers = {"qmix": QMixer((S,), 5, N, "cpu"), "vdn": VDNMixer(N, "cpu")}
    read = {"qmix": ["state"], "vdn": []}
    if mixer is not None:
        keys = [("agents", "chosen_action_value"), *read[mixer]]
        mixer = TensorDictModule(mixers[mixer], keys, ["chosen_action_value"])
    loss = ValueDecompositionLoss(network, mixer, **kwargs)
    SoftUpdate(loss, tau=0.5)
    return loss


def estimator(kind: str, **kwargs) -> InfluenceEstimatorLoss:
    partner = maddpg()
    network = make_influence_network(ENV, num_cells=SMALL) if kind == "centralized" else None
    return InfluenceEstimatorLoss(partner, kind=kind, estimator_network=network, **kwargs)


def influence(kind: str = "marginal", num_critics: int = 1, **kwargs) -> InfluenceLoss:
    source = maddpg(num_critics) if kind == "marginal" else estimator(kind)
    actor = source.actor_network if kind == "marginal" else source.critics.actor_network
    return InfluenceLoss(actor, source, **kwargs)


def scored(num_action_samples: int | str = "all", **kwargs) -> InfluenceLoss:
    """One-hot actions, Theorem 1; with all of the others' actions nothing is drawn."""
    torch.manual_seed(3)
    actor = make_actor(DISCRETE, num_cells=SMALL)
    partner = MADDPGLoss(actor, make_critic(DISCRETE, num_cells=SMALL))
    SoftUpdate(partner, tau=0.5)
    options = {"gradient": "score", "optimum": "enumerated", **kwargs}
    return InfluenceLoss(actor, partner, num_action_samples=num_action_samples, **options)


def alone(kind: str = "marginal", **kwargs) -> InfluenceLoss:
    """Agents in turns, with a partner of its own."""
    torch.manual_seed(3)
    one = TargetEnv(n_agents=1)
    partner = MADDPGLoss(make_actor(one, num_cells=SMALL), make_critic(one, num_cells=SMALL))
    SoftUpdate(partner, tau=0.5)
    source = partner if kind == "marginal" else InfluenceEstimatorLoss(partner, in_turns=True)
    return InfluenceLoss(make_actor(one, num_cells=SMALL), source, in_turns=True, **kwargs)


def tsallis(**kwargs) -> TsallisLoss:
    """Draws that are known, since the promises compare one call with another."""
    torch.manual_seed(3)
    actor = fixed_draws_actor(make_gaussian_actor(ENV, num_cells=SMALL)[0].module)
    critic = make_critic(ENV, num_cells=SMALL, num_critics=2)
    loss = TsallisLoss(actor, critic, make_value(ENV, num_cells=SMALL), **kwargs)
    SoftUpdate(loss, tau=0.5)
    return loss


def trust_region(**kwargs) -> TRPOLoss:
    torch.manual_seed(3)
    actor = fixed_draws_actor(make_gaussian_actor(ENV, num_cells=SMALL)[0].module)
    return TRPOLoss(actor, **kwargs)


def novelty(**kwargs) -> NoveltyLoss:
    torch.manual_seed(3)
    return NoveltyLoss(Autoencoder(O + A), **kwargs)


def rollout_loss(kind: type, make_critic, *, recurrent: bool = True, **kwargs):
    """Actors with a memory or without, a critic, and what the loss is of."""
    torch.manual_seed(3)
    if recurrent:
        actor = make_recurrent_actor(STATE, hidden_size=H)
    else:
        actor = make_actor(STATE, num_cells=SMALL)
    loss = kind(actor, make_critic(STATE), **kwargs)
    SoftUpdate(loss, tau=0.5)
    return loss


def coma(**kwargs) -> COMALoss:
    return rollout_loss(COMALoss, make_counterfactual_critic, **kwargs)


def lica(**kwargs) -> LICALoss:
    return rollout_loss(LICALoss, make_mixing_critic, **kwargs)


# Losses of rollouts [B, T] of one-hot actions.
ROLLOUTS = {
    "coma": lambda **kw: coma(normalize_advantage=True, entropy_coeff=0.1, **kw),
    "coma_without_memory": lambda **kw: coma(recurrent=False, **kw),
    "lica": lica,
}
LOSSES = {
    **ROLLOUTS,
    "maddpg": maddpg,
    "matd3": lambda **kw: maddpg(num_critics=2, others_actions="policy", **kw),
    "maddpg_all": maddpg_all,
    "novelty": novelty,
    "clones": lambda **kw: estimator("clones", **kw),
    "centralized": lambda **kw: estimator("centralized", **kw),
    "influence_marginal": influence,
    "influence_twin_critics": lambda **kw: influence(num_critics=2, **kw),
    "influence_clones_next": lambda **kw: influence("clones", optimum_at="next", **kw),
    "influence_centralized_policy": lambda **kw: influence("centralized", optimum="policy", **kw),
    "influence_score": scored,
    "influence_of_several": lambda **kw: influence(influencer=(2, 0), **kw),
    "recurrent_maddpg": recurrent,
    "recurrent_influence": lambda **kw: InfluenceLoss(
        (source := recurrent()).actor_network, source, optimum_at="next", **kw
    ),
    "recurrent_clones": lambda **kw: InfluenceEstimatorLoss(recurrent(), kind="clones", **kw),
    "qmix": value_decomposition,
    "vdn": lambda **kw: value_decomposition("vdn", recurrent=False, **kw),
    "iql": lambda **kw: value_decomposition(None, double_q=False, **kw),
    "influence_in_turns": alone,
    "influence_in_turns_next": lambda **kw: alone("clones", optimum_at="next", **kw),
    "influence_in_turns_td_target": lambda **kw: alone(optimum="td_target", **kw),
    "tsallis": tsallis,
    "trpo": trust_region,
}

# Of counts and statistics; hostile input is in test_bonuses.py.
BONUSES = {
    "visits": lambda: updated(VisitBonus(BinCode([-1.0] * O, [1.0] * O, 2))),
    "visits_of_the_team": lambda: updated(
        VisitBonus(JointCode(BinCode([-1.0] * O, [1.0] * O, 2), num_agents=N), slots=64)
    ),
    "scale": lambda: updated(BonusScale({("agents", "novelty"): 0.5}), (B, T)),
    "transition_influence": lambda: updated(TransitionInfluence(transition_counts())),
    "transition_influence_by_value": lambda: updated(
        TransitionInfluence(transition_counts(), value=("agents", "novelty"))
    ),
}

TRANSFORMS = {
    "novelty": lambda: NoveltyReward(_seeded_autoencoder()),
    "novelty_of_two": lambda: NoveltyReward(_seeded_autoencoder(2), influencer=(2, 0)),
    "diversity": lambda: DiversityPenalty(make_actor(ENV, num_cells=SMALL)),
    "novelty_unsquared": lambda: NoveltyReward(_seeded_autoencoder(), distance="euclidean"),
    "diversity_in_turns": lambda: DiversityPenalty(
        make_actor(TargetEnv(n_agents=1), num_cells=SMALL), in_turns=True
    ),
    "total": lambda: TotalReward({("agents", "novelty"): 0.5}),
    **BONUSES,
}


def transition_counts() -> TransitionCounts:
    def moved(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return (after[..., 0] > before[..., 0]).long()

    moved.num_codes = 2
    code = BinCode([-1.0] * O, [1.0] * O, 2)
    return TransitionCounts(code, moved, num_agents=N, num_actions=A)


def updated(bonus: Transform, batch_size: tuple[int, ...] = (B,)) -> Transform:
    bonus.update(random_batch(batch_size=batch_size))
    return bonus


def _seeded_autoencoder(num_influencers: int = 1) -> Autoencoder:
    torch.manual_seed(3)
    return Autoencoder(O + A, num_influencers=num_influencers)


def of_one_agent(batch: TensorDict) -> TensorDict:
    """The same transitions of the first agent alone."""
    return batch.apply(lambda value: value[..., :1, :] if value.ndim == batch.ndim + 2 else value)


def acted(**options) -> TensorDict:
    """Transitions with what a policy wrote, and advantages."""
    batch, other = random_batch(**options), random_batch(seed=1, **options)
    batch["agents", "loc"] = other["agents", "action"]
    novelty = other["next", "agents", "novelty"]
    batch["agents", "scale"] = 0.5 + novelty.expand(*novelty.shape[:-1], A)
    batch["agents", "advantage"] = other["next", "agents", "reward"]
    return batch


def one_hot_episodes() -> TensorDict:
    batch = random_batch(batch_size=(B, T))
    taken = batch["agents", "action"].argmax(-1)
    batch["agents", "action"] = torch.nn.functional.one_hot(taken, A).float()
    return batch


@pytest.mark.parametrize("promise", contract.LOSS_PROMISES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_keeps_its_promise(name, promise):
    if name in ("influence_score", "maddpg_all"):
        batch = one_hot_episodes()
    elif name.startswith("recurrent") or name in ("qmix", "vdn", "iql", *ROLLOUTS):
        # Few steps: a compiled graph has them all.
        batch = sequences(batch_size=(B, 3))
    else:
        batch = acted() if name == "trpo" else random_batch()
    promise(LOSSES[name], of_one_agent(batch) if "in_turns" in name else batch)


@pytest.mark.parametrize("promise", contract.TRANSFORM_PROMISES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_keeps_its_promise(name, promise):
    batch = random_batch()
    if "in_turns" in name:
        batch = of_one_agent(batch)
    if name.startswith("novelty"):
        batch = batch.exclude(("next", "agents", "novelty"))
    promise(TRANSFORMS[name], batch)


def test_every_public_loss_and_transform_is_under_contract():
    import torchrl_alita.objectives
    import torchrl_alita.transforms

    made = {type(make()).__name__ for make in (*LOSSES.values(), *TRANSFORMS.values())}
    public = set(torchrl_alita.objectives.__all__) | set(torchrl_alita.transforms.__all__)
    # An environment's alone: no batch says what came before its first step.
    assert public - {"LastAction", "recurrent_transforms"} == made


@pytest.mark.parametrize("options", [{"num_action_samples": 4}, {"gradient": "pathwise"}])
def test_the_influence_of_drawn_actions_compiles(options):
    """Random numbers differ between eager and compiled: the shape and the break count here."""
    torch._dynamo.reset()
    graph = torch.compile(scored(**options), fullgraph=True, backend="aot_eager")
    assert graph(one_hot_episodes())["gap"].shape == (N - 1,)


def test_the_sampled_optimum_with_uniform_actions_compiles():
    """Random numbers differ between eager and compiled: the shape and the break count here."""
    torch._dynamo.reset()
    loss = influence(num_optimum_samples=5, action_spec=SPEC)
    graph = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert graph(random_batch())["gap"].shape == (N - 1,)
