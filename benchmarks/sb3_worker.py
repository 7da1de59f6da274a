"""One run of an outside check on a PyBullet robot: stable-baselines3, or TRPO of sb3-contrib.

    python benchmarks/sb3_worker.py --env HopperBulletEnv-v0 --algorithm td3 --run-dir DIR

It leaves summary.json and metrics.csv as recipes/robots.py does, and is evaluated by the
same code: greedy policies, episodes of the same seeds, at the same frames. It is trained by
its own library, on the environment as Gymnasium makes it, from the extra ``baselines``.

TD3 and SAC have their library's defaults but for what the recipe sets: networks of two hidden
layers of 256, random actions for 10,000 steps and, for TD3, noise of 0.1 on the actions. One
difference remains: they are updated after each step, the recipe's once for each step but in
rounds (its frames_per_batch). TRPO has its library's defaults.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from tensordict import TensorDictBase

from torchrl_alita.envs import make_env
from torchrl_alita.envs.pybullet import pybullet_metrics
from torchrl_alita.saving import machine
from torchrl_alita.training import evaluate
from torchrl_alita.training.evaluation import EVALUATION_SEED

_OFF_POLICY = {
    "learning_starts": 10_000,
    "batch_size": 256,
    "tau": 0.005,
    "gamma": 0.99,
    "train_freq": 1,
    "gradient_steps": 1,
    "policy_kwargs": {"net_arch": [256, 256]},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "td3": {
        **_OFF_POLICY,
        "learning_rate": 1e-3,
        "policy_delay": 2,
        "target_policy_noise": 0.2,
        "target_noise_clip": 0.5,
    },
    "sac": {**_OFF_POLICY, "learning_rate": 3e-4},
    "trpo": {},
}
# Standard deviation of TD3's noise, in units of the action.
ACTION_NOISE = 0.1


@dataclass
class Config:
    """A robot, an algorithm and a budget."""

    run_dir: Path
    """Directory that the run leaves; it must not exist."""
    env: str = "HopperBulletEnv-v0"
    """Id of one of PyBullet's environments."""
    algorithm: Literal["td3", "sac", "trpo"] = "td3"
    """Algorithm; trpo is that of sb3-contrib."""
    seed: int = 0
    """Of everything random."""
    total_frames: int = 1_000_000
    """Environment steps of the run."""
    horizon: int = 1_000
    """Steps of an evaluation's episode; PyBullet's own limits hold too."""
    evaluation_interval: int = 5_000
    """Environment steps between two evaluations."""
    evaluation_episodes: int = 15
    """Episodes of an evaluation, always from the same initial states."""
    threads: int = 1
    """Threads of torch."""


def make_model(config: Config) -> Any:
    """The model of the outside library, with its own environment."""
    import gymnasium
    import numpy as np
    import pybullet_envs_gymnasium  # noqa: F401 registers the environments
    from sb3_contrib import TRPO
    from stable_baselines3 import SAC, TD3
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.noise import NormalActionNoise

    env = Monitor(gymnasium.make(config.env))
    options = dict(OPTIONS[config.algorithm])
    if config.algorithm == "td3":
        size = env.action_space.shape[0]
        options["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, ACTION_NOISE))
    if config.algorithm != "trpo":
        options["buffer_size"] = min(1_000_000, config.total_frames)
    kind = {"td3": TD3, "sac": SAC, "trpo": TRPO}[config.algorithm]
    return kind("MlpPolicy", env, seed=config.seed, device="cpu", **options)


def greedy(model: Any) -> Callable[[TensorDictBase], TensorDictBase]:
    """Actions of a model without noise, in the layout of this package, ``[B, 1, A]``."""

    def act(tensordict: TensorDictBase) -> TensorDictBase:
        observation = tensordict["agents", "observation"].squeeze(-2).numpy()
        action, _ = model.predict(observation, deterministic=True)
        return tensordict.set(("agents", "action"), torch.as_tensor(action).unsqueeze(-2))

    return act


class Evaluations:
    """Evaluations at fixed frames, and their rows.

    Args:
        config: of the run.
    """

    def __init__(self, config: Config):
        self._config = config
        self._env = make_env(
            f"pybullet/{config.env}",
            num_envs=config.evaluation_episodes,
            n_agents=1,
            seed=EVALUATION_SEED,
            horizon=config.horizon,
        )
        self._started = time.perf_counter()
        self.rows: list[dict[str, float]] = []

    def __call__(self, model: Any) -> None:
        """Evaluate a model, where it is now."""
        result, _ = evaluate(
            greedy(model),
            self._env,
            pybullet_metrics,
            horizon=self._config.horizon,
            seed=EVALUATION_SEED,
            stop_when_done=True,
        )
        self.rows.append(
            {
                "frames": model.num_timesteps,
                "updates": model._n_updates,
                "wall_seconds": time.perf_counter() - self._started,
                **{f"evaluation/{name}": value for name, value in result.items()},
            }
        )

    def close(self) -> None:
        self._env.close()


def train(config: Config) -> dict[str, Any]:
    """Train, evaluate, and write summary.json and metrics.csv."""
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(config.threads)
    config.run_dir.mkdir(parents=True)
    model, evaluations = make_model(config), Evaluations(config)

    class EvaluateEvery(BaseCallback):
        """After a step of the environment, before the update that it pays for."""

        def _on_step(self) -> bool:
            if self.num_timesteps % config.evaluation_interval == 0:
                evaluations(self.model)
            return self.num_timesteps < config.total_frames

    evaluations(model)
    model.learn(config.total_frames, callback=EvaluateEvery())
    if evaluations.rows[-1]["frames"] < model.num_timesteps:
        evaluations(model)
    evaluations.close()
    model.get_env().close()
    return _write(config, evaluations.rows)


def _write(config: Config, rows: list[dict[str, float]]) -> dict[str, Any]:
    with (config.run_dir / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    last = rows[-1]
    summary = {
        "algorithm": config.algorithm,
        "library": _library(config.algorithm),
        "task": f"pybullet/{config.env}",
        "seed": config.seed,
        **{name: last[name] for name in ("frames", "updates", "wall_seconds")},
        "frames_per_second": last["frames"] / last["wall_seconds"],
        "evaluation": {
            name.removeprefix("evaluation/"): value
            for name, value in last.items()
            if name.startswith("evaluation/")
        },
        "machine": machine(),
    }
    (config.run_dir / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def _library(algorithm: str) -> str:
    from importlib.metadata import version

    name = "sb3-contrib" if algorithm == "trpo" else "stable-baselines3"
    return f"{name} {version(name)}"


if __name__ == "__main__":
    print(json.dumps(train(tyro.cli(Config))["evaluation"]))
