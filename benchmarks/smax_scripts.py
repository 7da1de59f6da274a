"""Two scripts in SMAX's battles, played as the studies' runs are evaluated.

    python benchmarks/smax_scripts.py

Each agent attacks the enemy of the lowest, or of the highest, index in reach, and walks east
while there is none. Their figures are added to results/smax.jsonl and results/smax_settings.jsonl
as rows of 0 frames, if they are not there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pages import RESULTS
from tensordict import TensorDictBase
from torch.nn.functional import one_hot

from torchrl_alita.envs import get_task, make_env
from torchrl_alita.experiments import Row, append_row, read_rows
from torchrl_alita.training import evaluate
from torchrl_alita.training.run import machine

STUDIES = {"smax": ("2s3z", "5m_vs_6m"), "smax_settings": ("2s3z",)}
# In an evaluation.
BATTLES = 64
# The training loop's.
EVALUATION_SEED = 1_000_003
# Whether the enemy with the highest index is attacked, or that with the lowest.
SCRIPTS = {"a script: the first enemy in reach": False, "a script: the last enemy in reach": True}
EAST, STOP, FIRST_ATTACK = 1, 4, 5


def scripted(last: bool) -> Callable[[TensorDictBase], TensorDictBase]:
    """Attack the enemy of the lowest or highest index in reach, or walk east to meet them."""

    def act(tensordict: TensorDictBase) -> TensorDictBase:
        mask = tensordict["agents", "action_mask"]
        order = torch.arange(mask.shape[-1])
        preference = order if last else order.flip(0) + 1
        preference = preference.where(order >= FIRST_ATTACK, -2)
        # The dead can only stop.
        preference[EAST], preference[STOP] = 0, -1
        action = preference.masked_fill(~mask, -3).argmax(-1)
        return tensordict.set(("agents", "action"), one_hot(action, len(order)).float())

    return act


def played(study: str, map_name: str, variant: str) -> Row:
    """A script's evaluation as a row."""
    task = get_task(f"smax/{map_name}")
    env = make_env(task, num_envs=BATTLES)
    policy = scripted(SCRIPTS[variant])
    result, _ = evaluate(policy, env, task.metrics, horizon=task.horizon, seed=EVALUATION_SEED)
    found = machine()
    return Row(
        study=study,
        variant=variant,
        task=f"smax/{map_name}",
        algorithm="script",
        seed=0,
        frames=0,
        settings={},
        command="python benchmarks/smax_scripts.py",
        commit=found.pop("commit"),
        versions={name: found.pop(name) for name in ("torch", "torchrl", "python")},
        machine=found,
        wall_seconds=None,
        process_seconds=None,
        curve=[],
        final={f"evaluation/{name}": value for name, value in result.items()},
    )


def main() -> None:
    """Play what has no row."""
    for study, maps in STUDIES.items():
        path = RESULTS / f"{study}.jsonl"
        there = {(row.task, row.variant) for row in read_rows(path)}
        for map_name in maps:
            for variant in SCRIPTS:
                if (f"smax/{map_name}", variant) not in there:
                    append_row(path, played(study, map_name, variant))


if __name__ == "__main__":
    main()
