"""Samplers for replay buffers."""

from torchrl_alita.data.conditional import ConditionalSampler
from torchrl_alita.data.sequences import SequenceSampler, as_sequences

__all__ = ["ConditionalSampler", "SequenceSampler", "as_sequences"]
