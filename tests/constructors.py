"""Every loss and transform in its common forms, with small networks that are always the same."""

from __future__ import annotations

import torch
from fakes import A, B, H, N, O, S, T, TargetEnv, Z, fixed_draws_actor, random_batch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import Transform
from torchrl.modules import MultiAgentMLP, QMixer, VDNMixer
from torchrl.objectives import DDPGLoss, SoftUpdate, TD3Loss, ValueEstimators

from torchrl_alita import (
    AtPolicy,
    Autoencoder,
    BestOf,
    DiversityPenalty,
    Enumerated,
    InfluenceEstimatorLoss,
    InfluenceLoss,
    InfluenceScoreLoss,
    MADDPGLoss,
    Marginal,
    NoveltyLoss,
    NoveltyReward,
    OwnGradient,
    TDTarget,
    Team,
    TotalReward,
    Trained,
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
    InfluenceAttention,
    ModelOfOthers,
    TransitionModel,
    make_counterfactual_critic,
    make_discriminator,
    make_gaussian_actor,
    make_influence_attention,
    make_latent_mixer,
    make_latent_qnetwork,
    make_mixing_critic,
    make_team_value,
    make_value,
)
from torchrl_alita.objectives import (
    COMALoss,
    InfluenceAttentionLoss,
    IntrinsicRewardLoss,
    LICALoss,
    LIIRLoss,
    MAVENLoss,
    ModelOfOthersLoss,
    TransitionModelLoss,
)
from torchrl_alita.transforms import (
    BonusScale,
    RNDBonus,
    SocialInfluence,
    TransitionInfluence,
    VisitBonus,
)

ENV = TargetEnv()
GAMMA = 0.9
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


def estimator(kind: str, team: Team | int = 0, **kwargs) -> InfluenceEstimatorLoss:
    partner = maddpg()
    network = make_influence_network(ENV, num_cells=SMALL) if kind == "centralized" else None
    return InfluenceEstimatorLoss(partner, team, kind=kind, estimator_network=network, **kwargs)


def influence(
    kind: str = "marginal", num_critics: int = 1, team: Team | int = 0, **kwargs
) -> InfluenceLoss:
    if kind == "marginal":
        partner = maddpg(num_critics)
        return InfluenceLoss(partner.actor_network, partner, team, **kwargs)
    trained = estimator(kind, team)
    partner = trained.partner
    return InfluenceLoss(partner.actor_network, partner, team, value=Trained(trained), **kwargs)


def one_hot_partner() -> MADDPGLoss:
    torch.manual_seed(3)
    partner = MADDPGLoss(
        make_actor(DISCRETE, num_cells=SMALL), make_critic(DISCRETE, num_cells=SMALL)
    )
    SoftUpdate(partner, tau=0.5)
    return partner


def attention_network() -> InfluenceAttention:
    torch.manual_seed(4)
    network = make_influence_attention(ENV, hidden_size=H)
    # As if something were learned.
    torch.nn.init.normal_(network.attention.query.weight)
    return network


def attention(**kwargs) -> InfluenceAttentionLoss:
    return InfluenceAttentionLoss(attention_network(), maddpg(), (2, 0), **kwargs)


def scored(
    samples: int | str = "all", partner: MADDPGLoss | None = None, **kwargs
) -> InfluenceScoreLoss:
    """One-hot actions, Theorem 1; with all of the others' actions nothing is drawn."""
    partner = one_hot_partner() if partner is None else partner
    options = {"value": Marginal(samples), "optimum": Enumerated(), **kwargs}
    return InfluenceScoreLoss(partner.actor_network, partner, **options)


def pathwise(samples: int | str = "all", **kwargs) -> InfluenceLoss:
    """One-hot actions, the gradient of a draw."""
    partner = one_hot_partner()
    options = {"value": Marginal(samples), "optimum": Enumerated(), **kwargs}
    return InfluenceLoss(partner.actor_network, partner, **options)


def alone(kind: str = "marginal", **kwargs) -> InfluenceLoss:
    """Agents in turns, with a partner of its own."""
    torch.manual_seed(3)
    one, team = TargetEnv(n_agents=1), Team.in_turns()
    partner = MADDPGLoss(make_actor(one, num_cells=SMALL), make_critic(one, num_cells=SMALL))
    SoftUpdate(partner, tau=0.5)
    value = Marginal() if kind == "marginal" else Trained(InfluenceEstimatorLoss(partner, team))
    return InfluenceLoss(make_actor(one, num_cells=SMALL), partner, team, value=value, **kwargs)


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


def intrinsic(**kwargs) -> IntrinsicRewardLoss:
    torch.manual_seed(3)
    key = ("agents", "intrinsic_reward")
    return IntrinsicRewardLoss(make_counterfactual_critic(STATE, out_key=key), **kwargs)


def liir(**kwargs) -> LIIRLoss:
    torch.manual_seed(3)
    values = make_team_value(STATE), make_team_value(STATE, value_input="state")
    actor = make_recurrent_actor(STATE, hidden_size=H)
    loss = LIIRLoss(actor, *values, intrinsic(), intrinsic_coeff=0.5, entropy_coeff=0.1, **kwargs)
    SoftUpdate(loss, tau=0.5)
    return loss


def maven(recurrent: bool = True, **kwargs) -> MAVENLoss:
    torch.manual_seed(3)
    loss = MAVENLoss(
        make_latent_qnetwork(STATE, num_latents=Z, hidden_size=H),
        make_latent_mixer(STATE, num_latents=Z),
        make_discriminator(STATE, num_latents=Z, hidden_size=5, recurrent=recurrent),
        mutual_information_coeff=0.5,
        **kwargs,
    )
    SoftUpdate(loss, tau=0.5)
    return loss


# Losses of rollouts [B, T] of one-hot actions.
ROLLOUTS = {
    "liir": liir,
    "liir_intrinsic": intrinsic,
    "maven": maven,
    "maven_of_steps": lambda **kw: maven(recurrent=False, **kw),
    "coma": lambda **kw: coma(normalize_advantage=True, entropy_coeff=0.1, **kw),
    "coma_without_memory": lambda **kw: coma(recurrent=False, **kw),
    "lica": lica,
    "model_of_others": lambda **kw: ModelOfOthersLoss(model_of_others(), **kw),
}
LOSSES = {
    **ROLLOUTS,
    "maddpg": maddpg,
    "matd3": lambda **kw: maddpg(num_critics=2, others_actions="policy", **kw),
    "maddpg_all": maddpg_all,
    "novelty": novelty,
    "transition_model": lambda **kw: TransitionModelLoss(transition_model(), **kw),
    "clones": lambda **kw: estimator("clones", **kw),
    "centralized": lambda **kw: estimator("centralized", **kw),
    "influence_marginal": influence,
    "influence_twin_critics": lambda **kw: influence(num_critics=2, **kw),
    "influence_clones_next": lambda **kw: influence("clones", optimum=BestOf(at="next"), **kw),
    "influence_centralized_policy": lambda **kw: influence("centralized", optimum=AtPolicy(), **kw),
    "influence_score": scored,
    "influence_in_its_unit": lambda **kw: influence(unit=OwnGradient(decay=0.0), **kw),
    "influence_attention": attention,
    "influence_of_several": lambda **kw: influence(
        team=Team(N, influencers=(2, 0), weights=attention_network()), **kw
    ),
    "recurrent_maddpg": recurrent,
    "recurrent_maddpg_lambda": lambda **kw: recurrent(**{"lmbda": 0.6, **kw}),
    "recurrent_influence": lambda **kw: InfluenceLoss(
        (partner := recurrent()).actor_network, partner, optimum=BestOf(at="next"), **kw
    ),
    "recurrent_influence_score": lambda **kw: scored(partner=recurrent(), **kw),
    "recurrent_clones": lambda **kw: InfluenceEstimatorLoss(recurrent(), kind="clones", **kw),
    "qmix": value_decomposition,
    "vdn": lambda **kw: value_decomposition("vdn", recurrent=False, **kw),
    "iql": lambda **kw: value_decomposition(None, double_q=False, **kw),
    "qmix_lambda": lambda **kw: value_decomposition(**{"lmbda": 0.6, **kw}),
    "influence_in_turns": alone,
    "influence_in_turns_next": lambda **kw: alone("clones", optimum=BestOf(at="next"), **kw),
    "influence_in_turns_td_target": lambda **kw: alone(optimum=TDTarget(), **kw),
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
    "transition_influence_learned": lambda: TransitionInfluence(transition_model()),
    "rnd": lambda: RNDBonus(*(random_network(seed) for seed in (3, 4))),
    "rnd_of_the_team": lambda: updated(
        RNDBonus(*(random_network(seed, team=True) for seed in (3, 4)), num_features=O)
    ),
    "social_influence": lambda: SocialInfluence(model_of_others(), logits=("agents", "action")),
    "transition_influence_by_value": lambda: updated(
        TransitionInfluence(transition_counts(), value=("agents", "novelty"))
    ),
}

TRANSFORMS = {
    **BONUSES,
    "novelty": lambda: NoveltyReward(_seeded_autoencoder()),
    "novelty_of_two": lambda: NoveltyReward(_seeded_autoencoder(2), Team(N, influencers=(2, 0))),
    "diversity": lambda: DiversityPenalty(make_actor(ENV, num_cells=SMALL)),
    "novelty_unsquared": lambda: NoveltyReward(_seeded_autoencoder(), distance="euclidean"),
    "diversity_in_turns": lambda: DiversityPenalty(
        make_actor(TargetEnv(n_agents=1), num_cells=SMALL), Team.in_turns()
    ),
    "total": lambda: TotalReward({("agents", "novelty"): 0.5}),
}


def random_network(seed: int, *, team: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    first = (nn.Flatten(-2), nn.Linear(N * O, 7)) if team else (nn.Linear(O, 7),)
    return nn.Sequential(*first, nn.ReLU(), nn.Linear(7, 4))


def model_of_others() -> ModelOfOthers:
    torch.manual_seed(3)
    return ModelOfOthers(N, observation_size=O, num_actions=A, num_cells=SMALL)


def transition_model() -> TransitionModel:
    """Its weights hardly vary, so that two draws of them say the same."""
    torch.manual_seed(3)
    model = TransitionModel(N, observation_size=O, action_size=A, num_cells=SMALL)
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.fill_(-20.0) if name.endswith("rho") else param.uniform_(-0.3, 0.3)
    return model


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


def partner(actor=None, critic=None, **kwargs) -> MADDPGLoss:
    torch.manual_seed(5)
    actor = make_actor(ENV, num_cells=(11,)) if actor is None else actor
    critic = make_critic(ENV, num_cells=(11,)) if critic is None else critic
    loss = MADDPGLoss(actor, critic, gamma=GAMMA, **kwargs)
    SoftUpdate(loss, tau=0.5)
    return loss


def touched(params) -> set[str]:
    """Names of the parameters with a gradient other than zero."""
    return {
        ".".join(key)
        for key, value in params.items(True, True)
        if value.requires_grad and value.grad is not None and value.grad.abs().sum() > 0
    }


def weights_of(loss: MADDPGLoss, name: str) -> set[str]:
    params = getattr(loss, f"{name}_params")
    return {".".join(key) for key, value in params.items(True, True) if value.requires_grad}


def stock_partner(name: str, dropout: float | None = None):
    """DDPGLoss or TD3Loss of TorchRL in the layout of this package."""
    torch.manual_seed(7)
    actor = make_actor(ENV, num_cells=(11,))
    net = MultiAgentMLP(
        O + A,
        1,
        N,
        centralized=True,
        share_params=False,
        depth=1,
        num_cells=11,
        dropout=dropout,
    )
    critic = TensorDictModule(
        net,
        in_keys=[("agents", "observation"), ("agents", "action")],
        out_keys=[("agents", "state_action_value")],
    )
    keys = {
        "state_action_value": ("agents", "state_action_value"),
        "reward": ("agents", "reward"),
        "done": ("agents", "done"),
        "terminated": ("agents", "terminated"),
    }
    if name == "ddpg":
        loss = DDPGLoss(actor, critic, delay_actor=True)
    else:
        spec = ENV.full_action_spec_unbatched["agents", "action"]
        loss = TD3Loss(actor, critic, action_spec=spec, delay_actor=True)
        keys["action"] = ("agents", "action")
    loss.set_keys(**keys)
    loss.make_value_estimator(ValueEstimators.TD0, gamma=GAMMA)
    SoftUpdate(loss, tau=0.5)
    return loss
