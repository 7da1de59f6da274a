"""Teams that follow a script, played as the studies' runs are evaluated.

    python benchmarks/scripted_teams.py

Battles of SMAX: each agent attacks the enemy of the lowest, or of the highest, index in reach,
and walks east while there is none. Cooperative navigation: the team stands still; agent i goes to
landmark i; the landmarks are shared out at the first step, by the least sum of distances; the same,
and teammates are pushed away below a distance of 0.33. An agent goes to its landmark with the force
of a damped spring, cut off where the action's range ends. The particle games' scripts are those of
scripted_particles.py. The figures are added to the studies'
files in results/ as rows of 0 frames, if they are not there.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import scripted_particles
import torch
from pages import RESULTS
from study import rows_of
from tensordict import TensorDictBase
from torch.nn.functional import one_hot

from torchrl_alita.envs import get_task, make_env
from torchrl_alita.experiments import Row, append_row, machine_fields
from torchrl_alita.layout import ACTION, OBSERVATION
from torchrl_alita.saving import machine
from torchrl_alita.training.evaluation import EVALUATION_SEED, evaluate

EAST, STOP, FIRST_ATTACK = 1, 4, 5
# Of the spring, of its damping, of what pushes teammates away, and where that begins.
SPRING, DAMPING, PUSH, TOO_NEAR = 10.0, 2.0, 2.0, 0.33
GOAL = ("agents", "goal")

Policy = Callable[[TensorDictBase], TensorDictBase]


def attack(tensordict: TensorDictBase, *, last: bool) -> TensorDictBase:
    """Attack the enemy of the lowest or highest index in reach, or walk east to meet them."""
    mask = tensordict["agents", "action_mask"]
    order = torch.arange(mask.shape[-1])
    preference = order if last else order.flip(0) + 1
    preference = preference.where(order >= FIRST_ATTACK, -2)
    # The dead can only stop.
    preference[EAST], preference[STOP] = 0, -1
    action = preference.masked_fill(~mask, -3).argmax(-1)
    return tensordict.set(ACTION, one_hot(action, len(order)).float())


def stand_still(tensordict: TensorDictBase) -> TensorDictBase:
    """No force."""
    return tensordict.set(ACTION, torch.zeros_like(tensordict[OBSERVATION][..., :2]))


def navigate(tensordict: TensorDictBase, *, shared_out: bool, push: float = 0.0) -> TensorDictBase:
    """Each agent to a landmark of its own, which it keeps: number i, or as they are shared out."""
    observation = tensordict[OBSERVATION]
    agents = observation.shape[-2]
    _, velocity, landmarks, others = observation.split([2, 2, 2 * agents, 2 * agents - 2], -1)
    landmarks, others = landmarks.unflatten(-1, (-1, 2)), others.unflatten(-1, (-1, 2))
    goal = tensordict.get(GOAL, None)
    if goal is None:
        goal = torch.arange(agents).expand(observation.shape[:-1])
        if shared_out:
            lengths, orders = landmarks.norm(dim=-1), torch.tensor([*permutations(range(agents))])
            sums = [lengths[..., range(agents), order].sum(-1) for order in orders]
            goal = orders[torch.stack(sums, -1).argmin(-1)]
    offset = landmarks.take_along_dim(goal[..., None, None], -2).squeeze(-2)
    distance = others.norm(dim=-1, keepdim=True)
    away = -(others / distance * (distance < TOO_NEAR)).sum(-2)
    force = (SPRING * offset - DAMPING * velocity).clamp(-1, 1) + push * away
    return tensordict.set(GOAL, goal).set(ACTION, force.clamp(-1, 1))


def follow(script: Callable[..., TensorDictBase], **options) -> Policy:
    """A policy as TorchRL knows one: a function of a tensordict alone."""

    def act(tensordict: TensorDictBase) -> TensorDictBase:
        return script(tensordict, **options)

    return act


BATTLES = {
    "a script: the first enemy in reach": follow(attack, last=False),
    "a script: the last enemy in reach": follow(attack, last=True),
}
NAVIGATION = {
    "a script: stand still": stand_still,
    "a script: agent i to landmark i": follow(navigate, shared_out=False),
    "a script: the best assignment": follow(navigate, shared_out=True),
    "a script: the same, steering around teammates": follow(navigate, shared_out=True, push=PUSH),
}
SHARED_OUT = {"a script: landmarks shared out": follow(scripted_particles.share_out)}
GOAL_KNOWN = {"a script that knows the goal": follow(scripted_particles.know_the_goal)}
DECEPTION = {
    f"a script that splits up against one that {name}": follow(
        scripted_particles.split, follow=name == "follows"
    )
    for name in ("picks", "follows")
}
# Study, task, episodes of an evaluation, scripts.
PLAYED = (
    ("smax", "smax/2s3z", 64, BATTLES),
    ("smax", "smax/5m_vs_6m", 64, BATTLES),
    ("smax_settings", "smax/2s3z", 64, BATTLES),
    ("navigation", "vmas/spread", 100, NAVIGATION),
    ("cooperative_navigation", "mpe/spread", 100, SHARED_OUT),
    ("cooperative_navigation", "mpe/spread_6", 100, SHARED_OUT),
    ("cooperative_communication", "mpe/speaker_listener", 100, GOAL_KNOWN),
    ("physical_deception", "mpe/adversary", 100, DECEPTION),
)


def played(study: str, task_name: str, episodes: int, variant: str, policy: Policy) -> Row:
    """A script's evaluation as a row."""
    task = get_task(task_name)
    env = make_env(task, num_envs=episodes)
    result, _ = evaluate(policy, env, task.metrics, horizon=task.horizon, seed=EVALUATION_SEED)
    return Row(
        study=study,
        variant=variant,
        task=task_name,
        algorithm="script",
        seed=0,
        frames=0,
        settings={},
        command="python benchmarks/scripted_teams.py",
        **machine_fields(machine()),
        wall_seconds=None,
        process_seconds=None,
        curve=[],
        final={f"evaluation/{name}": value for name, value in result.items()},
    )


def main() -> None:
    """Play what has no row."""
    for study, task, episodes, scripts in PLAYED:
        path = RESULTS / f"{study}.jsonl"
        there = {(row.task, row.variant) for row in rows_of(study)}
        for variant, policy in scripts.items():
            if (task, variant) not in there:
                append_row(path, played(study, task, episodes, variant, policy))


if __name__ == "__main__":
    main()
