"""The command line: ``torchrl-alita train``, ``sweep``, ``report`` and ``cross-play``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

__all__ = ["main"]

# Of each subcommand the module with its ``main(arguments) -> int``, and what it does.
COMMANDS = {
    "train": ("torchrl_alita.training.command", "train one team"),
    "sweep": ("torchrl_alita.experiments.sweep", "train many, side by side"),
    "cross-play": (
        "torchrl_alita.training.cross_play",
        "trained sides of a game against each other",
    ),
    "report": ("torchrl_alita.experiments.report", "tables, curves and a page of their results"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand a command line to its subcommand.

    Args:
        arguments: of the command line. Default: the process's own.

    Returns:
        The exit status.
    """
    # A console script does not see the modules beside it, as python -m does.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    name, *rest = (sys.argv[1:] if arguments is None else [*arguments]) or ["--help"]
    if name in COMMANDS:
        return import_module(COMMANDS[name][0]).main(rest)
    known = "\n".join(f"  {key:10} {does}" for key, (_, does) in COMMANDS.items())
    if name in ("-h", "--help"):
        print(f"usage: torchrl-alita COMMAND [options]\n\n{known}\n\nCOMMAND --help says more.")
        return 0
    print(f"torchrl-alita: unknown command {name!r}. Known: {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
