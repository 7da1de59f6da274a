"""Values and gradients of NoveltyLoss."""

from __future__ import annotations

import torch
from fakes import (
    A,
    O,
    random_batch,
)

from torchrl_alita import (
    Autoencoder,
    NoveltyLoss,
)


def test_the_novelty_loss_trains_the_influencers_autoencoder_alone():
    autoencoder = Autoencoder(O + A, num_influencers=2)
    loss, batch = NoveltyLoss(autoencoder, (0, 2)), random_batch()
    losses = loss(batch)
    inputs = torch.cat([batch["agents", "observation"], batch["agents", "action"]], -1)[:, [0, 2]]
    expected = (autoencoder(inputs) - inputs).square().sum((-1, -2)).mean()
    torch.testing.assert_close(losses["loss_novelty"], expected)
    losses["loss_novelty"].backward()
    assert all(p.grad.abs().sum() > 0 for n, p in loss.named_parameters() if n.endswith("bias"))


def test_training_the_autoencoder_makes_what_it_saw_less_novel():
    torch.manual_seed(0)
    loss, batch = NoveltyLoss(Autoencoder(O + A)), random_batch(batch_size=(64,))
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
    first = loss(batch)["loss_novelty"].item()
    for _ in range(150):
        optimizer.zero_grad()
        loss(batch)["loss_novelty"].backward()
        optimizer.step()
    assert loss(batch)["loss_novelty"].item() < 0.5 * first
