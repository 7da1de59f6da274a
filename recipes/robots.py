"""TwinALITA and its baselines on PyBullet's robots, Sec. 4.2 and Appendix C of the paper.

python recipes/robots.py --task pybullet/HopperBulletEnv-v0
python recipes/robots.py td3 --task pybullet/HopperBulletEnv-v0 --seed 1
python recipes/robots.py twin_alita --preset published
python recipes/robots.py twin_alita --algorithm.influence-coeff 0     # No F
python recipes/robots.py --resume runs/NAME

Of TwinALITA's two agents the better one is evaluated, chosen on other episodes; both agents'
steps are frames. An update of TwinALITA is one of both its agents, made at every second frame:
each agent is updated once for every step of its own, as in the authors' code. With
--algorithm.frames-per-update 1 each has as many updates as TD3's in as many frames, at twice
the cost.
"""

from __future__ import annotations

from dataclasses import replace

from torchrl_alita.algorithms import (
    ACKTRSettings,
    DDPGSettings,
    PPOSettings,
    SACSettings,
    TACSettings,
    TD3Settings,
    TwinALITASettings,
)
from torchrl_alita.training import Config, TrainingSettings, launch

TASK = "pybullet/HopperBulletEnv-v0"
TRAINING = TrainingSettings(
    n_agents=1,
    # An update for each frame of each robot; the loop runs once for all of them.
    num_envs=10,
    # PyBullet's own limits hold too.
    horizon=1_000,
    total_frames=1_000_000,
    frames_per_batch=50,
    # The paper: 5,000 and 15.
    evaluation_interval=5_000,
    evaluation_episodes=15,
    stop_evaluations=True,
)
# TD3's numbers, for the same algorithm without its three additions.
DDPG_SETTINGS = DDPGSettings(
    num_cells=(256, 256),
    layer_norm=False,
    gamma=0.99,
    max_grad_norm=float("inf"),
    actor_lr=1e-3,
    critic_lr=1e-3,
    tau=0.005,
    batch_size=256,
    frames_per_update=1,
    random_frames=10_000,
    noise_start=0.1,
)
SETTINGS = {
    "twin_alita": TwinALITASettings(),
    "td3": TD3Settings(),
    "ddpg": DDPG_SETTINGS,
    "sac": SACSettings(),
    "ppo": PPOSettings(),
    "tac": TACSettings(),
    "acktr": ACKTRSettings(),
}
DEFAULTS = {
    name: Config(task=TASK, training=TRAINING, algorithm=settings)
    for name, settings in SETTINGS.items()
}
# Its paper has 2,048 steps for each update.
DEFAULTS["ppo"] = replace(DEFAULTS["ppo"], training=replace(TRAINING, frames_per_batch=2_000))
DEFAULTS["acktr"] = replace(DEFAULTS["acktr"], training=replace(TRAINING, frames_per_batch=2_500))


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    return launch(DEFAULTS, arguments)


if __name__ == "__main__":
    main()
