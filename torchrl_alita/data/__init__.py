"""Samplers for replay buffers; codes of observations, and counts of codes."""

from torchrl_alita.data.codes import (
    BinCode,
    CountCodes,
    Displacement,
    JointCode,
    OneHotCode,
    count_codes_of,
)
from torchrl_alita.data.conditional import ConditionalSampler
from torchrl_alita.data.counts import CountTable
from torchrl_alita.data.episodes import EpisodeReturns
from torchrl_alita.data.n_steps import n_step_transitions
from torchrl_alita.data.replay import Replay
from torchrl_alita.data.sequences import SequenceSampler, as_sequences
from torchrl_alita.data.transitions import TransitionCounts

__all__ = [
    "BinCode",
    "ConditionalSampler",
    "CountCodes",
    "CountTable",
    "Displacement",
    "EpisodeReturns",
    "JointCode",
    "OneHotCode",
    "Replay",
    "SequenceSampler",
    "TransitionCounts",
    "as_sequences",
    "count_codes_of",
    "n_step_transitions",
]
