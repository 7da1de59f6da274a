"""Settings: said once, checked, plain; and an algorithm that is one class and one line."""

from __future__ import annotations

import ast
import json
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import TargetEnv, by_name, changed_training, flat_config, random_batch
from tensordict import TensorDict

import torchrl_alita
from torchrl_alita._settings import Settings, field_docs, parse_option
from torchrl_alita.algorithms import (
    ALGORITHMS,
    ALITA,
    IQL,
    MADDPG,
    QMIX,
    TD3,
    Learner,
    OffPolicySettings,
    TwinALITA,
    register_algorithm,
)
from torchrl_alita.envs import Task, register_task
from torchrl_alita.envs.registry import TASKS
from torchrl_alita.modules import make_actor
from torchrl_alita.saving import load_policy
from torchrl_alita.training import Config, TrainingSettings, config_from_plain, plain_config, train
from torchrl_alita.training.buffers import Buffers

PACKAGE = Path(torchrl_alita.__file__).parent
TASK = "test/settings"
if TASK not in TASKS:
    register_task(TASK, Task(make=TargetEnv))
SMALL = {"num_cells": (13,)}


def declarations(name: str) -> list[str]:
    """Classes of the algorithms and of training that declare an option of this name."""
    found = []
    for path in sorted([*PACKAGE.glob("algorithms/*.py"), *PACKAGE.glob("training/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found += [
                    node.name
                    for field in node.body
                    if isinstance(field, ast.AnnAssign) and field.target.id == name
                ]
    return found


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("gamma", "LearnerSettings"),
        ("logits_coeff", "MADDPGSettings"),
        ("optimum_at", "InfluenceSettings"),
    ],
)
def test_an_option_is_declared_in_one_place(name, owner):
    assert declarations(name) == [owner]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_option_of_every_algorithm_has_a_docstring(name):
    kind = ALGORITHMS[name].Settings
    docs = field_docs(kind)
    assert [f.name for f in fields(kind) if not docs.get(f.name)] == []
    assert kind is not ALGORITHMS["alita"].Settings or kind.__name__ == "ALITASettings"


def test_every_training_option_has_a_docstring():
    docs = field_docs(TrainingSettings)
    assert [f.name for f in fields(TrainingSettings) if not docs.get(f.name)] == []


def test_no_two_algorithms_share_a_class_of_settings():
    assert max(Counter(kind.Settings for kind in ALGORITHMS.values()).values()) == 1


def test_a_class_changes_an_inherited_default_by_assignment_and_by_its_own_order():
    """A default of a class that comes first wins over one of a class further up."""
    assert (ALITA.Settings().gamma, TwinALITA.Settings().gamma) == (0.95, 0.99)
    assert (QMIX.Settings().max_grad_norm, MADDPG.Settings().max_grad_norm) == (10.0, 0.5)
    assert (TD3.Settings().num_cells, TD3.Settings().random_frames) == ((256, 256), 10_000)
    with pytest.raises(TypeError, match="sets gama"):

        @dataclass(frozen=True, kw_only=True)
        class Typo(OffPolicySettings):
            gama = 0.5


@pytest.mark.parametrize("kind", [QMIX, IQL])
def test_q_learning_has_one_set_of_defaults_that_of_pymarl(kind):
    settings = kind.Settings()
    assert (settings.recurrent, settings.share_params, settings.optimizer) == (
        True,
        True,
        "rmsprop",
    )
    assert (settings.gamma, settings.critic_lr, settings.max_grad_norm) == (0.99, 5e-4, 10.0)
    assert (settings.noise_start, settings.noise_end, settings.noise_frames) == (1, 0.05, 50_000)


def test_numbers_of_numpy_and_torch_are_numbers():
    settings = ALITA.Settings(
        num_cells=(np.int64(8),),
        share_params=np.bool_(False),
        gamma=torch.tensor(0.5),
        actor_lr=np.float64(1e-3),
        influence_coeff=np.float32(0.25),
        omega=np.array([0.5, 0.25]),
        influencers=torch.tensor(1),
    )
    training = TrainingSettings(num_envs=np.int64(5), seed=np.int64(3))
    config = Config(algorithm=settings, training=training)
    found = json.loads(json.dumps(plain_config(config)))
    assert found["algorithm"]["num_cells"] == [8]
    assert found["algorithm"]["share_params"] is False
    assert (found["algorithm"]["gamma"], found["algorithm"]["omega"]) == (0.5, [0.5, 0.25])
    assert (found["training"]["num_envs"], found["training"]["seed"]) == (5, 3)
    assert type(settings.influencers) is int
    assert config_from_plain(found) == config


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_config_comes_back_from_its_json(name):
    config = Config(algorithm=ALGORITHMS[name].Settings())
    assert config_from_plain(json.loads(json.dumps(plain_config(config)))) == config


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: MADDPG.Settings(gamma="0.9"), TypeError, "gamma must be a number, got '0.9'"),
        (lambda: MADDPG.Settings(share_params=1), TypeError, "share_params must be True or False"),
        (lambda: MADDPG.Settings(num_cells=13), TypeError, "num_cells"),
        (lambda: MADDPG.Settings(num_cells=(1.5,)), TypeError, "num_cells"),
        (lambda: MADDPG.Settings(scope="some"), ValueError, "'all', 'own'.*'some'"),
        (lambda: TrainingSettings(loggers="csv"), TypeError, "loggers must be a sequence.*'csv'"),
        (lambda: TrainingSettings(threads=0), ValueError, "threads must be at least 1, got 0"),
        (lambda: MADDPG.Settings(random_frames=-5), ValueError, "random_frames.*-5"),
        (lambda: Config(algorithm=MADDPG.Settings(random_frames=250_000)), ValueError, "nothing"),
        (lambda: MADDPG(TargetEnv(), TD3.Settings()), TypeError, "MADDPGSettings, got TD3Settings"),
        (lambda: Config(training=MADDPG.Settings()), TypeError, "training"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name_and_the_value(call, error, text):
    with pytest.raises(error, match=text):
        call()


# MATD3


def test_delayed_actors_cost_no_gradient_and_their_targets_wait():
    """One mechanism, TD3's: at updates that are not the actors' turn nothing of theirs moves."""
    torch.manual_seed(0)
    matd3 = {"num_critics": 2, "policy_noise": 0.2, "policy_delay": 2}
    algorithm = MADDPG(TargetEnv(), MADDPG.Settings(**matd3, **SMALL))
    loss, logged, moved = algorithm.maddpg, [], []
    actors = list(loss.actor_network_params.parameters())
    graded = []
    parts = ("actor_network", "target_actor_network", "target_qvalue_network", "qvalue_network")
    for seed in range(4):
        before = {part: getattr(loss, f"{part}_params").clone() for part in parts}
        logged.append("loss_actor" in algorithm.update(by_name(algorithm, random_batch(seed=seed))))
        moved.append(
            [bool((getattr(loss, f"{part}_params") != before[part]).any()) for part in parts]
        )
        graded.append(any(param.grad is not None for param in actors))
    assert logged == graded == [False, True, False, True]
    assert moved == [[False, False, False, True], [True] * 4] * 2


# A new algorithm


@dataclass(frozen=True, kw_only=True)
class CloneSettings(OffPolicySettings):
    """Settings of :class:`Clone`."""

    lr: float = 1e-2
    """Adam's step."""


class Clone(Learner):
    """Behaviour cloning: the policies imitate what is stored."""

    Settings = CloneSettings

    def __init__(self, env, settings=None, *, device=None):
        super().__init__(env, settings, device=device)
        self.actor = self.make_policy(env, self.settings, device=self.device)
        self.modules["actor"] = self.actor
        self.optimizers["actor"] = torch.optim.Adam(self.actor.parameters(), lr=self.settings.lr)
        self._compile_losses()

    @classmethod
    def make_policy(cls, env, settings, *, device=None):
        return make_actor(env, num_cells=settings.num_cells, device=device)

    def _losses(self, batch):
        action = self.actor(batch.select(("agents", "observation")))["agents", "action"]
        error = (action - batch["agents", "action"]).square().mean()
        return TensorDict({"loss_clone": error})

    def _update_targets(self):
        """There are none."""


def test_a_new_algorithm_is_a_class_and_one_line(tmp_path):
    register_algorithm("clone", Clone)
    config = flat_config(
        algorithm=Clone, task=TASK, n_agents=3, num_envs=5, horizon=4, total_frames=60,
        frames_per_batch=20, frames_per_update=10, random_frames=20, batch_size=16,
        evaluation_episodes=3, progress=False, run_dir=tmp_path / "run", **SMALL,
    )  # fmt: skip
    assert train(config)["updates"] == 4
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["algorithm"]["name"] == "clone"
    assert saved["algorithm"]["lr"] == 1e-2
    assert load_policy(tmp_path / "run", TargetEnv()).out_keys
    resumed = changed_training(config, run_dir=None, resume=tmp_path / "run", total_frames=80)
    assert train(resumed)["updates"] == 6
    with pytest.raises(ValueError, match="registered already"):
        register_algorithm("clone", Clone)
    del ALGORITHMS["clone"]


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        (["32,16"], tuple[int, ...], (32, 16)),
        (["32", "16"], tuple[int, ...], (32, 16)),
        (["none"], tuple[int, ...], ()),
        (["a, b"], tuple[str, ...], ("a, b",)),
        (["x", "1", "y", "0.5"], tuple[tuple[str, float], ...], (("x", 1.0), ("y", 0.5))),
        ('[["x", 1]]', tuple[tuple[str, float], ...], (("x", 1.0),)),
        (["none"], tuple[tuple[str, float], ...], ()),
    ],
)
def test_a_sequence_is_written_as_a_sweep_or_a_shell_has_it(text, hint, value):
    assert parse_option("name", text, hint) == value


def test_settings_are_values():
    settings = ALITA.Settings()
    assert replace(settings, gamma=0.5).gamma == 0.5
    assert settings == ALITA.Settings()
    assert hash(settings) == hash(ALITA.Settings())
    assert issubclass(ALITA.Settings, Settings)


def test_a_buffer_holds_the_whole_batches_that_a_run_makes():
    """60 frames in batches of 50 are 100."""
    algorithm = MADDPG(TargetEnv(), MADDPG.Settings(**SMALL))
    options = {"algorithm": "maddpg", "num_envs": 1, "frames_per_batch": 50, "random_frames": 0}
    buffers = Buffers(flat_config(total_frames=60, frames_per_update=50, **options), algorithm)
    rows = random_batch(batch_size=(1, 100))
    for first in (0, 50):
        buffers.extend(rows[:, first : first + 50])
    assert len(buffers.replay) == 100


@pytest.mark.parametrize(("stored", "oldest"), [(60, 0), (80, 20), (40, 0)])
def test_the_rows_of_a_prolonged_run_stand_from_the_oldest_to_the_newest(stored, oldest):
    """A full buffer of 60 rows goes on in one of 200: behind its rows, not in their middle."""
    algorithm = MADDPG(TargetEnv(), MADDPG.Settings(**SMALL))
    options = {"algorithm": "maddpg", "num_envs": 1, "frames_per_batch": 20}
    options |= {"frames_per_update": 20, "random_frames": 0}
    short, long = (
        Buffers(flat_config(total_frames=frames, **options), algorithm) for frames in (60, 200)
    )
    rows = random_batch(batch_size=(1, 100))
    rows["agents", "observation"] = torch.arange(100.0).view(1, 100, 1, 1).expand(1, 100, 3, 5)
    for first in range(0, stored, 20):
        short.extend(rows[:, first : first + 20])
    long.load_state_dict(short.state_dict())
    long.extend(rows[:, stored : stored + 20])
    found = long.replay.storage[:]["agents", "observation"][:, 0, 0].tolist()
    assert found == list(range(oldest, stored + 20))
