"""MAPPO on cooperative navigation: 0.9 of the normalized score in a minute of one core.

python recipes/mappo_spread.py --help
python recipes/mappo_spread.py --seed 1 --threads 1
python recipes/mappo_spread.py --mappo.no-goal-attention --mappo.num-cells 64 64
python recipes/mappo_spread.py --resume runs/NAME
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torchrl_alita.algorithms import MAPPO, MAPPOSettings
from torchrl_alita.training import TrainingConfig, parse_config, run_recipe


@dataclass
class Config(TrainingConfig):
    """Cooperative navigation: N agents cover N landmarks without touching each other."""

    algorithm: str = "mappo"
    """Name of the algorithm."""
    mappo: MAPPOSettings = field(default_factory=lambda: MAPPO.presets["spread"])
    """Settings of the algorithm."""
    num_envs: int = 512
    """Environments simulated together."""
    total_frames: int = 998_400
    """Environment steps of the whole run, counted over all environments."""
    frames_per_batch: int = 12_800
    """Environment steps of a rollout."""
    frames_per_update: int = 12_800
    """Environment steps for each update: a rollout."""
    random_frames: int = 0
    """Environment steps of uniform random actions at the start, without updates."""
    evaluation_interval: int = 100_000
    """Environment steps between two evaluations."""
    checkpoint_interval: int = 500_000
    """Environment steps between two checkpoints."""

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.mappo, Mapping):  # as config.json has it
            self.mappo = MAPPOSettings(**self.mappo)


def main(arguments: list[str] | None = None) -> dict:
    """Train from the command line."""
    config = parse_config(Config, arguments)
    return run_recipe(config, lambda env: MAPPO(env, config.mappo))


if __name__ == "__main__":
    main()
