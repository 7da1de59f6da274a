"""MADDPG and ALITA for 5,000 frames on games of every suite: that they learn there at all.

So few frames say nothing of how well. Ten scenarios of VMAS, five tasks of JaxMARL, six of
PettingZoo's kind, unequal agents, adversaries, deaths and images among them.
"""

from torchrl_alita.experiments import RETURN, Column, Study, Variant

FRAMES = 5_000
BATCHED = {"num_envs": 50, "horizon": 50}
# They are stepped one after the other.
SINGLE = {"num_envs": 10, "horizon": 50, "evaluation_episodes": 5}
VMAS = (
    "balance", "navigation", "transport", "wheel", "simple_tag", "simple_adversary",
    "simple_speaker_listener", "football", "give_way", "dropout",
)  # fmt: skip
JAXMARL = ("MPE_simple_spread_v3", "MPE_simple_tag_v3", "coin_game", "overcooked", "switch_riddle")
PETTINGZOO = (
    "mpe2/simple_spread_v3", "mpe2/simple_speaker_listener_v4", "mpe2/simple_adversary_v3",
    "sisl/multiwalker_v9", "butterfly/knights_archers_zombies_v11", "mamujoco/HalfCheetah-2x3",
)  # fmt: skip

STUDY = Study(
    name="suites",
    page="docs/suites.md",
    tasks={
        **{f"vmas/{name}": (FRAMES, BATCHED) for name in VMAS},
        **{f"jaxmarl/{name}": (FRAMES, BATCHED) for name in JAXMARL},
        **dict.fromkeys(PETTINGZOO, (FRAMES, SINGLE)),
    },
    variants={"MADDPG": Variant(algorithm="maddpg"), "ALITA": Variant(algorithm="alita")},
    settings={
        "frames_per_batch": 500,
        "evaluation_interval": FRAMES,
        "evaluation_episodes": 20,
        "checkpoint_interval": FRAMES,
        "algorithm.random_frames": 1_000,
        "algorithm.batch_size": 256,
    },
    seeds=(0,),
    columns={"": (Column("return", RETURN, 2),)},
    note="Greedy episodes.",
)
