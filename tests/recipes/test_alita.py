"""recipes/alita.py is the package's ALITA, written out."""

from __future__ import annotations

import torch
from fakes import TargetEnv, random_batch
from scripts import load

from torchrl_alita.algorithms import ALITA

ENV = TargetEnv()


def test_the_recipes_update_is_that_of_the_package():
    """From one seed and on the same batches, every network ends the same to the last digit."""
    recipe = load("recipes", "alita")
    torch.manual_seed(0)
    package = ALITA(ENV)
    torch.manual_seed(0)
    written_out = recipe.Alita(ENV, recipe.Config())
    for update in range(3):
        batches = random_batch(seed=update), random_batch(seed=50 + update)
        torch.manual_seed(update)
        package.update({"batch": batches[0].clone(), "recent": batches[1].clone()})
        torch.manual_seed(update)
        written_out.update(*batches)
    pairs = (
        (package.maddpg, written_out.maddpg),
        (package.novelty_loss, written_out.novelty_loss),
    )
    for one, other in pairs:
        expected, found = one.state_dict(), other.state_dict()
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(found[key], value, rtol=0, atol=0, msg=key)


def test_the_recipe_runs(capsys):
    recipe = load("recipes", "alita")
    config = recipe.Config(
        num_envs=4, total_frames=80, frames_per_batch=40, frames_per_update=20, random_frames=40,
        batch_size=8, recent_frames=40,
    )  # fmt: skip
    recipe.main(config)
    assert capsys.readouterr().out.count("return") == 2
