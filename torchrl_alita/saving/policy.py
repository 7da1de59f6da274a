"""The policies of an earlier run, alone."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import nn
from torchrl.envs import EnvBase

from torchrl_alita.algorithms import (
    AlgorithmSettings,
    Learner,
    MAVENSettings,
    SidesSettings,
    algorithm_of,
    get_algorithm,
    settings_from_plain,
)
from torchrl_alita.modules import AllAgents, make_latent_policy
from torchrl_alita.modules.latent import give_latent_policy
from torchrl_alita.saving.checkpoint import find_checkpoint, read_component
from torchrl_alita.saving.run_directory import read_config

__all__ = ["build_learner", "init_policy", "load_policy", "load_side"]

# Of agents that take turns, each is saved under this and its index.
_IN_TURNS = "policies."
# Before the names of the parameters of a policy in TorchRL's losses.
_IN_LOSS = "actor_network_params."
# Settings that say how fast an update is, and nothing of the policies.
_OF_SPEED = ("compile", "compile_mode", "cuda_graph", "mixed_precision")
_CHOSEN = "selection/chosen"


def load_policy(
    path: str | Path, env: EnvBase, *, device: torch.device | str | None = None
) -> nn.Module:
    """The trained policies of a run, all N in one module, and nothing else of it.

    The file is read as tensors and numbers; nothing that it holds is executed.

    Args:
        path: of a run, of which the newest checkpoint counts, or of a checkpoint in it.
        env: an environment with as many agents and the same spaces.
        device: of the parameters. Default: the environment's.

    Returns:
        The module that :func:`torchrl_alita.modules.make_actor` makes, or
        :func:`torchrl_alita.modules.make_gaussian_actor`,
        :func:`torchrl_alita.modules.make_recurrent_actor`,
        :func:`torchrl_alita.modules.make_qnetwork` or
        :func:`torchrl_alita.modules.make_latent_qnetwork`, as the run's config says. One with a
        memory needs an environment with what
        :func:`torchrl_alita.transforms.recurrent_transforms` gives for it,
        ``env.append_transform(recurrent_transforms(policy))``; of MAVEN's this draws the latent
        variable too, as in the run. Of the two agents of
        :class:`torchrl_alita.TwinALITA` it is the one that the run's last evaluation up to
        the checkpoint found better.

    Raises:
        ValueError: if there is no checkpoint, it is damaged or refused, the run's config
            is of an algorithm that is not registered, no evaluation chose one of its agents, or
            the policies do not fit the environment.

    Examples:
        >>> import tempfile
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.training import make_config, train
        >>> config = make_config(
        ...     "maddpg", "vmas/spread",
        ...     {"num_envs": 5, "horizon": 4, "total_frames": 40, "frames_per_batch": 20,
        ...      "evaluation_episodes": 2, "progress": False, "run_dir": tempfile.mkdtemp(),
        ...      "algorithm.frames_per_update": 20, "algorithm.random_frames": 20},
        ... )
        >>> summary = train(config)
        >>> env = make_env("vmas/spread", num_envs=2, n_agents=3, seed=0)
        >>> policy = load_policy(summary["run_dir"], env)
        >>> env.rollout(3, policy)["agents", "action"].shape
        torch.Size([2, 3, 3, 2])
    """
    checkpoint = find_checkpoint(path)
    settings = _settings_of(checkpoint)
    algorithm = get_algorithm(algorithm_of(settings))
    fixed = _policies_of_runs(env, settings, device)
    policy = algorithm.make_policy(env, settings, device=device, **fixed)
    _load(policy, _chosen(_saved(checkpoint), checkpoint), checkpoint)
    if isinstance(settings, MAVENSettings) and settings.latent_policy == "hierarchical":
        latent_policy = make_latent_policy(env, num_latents=settings.num_latents, device=device)
        learner = read_component(checkpoint, "algorithm", device="cpu")
        saved = learner["modules"]["latent_policy"].items()
        own = {k.removeprefix(_IN_LOSS): v for k, v in saved if k.startswith(_IN_LOSS)}
        _load(latent_policy, own, checkpoint)
        give_latent_policy(policy, latent_policy)
    return policy


def load_side(
    path: str | Path,
    side: str,
    env: EnvBase,
    *,
    device: torch.device | str | None = None,
) -> nn.Module:
    """The policies that one side of a game has in a run.

    Args:
        path: of a run, or of a checkpoint in it. It is one of
            :class:`torchrl_alita.algorithms.Sides` with a side of this name, or one of all
            agents by one algorithm.
        side: name of the side.
        env: the whole game.
        device: of the parameters. Default: the environment's.

    Returns:
        The side's policies; of a run of all agents these, in an
        :class:`torchrl_alita.modules.AllAgents`.

    Raises:
        ValueError: as in :func:`load_policy`, or if the run has no side of this name.

    Examples:
        >>> load_side("no/such/run", "good", None)
        Traceback (most recent call last):
        ...
        ValueError: no/such/run is neither a checkpoint nor a run that has one.
    """
    checkpoint = find_checkpoint(path)
    settings = _settings_of(checkpoint)
    if not isinstance(settings, SidesSettings):
        return AllAgents(load_policy(checkpoint, env, device=device))
    known = dict(settings.sides)
    if side not in known:
        raise ValueError(f"{path} has the sides {sorted(known)}, not {side!r}.")
    policy = load_policy(checkpoint, env, device=device)
    return policy.of_side[side]


def build_learner(env: EnvBase, settings: AlgorithmSettings) -> Learner:
    """The algorithm of settings, with what it needs of earlier runs.

    Args:
        env: an environment in the layout of this package.
        settings: of a registered algorithm.

    Raises:
        ValueError: if the settings do not fit the environment, or a run that they name cannot be
            read.

    Examples:
        >>> from torchrl_alita.algorithms import MADDPGSettings, SidesSettings
        >>> from torchrl_alita.envs import make_env
        >>> sides = {"good": MADDPGSettings(), "adversary": "no/such/run"}
        >>> build_learner(make_env("mpe/adversary"), SidesSettings(sides=sides))
        Traceback (most recent call last):
        ...
        ValueError: 'no/such/run' is neither an algorithm, 'random', nor 'module:function' or a
        run's directory.
    """
    fixed = _policies_of_runs(env, settings, None)
    return get_algorithm(algorithm_of(settings))(env, settings, **fixed)


def _policies_of_runs(
    env: EnvBase, settings: AlgorithmSettings, device: torch.device | str | None
) -> dict[str, dict[str, nn.Module]]:
    """What an algorithm is given beside its settings: policies of the runs that these name."""
    if not isinstance(settings, SidesSettings):
        return {}
    policies = {
        name: load_side(follows, name, env, device=device)
        for name, follows in settings.fixed.items()
        if Path(follows).is_dir()
    }
    return {"policies": policies}


def init_policy(algorithm: Learner, path: str | Path) -> None:
    """Let an algorithm start from the policies of an earlier run, for fine-tuning.

    The policies and their targets are taken over. Critics, optimizers and all else stay
    new: they belong to the reward of the earlier run.

    Args:
        algorithm: that has made no update.
        path: as in :func:`load_policy`.

    Raises:
        ValueError: if the algorithm has made updates, if its policies have other sizes, with the
            settings that differ, or as in :func:`load_policy`.
    """
    if algorithm.updates:
        raise ValueError(f"The algorithm must be new, it has made {algorithm.updates} updates.")
    checkpoint = find_checkpoint(path)
    saved = _saved(checkpoint)
    try:
        _load(algorithm.actor, saved, checkpoint)
    except ValueError as error:
        saved_settings = _settings_of(checkpoint)
        kinds = [type(own).__name__ for own in (saved_settings, algorithm.settings)]
        there, here = vars(saved_settings), vars(algorithm.settings)
        differ = [f"their class ({kinds[0]} there, {kinds[1]} here)"] if len(set(kinds)) > 1 else []
        differ += [
            f"{name} ({there[name]} there, {here[name]} here)"
            for name in here
            if name in there
            and there[name] != here[name]
            and not (_is_amount(here[name]) or name in _OF_SPEED)
        ]
        if not differ:
            raise
        raise ValueError(f"{error} Settings that differ: {', '.join(differ)}.") from error
    for params, targets in algorithm.policy_params():
        targets.data.update_(params.data)


def _is_amount(value: object) -> bool:
    """Rates, weights and counts shape no policy; its sizes are said anyway."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _settings_of(checkpoint: Path) -> AlgorithmSettings:
    config = read_config(checkpoint.parent.parent)
    return settings_from_plain(config.get("algorithm", {}))


def _saved(checkpoint: Path) -> dict[str, torch.Tensor]:
    return read_component(checkpoint, "policy", device="cpu")


def _chosen(state: dict[str, torch.Tensor], checkpoint: Path) -> dict[str, torch.Tensor]:
    """Of agents that take turns, the one that the last evaluation found better."""
    if not all(name.startswith(_IN_TURNS) for name in state):
        return state
    frames = read_component(checkpoint, "progress")["frames"]
    metrics = checkpoint.parent.parent / "metrics.csv"
    lines = metrics.read_text().splitlines() if metrics.exists() else ()
    chosen = [
        float(row[_CHOSEN])
        for row in csv.DictReader(lines)
        if row.get(_CHOSEN) and int(row["frames"]) <= frames
    ]
    if not chosen:
        raise ValueError(
            f"No evaluation up to {checkpoint} chose one of its agents: read_component gives all."
        )
    prefix = f"{_IN_TURNS}{int(chosen[-1])}."
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _load(policy: nn.Module, state: dict[str, torch.Tensor], checkpoint: Path) -> None:
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    try:
        policy.load_state_dict(state)
    except RuntimeError as error:
        # What fits was taken over before the rest was refused.
        policy.load_state_dict(before)
        task = read_config(checkpoint.parent.parent).get("task", {}).get("name")
        raise ValueError(
            f"The policies of {checkpoint}, of the task {task}, do not fit: "
            f"{_first_difference(state, before)}."
        ) from error


def _first_difference(there: dict[str, torch.Tensor], here: dict[str, torch.Tensor]) -> str:
    """Which parameter is not the same, and how."""
    for name in dict.fromkeys([*here, *there]):
        sizes = [
            "missing"
            if name not in state
            else " x ".join(map(str, state[name].shape)) or "a number"
            for state in (there, here)
        ]
        if sizes[0] != sizes[1]:
            return f"{name} is {sizes[0]} there, {sizes[1]} here"
    return "they are of another kind"
