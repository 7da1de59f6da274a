"""Samplers for replay buffers."""

from torchrl_alita.data.conditional import ConditionalSampler

__all__ = ["ConditionalSampler"]
