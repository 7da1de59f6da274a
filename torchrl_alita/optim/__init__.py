"""Optimizers that limit how far a policy moves."""

from torchrl_alita.optim.kfac import KFAC
from torchrl_alita.optim.trust_region import TrustRegion, conjugate_gradient

__all__ = ["KFAC", "TrustRegion", "conjugate_gradient"]
