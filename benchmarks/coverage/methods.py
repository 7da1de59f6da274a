"""The rows of the table: bonuses, and how the policies follow them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Method:
    """A row: who is paid for what, and how the policies follow."""

    title: str
    source: Literal["none", "count", "autoencoder", "rnd"] = "autoencoder"
    """What measures novelty; count is (1 + visits)**-0.5."""
    scope: Literal["own", "influencer", "joint"] = "joint"
    """Whose action it sees: each agent's own, agent 0's alone, or all agents'."""
    penalty: float | None = None
    """Factor of Eq. 11 for the agents but 0; -1 reverses it, None pays them novelty."""
    visited_only: bool = False
    """What was never visited is worth 0, as to a critic that starts at 0."""
    rate: float = 3.0
    """Of the policy gradient."""
    temperature: float = 0.1
    """Weight of the policies' entropy; rate * temperature is below 1."""
    in_turns: bool = False
    """Each agent follows the policies that the agents before it have just taken."""
    updates: int = 8
    """Of the networks at each step."""
    networks: bool = False
    """Learn by ``ALITA.update``."""
    max_agents: int = 5
    """Of the teams that the row is run for: ``ALITA.update`` cannot be stacked."""


SHARP = {"rate": 30.0, "temperature": 0.02}
TURNS = {**SHARP, "in_turns": True}
EQ_11 = {"scope": "influencer", "penalty": 1.0}
LEARNED = {"networks": True, "updates": 1, "max_agents": 3}
METHODS = {
    "random": Method("uniform random", "none"),
    "independent": Method("independent novelty", scope="own"),
    "rnd": Method("RND, joint action", "rnd"),
    "alita": Method("ALITA: novelty, diversity", **EQ_11),
    "alita_no_penalty": Method("novelty of agent 0 alone", scope="influencer", penalty=0.0),
    "alita_reversed": Method("ALITA, penalty reversed", scope="influencer", penalty=-1.0),
    "alita_turns": Method("ALITA, in turns", **EQ_11, **TURNS),
    "alita_joint": Method("ALITA, joint psi", penalty=1.0),
    "alita_joint_reversed": Method("ALITA, joint psi, penalty reversed", penalty=-1.0),
    "joint": Method("joint novelty"),
    "joint_one_update": Method("joint novelty, 1 update a step", updates=1),
    "joint_turns": Method("joint novelty, in turns", **TURNS),
    "rnd_turns": Method("RND, joint action, in turns", "rnd", **TURNS),
    "count": Method("joint count", "count"),
    "count_visited_only": Method("joint count, unvisited worth 0", "count", visited_only=True),
    "count_sharp": Method("joint count, sharp", "count", **SHARP),
    "count_turns": Method("joint count, in turns", "count", **TURNS),
    "independent_count": Method("independent count", "count", scope="own"),
    "alita_count": Method("ALITA, count", "count", **EQ_11),
    "alita_joint_count": Method("ALITA, joint count", "count", penalty=1.0),
    "nothing_networks": Method("no bonus, networks", "none", networks=True, max_agents=3),
    "alita_networks": Method("ALITA, networks", **EQ_11, **LEARNED),
    "independent_networks": Method("independent novelty, networks", scope="own", **LEARNED),
}


@dataclass(frozen=True)
class Settings:
    """What all rows are run with."""

    repetitions: int = 20
    """Of each learner."""
    random_repetitions: int = 1000
    """Of random play."""
    omega: float = 5.0
    """Of Eq. 11; psi lies between 0 and about 1 here."""
    networks_repetitions: int = 10
    """Of ``ALITA.update``."""
    lr: float = 3e-3
    """Adam's learning rate of the autoencoders and of RND."""
    num_cells: tuple[int, ...] = (64, 8, 64)
    """Of the stacked learner's autoencoder; ``ALITA.update`` has the paper's."""
    actor_lr: float = 3e-4
    """Adam's learning rate of the actors, of the rows "networks"."""
    batch_size: int = 32
    """Transitions of an update, from all so far; the newest is one of them."""
    seed: int = 0
    """Of every cell."""
