"""Updates, samples and steps on a device without numbers: main() prints what they wait for.

What is computed there has a shape, a dtype and a device and no values, so that no such device need
be in the machine. It is stricter than one. Whatever reads a value (``item``, ``nonzero``, a boolean
index, a branch on a tensor) fails, and so does an operation on two devices, or a list that becomes
a tensor there. What moves from one device to the other is noted: the host would wait for it.

A device is registered for a whole process, so this one should be a process of its own.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle
import torch
from fakes import (
    B,
    H,
    TargetEnv,
    build,
    by_name,
    conditional_names,
    flat_config,
    random_batch,
    sequences,
)
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)
from torchrl.envs import EnvBase, TransformedEnv

from torchrl_alita import ALITA, DDPG, IQL, MADDPG, PPO, QMIX, SAC, TAC, TD3, VDN, TwinALITA
from torchrl_alita.algorithms import A2C, DQN, Reinforce
from torchrl_alita.data.conditional import KINDS
from torchrl_alita.envs import make_env
from torchrl_alita.training import make_exploration
from torchrl_alita.training.buffers import Buffers

SMALL = {"num_cells": (13,)}
ONE_HOT = TargetEnv(discrete=True)
STATE = TargetEnv(discrete=True, has_state=True)
ALONE = TargetEnv(n_agents=1)
MEMORY = {"recurrent": True, "hidden_size": H, "critic_input": "state"}
NAME = "valueless"


def device() -> torch.device:
    return torch.device(NAME, 0)


def without_values(
    parameter: bool, requires_grad: bool, dtype: torch.dtype, *layout: tuple[int, ...]
) -> torch.Tensor:
    """A tensor on the device."""
    tensor = torch.empty_strided(*layout, dtype=dtype, device=device())
    if parameter:
        return torch.nn.Parameter(tensor, requires_grad=requires_grad)
    return tensor.requires_grad_(requires_grad)


class _Mover(cloudpickle.Pickler):
    """Puts a tensor of the device in the place of each tensor, once, and the device's name.

    In the place of a generator, which would have numbers: draws are then the device's own.
    """

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            parameter = isinstance(value, torch.nn.Parameter)
            layout = (tuple(value.shape), value.stride())
            return without_values, (parameter, value.requires_grad, value.dtype, *layout)
        if isinstance(value, torch.device):
            return device, ()
        if isinstance(value, torch.Generator):
            return type(None), ()
        return super().reducer_override(value)


def moved(value: Any) -> Any:
    """Whatever can be pickled, with all its tensors on the device."""
    file = io.BytesIO()
    _Mover(file).dump(value)
    return pickle.loads(file.getvalue())


class Runtime(_DummyBackendModule):
    """What libraries ask of a device's runtime; it counts how often they wait for it."""

    waits = 0

    def synchronize(self) -> None:
        Runtime.waits += 1


class Transfers(TorchDispatchMode):
    """Notes the operations, backward too, that have tensors of two devices, and the waits."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        Runtime.waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        if len({tensor.device.type for tensor in tensors}) > 1:
            self.found.append(func.overloadpacket.__name__)
        return result


def _blamed(error: Exception) -> str:
    """What stopped a call, and the file that asked for it."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    asked = [name for name in files if "/torch/" not in name and name != __file__]
    place = "/".join(asked[-1].split("/")[-3:]) if asked else ""
    reason = (str(error).strip().splitlines() or [""])[0]
    return f"{place}: {type(error).__name__}: {reason}"[:300]


def transfers_of(call: Callable[..., Any], *given: Any) -> list[str]:
    """What a call moves between the devices, when what it is given is on the device.

    A call that cannot be made there gives what stopped it.
    """
    with FakeTensorMode():
        given = moved(given)
        with Transfers() as transfers:
            try:
                call(*given)
            except Exception as error:
                transfers.found.append(_blamed(error))
    return transfers.found + ["synchronize"] * Runtime.waits


def transitions(algorithm: Any) -> TensorDict:
    """A batch of the algorithm's own kind."""
    if algorithm.on_policy:
        return ALONE.rollout(4, algorithm.actor, break_when_any_done=False).detach()
    if algorithm.layout.num_agents == 1:
        return ALONE.rollout(4).reshape(-1)
    if algorithm.recurrent:
        return sequences(batch_size=(B, 3))
    return sequences(batch_size=(B,)) if isinstance(algorithm, IQL) else random_batch()


def updated(algorithm: Any, batch: TensorDict) -> None:
    algorithm.update(by_name(algorithm, batch, [batch for _ in conditional_names(algorithm)]))


def continuous(make: Callable[..., Any], **options: Any) -> Any:
    return build(make, TargetEnv(), **SMALL, **options)


ALGORITHMS: dict[str, Callable[[], Any]] = {
    "MADDPG": lambda: continuous(MADDPG),
    "MATD3": lambda: continuous(MADDPG, num_critics=2, policy_noise=0.2),
    "DDPG": lambda: continuous(DDPG),
    "ALITA": lambda: continuous(ALITA),
    "ALITA, clones": lambda: continuous(ALITA, estimator="clones"),
    "ALITA, centralized": lambda: continuous(ALITA, estimator="centralized", optimum_at="next"),
    "ALITA, weights": lambda: continuous(
        ALITA, influencers=1, influencees=(2, 0), weights=(0.3, 0.7), normalize=True
    ),
    "Symmetric": lambda: continuous(ALITA, influencers="all"),
    "Symmetric, clones": lambda: continuous(ALITA, influencers="all", estimator="clones"),
    "two influencers": lambda: continuous(ALITA, influencers=(2, 0), weights=(0.3, 0.7)),
    "ALITA, one-hot": lambda: ALITA(ONE_HOT, ALITA.Settings(**SMALL)),
    "ALITA, enumerated": lambda: ALITA(ONE_HOT, ALITA.Settings(optimum="enumerated", **SMALL)),
    "Symmetric, one-hot": lambda: ALITA(
        ONE_HOT, ALITA.Settings(influencers="all", num_action_samples=1, **SMALL)
    ),
    "MADDPG, all actions": lambda: MADDPG(ONE_HOT, MADDPG.Settings(own_actions="all", **SMALL)),
    "MADDPG, recurrent": lambda: MADDPG(STATE, MADDPG.Settings(**SMALL, **MEMORY)),
    "ALITA, recurrent": lambda: ALITA(STATE, ALITA.Settings(optimum_at="next", **SMALL, **MEMORY)),
    "QMIX": lambda: QMIX(STATE, QMIX.Settings(hidden_size=H)),
    "VDN": lambda: VDN(STATE, VDN.Settings(hidden_size=H)),
    "IQL": lambda: IQL(STATE, IQL.Settings(recurrent=False, **SMALL)),
    "DQN": lambda: DQN(ONE_HOT, DQN.Settings(**SMALL)),
    "TwinALITA": lambda: TwinALITA(ALONE, TwinALITA.Settings(**SMALL)),
    "TwinALITA, marginal": lambda: TwinALITA(
        ALONE, TwinALITA.Settings(estimator="marginal", **SMALL)
    ),
    "TwinALITA, published": lambda: TwinALITA(
        ALONE, dataclasses.replace(TwinALITA.presets["published"], **SMALL)
    ),
    **{
        make.__name__: lambda make=make: build(make, ALONE, **SMALL)
        for make in (TD3, SAC, TAC, PPO, A2C, Reinforce)
    },
}


ACTED = {
    f"{task}, {exploration}": (task, exploration)
    for task in ("push_box", "secret_room")
    for exploration in ("independent", "team")
}
SAMPLED: dict[str, Callable[[], Any]] = {
    "replay": lambda: continuous(ALITA),
    **{
        kind: lambda kind=kind: continuous(ALITA, estimator="clones", conditional=kind)
        for kind in KINDS
    },
    "sequences": lambda: ALITA(STATE, ALITA.Settings(**SMALL, **MEMORY)),
}
# Each is a way to wait for the device, or to miss it.
PLANTED: dict[str, Callable[[torch.Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "branch": lambda x: x if (x > 0).all() else -x,
    "boolean index": lambda x: x[x > 0],
    "list as an index": lambda x: x[[0, 2]],
    "list as a tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "constant elsewhere": lambda x: x + torch.ones(B),
    "there and back": lambda x: x.cpu().to(x.device),
    "moved batch": lambda x: TensorDict({"x": x}).to("cpu"),
    "nothing": lambda x: x.square().mean(),
}


def updates() -> dict[str, list[str]]:
    found = {}
    for name, make in ALGORITHMS.items():
        torch.manual_seed(0)
        algorithm = make()
        found[name] = transfers_of(updated, algorithm, transitions(algorithm))
    return found


@contextmanager
def answered(answer: bool) -> Iterator[None]:
    """What is asked of a tensor, as whether actions are allowed, has this answer."""
    asked = {(torch.Tensor, "__bool__"): lambda *_: answer, (torch, "equal"): lambda *_: True}
    before = {(owner, name): getattr(owner, name) for owner, name in asked}
    for (owner, name), reply in asked.items():
        setattr(owner, name, reply)
    try:
        yield
    finally:
        for (owner, name), function in before.items():
            setattr(owner, name, function)


def act(policy: TensorDictSequential, env: EnvBase, observed: TensorDict, answer: bool) -> None:
    with answered(answer):
        env._reset(None)
        for _ in range(2):
            env._step(policy(observed))


def steps() -> dict[str, list[str]]:
    """Acting and exploring in the package's own environments.

    Each asks once or twice a step, on purpose: both answers are gone through.
    """
    found = {}
    for name, (task, exploration) in ACTED.items():
        torch.manual_seed(0)
        sizes = {"n_agents": 2, "num_envs": B, "horizon": 20}
        config = flat_config(
            algorithm="alita",
            total_frames=10_000,
            task=task,
            exploration=exploration,
            frames_per_batch=20 * B,
            frames_per_update=B,
            **sizes,
        )
        env = make_env(task, seed=0, **sizes)
        algorithm = config.build(env)
        policy = TensorDictSequential(algorithm.actor, make_exploration(config, algorithm))
        found[name] = [
            transfer
            for answer in (True, False)
            for transfer in transfers_of(act, policy, env, env.reset(), answer)
        ]
    return found


def samples() -> dict[str, list[str]]:
    sizes = {"total_frames": 500, "num_envs": B, "frames_per_batch": 40 * B, "frames_per_update": B}
    options = {
        "batch_size": 32, "conditional_batch_size": 64, "sequence_length": 4, "burn_in": 2,
        "random_frames": 0, "recent_frames": 100, **sizes,
    }  # fmt: skip
    found = {}
    for name, make in SAMPLED.items():
        torch.manual_seed(0)
        algorithm = make()
        env = STATE if algorithm.recurrent else TargetEnv()
        for transform in algorithm.env_transforms():
            env = TransformedEnv(env, transform)
        config = flat_config(algorithm="alita", **options)
        names = {field.name for field in dataclasses.fields(algorithm.settings)}
        own = {name: value for name, value in options.items() if name in names}
        algorithm.settings = dataclasses.replace(algorithm.settings, **own)
        buffers = Buffers(config, algorithm)
        buffers.extend(env.rollout(40, algorithm.actor, break_when_any_done=False).detach())
        buffers.sample()
        found[name] = transfers_of(Buffers.sample, buffers)
    return found


def main() -> None:
    _setup_privateuseone_for_python_backend(NAME, backend_module=Runtime())
    planted = {name: transfers_of(call, torch.ones(B)) for name, call in PLANTED.items()}
    found = {"updates": updates(), "samples": samples(), "steps": steps(), "planted": planted}
    print(json.dumps(found))
