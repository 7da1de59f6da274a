"""Secret Room: one agent holds a door open for the other, then the reverse.

python recipes/secret_room.py --help
python recipes/secret_room.py --run-dir runs/secret_room --seed 1
python recipes/secret_room.py --preset team_visits
python recipes/secret_room.py joint_dqn --run-dir runs/joint_secret_room
python recipes/secret_room.py maddpg --exploration independent
python recipes/secret_room.py --resume runs/NAME
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
from torchrl_alita.envs import SecretRoomSettings
from torchrl_alita.training import Config, TrainingSettings, launch

TRAINING = TrainingSettings(
    n_agents=2,
    num_envs=512,
    horizon=300,
    total_frames=2_000_000,
    frames_per_batch=512 * 20,
    exploration="team",
    # Here the agents must act differently.
    agreement=0.0,
    evaluation_interval=100_000,
    checkpoint_interval=1_000_000,
)
LEARNING = {
    "gamma": 0.97,
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "frames_per_update": 1_024,
    "random_frames": 50_000,
    "buffer_size": 500_000,
    "noise_start": 1.0,
    "noise_frames": 1_500_000,
}
DEFAULTS = {
    # ALITA-C, with the settings of push_box.py; docs/sparse.md says what it reaches.
    "on_policy_alita": Config(
        task="secret_room",
        # Bonuses are weighed against a reward of 1.
        task_settings=SecretRoomSettings(reward=1.0),
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
    # Off-policy: one network over the joint actions, paid for the team's seldom visited states.
    "joint_dqn": Config(
        task="secret_room",
        task_settings=SecretRoomSettings(reward=1.0),
        training=TrainingSettings(
            n_agents=2,
            num_envs=512,
            horizon=300,
            total_frames=5_017_600,
            frames_per_batch=512 * 10,
            exploration="team",
            spread=1.0,
            evaluation_interval=500_000,
            checkpoint_interval=5_017_600,
        ),
        algorithm=replace(JointDQN.presets["sparse"], team_visit_coeff=0.05),
    ),
    "alita": Config(
        task="secret_room",
        training=TRAINING,
        # The paper's novelty and omega for Secret Room.
        algorithm=ALITASettings(
            **LEARNING,
            novelty_coeff=0.1,
            diversity_coeff=0.01,
            omega=0.1,
            optimum="enumerated",
            recent_frames=50_000,
        ),
    ),
    "maddpg": Config(task="secret_room", training=TRAINING, algorithm=MADDPGSettings(**LEARNING)),
    "qmix": Config(
        task="secret_room", training=TRAINING, algorithm=QMIXSettings(frames_per_update=1_024)
    ),
}


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    return launch(DEFAULTS, arguments)


if __name__ == "__main__":
    main()
