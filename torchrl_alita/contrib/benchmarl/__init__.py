"""ALITA, its ablations and MADDPG as algorithms of BenchMARL.

BenchMARL 1.5.2 asks for torchrl below 0.12, this package for 0.14: what is here is outside what
BenchMARL supports. It runs because a single name has changed between the two, which
:func:`register` provides. See docs/tutorials/benchmarl.md.

Source: https://arxiv.org/abs/2312.01472.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

__all__ = ["INSTALL", "main", "register"]

INSTALL = (
    "pip install --no-deps benchmarl==1.5.2 hydra-core omegaconf antlr4-python3-runtime==4.9.3"
)


def register() -> dict[str, type[Any]]:
    """Import BenchMARL, and make the package's algorithms known to it and to Hydra.

    Call it before anything else imports BenchMARL.

    Returns:
        The classes of their configurations, by name: ``alita``, the ablations ``alita_no_f``,
        ``alita_no_im`` and ``alita_symmetric``, and ``alita_maddpg``, MADDPG with the paper's
        gradient. Each is one for ``Experiment(algorithm_config=...)``.

    Raises:
        ImportError: if BenchMARL or Hydra is not installed; the line that installs them is
            named.

    Examples:
        >>> algorithms = register()  # doctest: +SKIP
        >>> algorithms["alita"](influence_coeff=0.3)  # doctest: +SKIP
    """
    import torchrl.collectors

    # BenchMARL's name for it, which TorchRL has dropped.
    if not hasattr(torchrl.collectors, "SyncDataCollector"):
        torchrl.collectors.SyncDataCollector = torchrl.collectors.Collector
    try:
        import benchmarl.algorithms
        from hydra.core.config_store import ConfigStore
    except ModuleNotFoundError as error:
        if error.name not in ("benchmarl", "hydra", "omegaconf", "antlr4"):
            raise
        raise ImportError(f"{error.name} is not installed; try: {INSTALL}") from error
    from torchrl_alita.contrib.benchmarl._algorithms import CONFIGS

    for name, config in CONFIGS.items():
        benchmarl.algorithms.algorithm_config_registry[name] = config
        ConfigStore.instance().store(name=f"{name}_config", group="algorithm", node=config)
    return dict(CONFIGS)


def main() -> None:
    """BenchMARL's command line, which also finds the configurations of this package.

    Raises:
        ImportError: if BenchMARL or Hydra is not installed.
    """
    register()
    from benchmarl.run import hydra_experiment

    folder = (Path(__file__).parent / "conf").resolve()
    sys.argv.insert(1, f"hydra.searchpath=[file://{folder.as_posix()}]")
    hydra_experiment()
