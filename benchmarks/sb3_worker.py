"""One run of an outside check on a PyBullet robot: stable-baselines3, or TRPO of sb3-contrib.

    python benchmarks/sb3_worker.py td3 --task pybullet/HopperBulletEnv-v0 --run-dir DIR

It takes the options of recipes/robots.py, as far as they mean something here, leaves summary.json
and metrics.csv as it does, and is evaluated by the same code: greedy policies, episodes of the same
seeds, at the same frames. It is trained by its own library, on the environment as Gymnasium makes
it, from the extra ``baselines``.

TD3 and SAC have the settings of ours, from the same options. One difference remains: they are
updated after each step, the recipe's once for each step but in rounds (its frames_per_batch). TRPO
has its library's defaults.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase

from torchrl_alita.algorithms import TRPOSettings
from torchrl_alita.saving import machine
from torchrl_alita.training import Config, parse_arguments
from torchrl_alita.training.evaluation import Evaluation
from torchrl_alita.training.logging import MetricsFile

RECIPE = runpy.run_path(str(Path(__file__).parents[1] / "recipes" / "robots.py"))
DEFAULTS: dict[str, Config] = {name: RECIPE["DEFAULTS"][name] for name in ("td3", "sac")}
DEFAULTS["trpo"] = replace(DEFAULTS["td3"], algorithm=TRPOSettings())


def options_of(config: Config, num_actions: int) -> dict[str, Any]:
    """Our settings by the library's names."""
    import numpy as np
    from stable_baselines3.common.noise import NormalActionNoise

    settings = config.algorithm
    if config.algorithm_name == "trpo":
        return {}
    options = {
        **{name: getattr(settings, name) for name in ("batch_size", "tau", "gamma")},
        "learning_starts": settings.random_frames,
        "train_freq": settings.frames_per_update,
        "gradient_steps": 1,
        "buffer_size": min(settings.buffer_size, config.training.total_frames),
        "policy_kwargs": {"net_arch": list(settings.num_cells)},
    }
    if config.algorithm_name == "sac":
        return {**options, "learning_rate": settings.lr}
    noise = np.full(num_actions, settings.noise_start)
    return {
        **options,
        "learning_rate": settings.critic_lr,
        "policy_delay": settings.policy_delay,
        "target_policy_noise": settings.policy_noise,
        "target_noise_clip": settings.noise_clip,
        "action_noise": NormalActionNoise(np.zeros(num_actions), noise),
    }


def make_model(config: Config) -> Any:
    """The model of the outside library, with its own environment."""
    import gymnasium
    import pybullet_envs_gymnasium  # noqa: F401 registers the environments
    from sb3_contrib import TRPO
    from stable_baselines3 import SAC, TD3
    from stable_baselines3.common.monitor import Monitor

    env = Monitor(gymnasium.make(config.task.removeprefix("pybullet/")))
    kind = {"td3": TD3, "sac": SAC, "trpo": TRPO}[config.algorithm_name]
    options = options_of(config, env.action_space.shape[0])
    return kind("MlpPolicy", env, seed=config.training.seed, device="cpu", **options)


def greedy(model: Any) -> Callable[[TensorDictBase], TensorDictBase]:
    """Actions of a model without noise, in the layout of this package, ``[B, 1, A]``."""

    def act(tensordict: TensorDictBase) -> TensorDictBase:
        observation = tensordict["agents", "observation"].squeeze(-2).numpy()
        action, _ = model.predict(observation, deterministic=True)
        return tensordict.set(("agents", "action"), torch.as_tensor(action).unsqueeze(-2))

    return act


def train(config: Config) -> dict[str, Any]:
    """Train, evaluate, and write summary.json and metrics.csv."""
    from stable_baselines3.common.callbacks import BaseCallback

    training, name = config.training, config.algorithm_name
    torch.set_num_threads(training.threads or 1)
    folder = Path(training.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    options = {"n_agents": 1, "device": "cpu", "horizon": training.horizon}
    evaluation = Evaluation(config.find_task(), training, options)
    model, metrics = make_model(config), MetricsFile(folder / "metrics.csv")
    started, last = time.perf_counter(), {}

    def evaluate() -> None:
        result, _ = evaluation.evaluate(greedy(model))
        seconds = time.perf_counter() - started
        now = {"frames": model.num_timesteps, "updates": model._n_updates, "wall_seconds": seconds}
        metrics.write(now | {f"evaluation/{key}": value for key, value in result.items()})
        last.update(now, evaluation=result)

    class EvaluateEvery(BaseCallback):
        """After a step of the environment, before the update that it pays for."""

        def _on_step(self) -> bool:
            if self.num_timesteps % training.evaluation_interval == 0:
                evaluate()
            return self.num_timesteps < training.total_frames

    evaluate()
    model.learn(training.total_frames, callback=EvaluateEvery())
    if last["frames"] < model.num_timesteps:
        evaluate()
    library = "sb3-contrib" if name == "trpo" else "stable-baselines3"
    summary = {
        "algorithm": name,
        "library": f"{library} {version(library)}",
        "task": config.task,
        "seed": training.seed,
        **last,
        "random_team": evaluation.evaluate(None)[0],
        "machine": machine(),
    }
    evaluation.close()
    model.get_env().close()
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Train from the command line."""
    config = parse_arguments(arguments, DEFAULTS)
    if config.training.resume is not None:
        raise SystemExit("A run of an outside library cannot be resumed.")
    return train(config)


if __name__ == "__main__":
    main(sys.argv[1:])
