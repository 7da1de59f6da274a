"""Push-Box: two agents find and move a box that neither moves alone.

python recipes/push_box.py --help
python recipes/push_box.py --run-dir runs/push_box --seed 1
python recipes/push_box.py --algorithm.transition-coeff 0 --algorithm.team-visit-coeff 1
python recipes/push_box.py joint_dqn --run-dir runs/joint_push_box
python recipes/push_box.py maddpg --exploration independent
python recipes/push_box.py --resume runs/NAME
"""

from __future__ import annotations

from dataclasses import replace

from torchrl_alita.algorithms import (
    ALITASettings,
    JointDQN,
    MADDPGSettings,
    OnPolicyALITASettings,
    QMIXSettings,
)
from torchrl_alita.envs import PushBoxSettings
from torchrl_alita.training import Config, TrainingSettings, launch

TRAINING = TrainingSettings(
    n_agents=2,
    num_envs=2_048,
    horizon=300,
    total_frames=30_000_000,
    frames_per_batch=2_048 * 10,
    exploration="team",
    spread=1.0,
    evaluation_interval=1_000_000,
    checkpoint_interval=10_000_000,
)
LEARNING = {
    "gamma": 0.97,
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "frames_per_update": 2_048,
    "random_frames": 100_000,
    "buffer_size": 500_000,
    "noise_start": 0.5,
    "noise_frames": 20_000_000,
}
DEFAULTS = {
    # An agent's own seldom visited states, and its influence on the others' transitions;
    # docs/sparse.md says what they reach.
    "on_policy_alita": Config(
        task="push_box",
        # Bonuses are weighed against a reward of 1.
        task_settings=PushBoxSettings(reward=1.0),
        training=TrainingSettings(
            n_agents=2,
            num_envs=1_024,
            horizon=300,
            total_frames=4_128_768,
            frames_per_batch=65_536,
            threads=2,
            evaluation_interval=1_000_000,
            checkpoint_interval=2_000_000,
        ),
        algorithm=OnPolicyALITASettings(),
    ),
    # Off-policy: one network over the joint actions.
    "joint_dqn": Config(
        task="push_box",
        task_settings=PushBoxSettings(reward=1.0),
        training=replace(
            TRAINING,
            num_envs=512,
            total_frames=6_553_600,
            frames_per_batch=512 * 10,
            evaluation_interval=500_000,
            checkpoint_interval=6_553_600,
        ),
        algorithm=JointDQN.presets["sparse"],
    ),
    "alita": Config(
        task="push_box",
        training=TRAINING,
        # The paper's coefficients for Push-Box; its reward of 1,000 is the same game.
        algorithm=ALITASettings(
            **LEARNING,
            influence_coeff=0.15,
            novelty_coeff=0.1,
            diversity_coeff=0.01,
            omega=0.1,
            optimum="enumerated",
            recent_frames=100_000,
        ),
    ),
    "maddpg": Config(task="push_box", training=TRAINING, algorithm=MADDPGSettings(**LEARNING)),
    "qmix": Config(
        task="push_box", training=TRAINING, algorithm=QMIXSettings(frames_per_update=2_048)
    ),
}


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    return launch(DEFAULTS, arguments)


if __name__ == "__main__":
    main()
