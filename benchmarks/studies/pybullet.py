"""Figure 5 of the paper: returns on PyBullet's robots, with outside checks.

Source: Sec. 4.2 and Appendix C of https://arxiv.org/abs/2108.12581: at least a million steps, ten
seeds, every 5,000 steps the mean return of 15 greedy episodes. The paper does not name the five
tasks; these are the ones that its settings point to.
"""

from studies.spread import NO_F, NO_IM

from torchrl_alita.experiments import RETURN, Column, Study, Variant, reached

OUTSIDE = ("benchmarks/sb3_worker.py",)
ROBOTS = ("HalfCheetah", "Ant", "Hopper", "Walker2D", "Humanoid")

STUDY = Study(
    name="pybullet",
    page="docs/pybullet.md",
    tasks={f"pybullet/{robot}BulletEnv-v0": (1_000_000, {}) for robot in ROBOTS},
    recipes={"": "recipes/robots.py"},
    variants={
        "ALITA": Variant(algorithm="twin_alita"),
        "ALITA, no F": Variant(algorithm="twin_alita", settings=NO_F),
        "ALITA, no IM": Variant(algorithm="twin_alita", settings=NO_IM),
        **{
            name.upper(): Variant(algorithm=name)
            for name in ("td3", "ddpg", "sac", "ppo", "tac", "acktr")
        },
        "TD3, stable-baselines3": Variant(algorithm="td3", program=OUTSIDE),
        "SAC, stable-baselines3": Variant(algorithm="sac", program=OUTSIDE),
        "TRPO, sb3-contrib": Variant(algorithm="trpo", program=OUTSIDE),
    },
    columns={"": (Column("return", reached(RETURN), 0, untrained=RETURN),)},
    panels={"": {RETURN: "return"}},
    settings={"evaluation_interval": 5_000, "evaluation_episodes": 15},
    checks=(("TD3", "TD3, stable-baselines3"), ("SAC", "SAC, stable-baselines3")),
    note="Return: mean over the evaluations in the last tenth of a run, 15 greedy episodes each.",
    first="curve",
)
