"""The package's algorithms inside BenchMARL.

What trains there runs in an environment of its own, which docs/tutorials/benchmarl.md makes:
BENCHMARL_PYTHON, or .venv-contrib-benchmarl/bin/python at the repository's root.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from scripts import ROOT
from tensordict.nn import TensorDictModule
from torchrl.modules import MultiAgentMLP, ProbabilisticActor, TanhDelta
from torchrl.objectives import SoftUpdate

from torchrl_alita.algorithms import ALITA, MADDPG, ALITASettings, MADDPGSettings
from torchrl_alita.contrib import benchmarl
from torchrl_alita.contrib.benchmarl._loss import (
    ALITA_SETTINGS,
    MADDPG_SETTINGS,
    GroupLoss,
    with_policy,
)
from torchrl_alita.envs import make_env

PYTHON = Path(
    os.environ.get("BENCHMARL_PYTHON", ROOT / ".venv-contrib-benchmarl" / "bin" / "python")
)
NAMES = ("alita", "alita_no_f", "alita_no_im", "alita_symmetric", "alita_maddpg")
inside = pytest.mark.skipif(not PYTHON.exists(), reason=f"there is no {PYTHON}")


@pytest.fixture
def env():
    return make_env("vmas/spread", num_envs=7, n_agents=3, seed=0)


def policy_of_benchmarl(env) -> ProbabilisticActor:
    """The policies of its MADDPG: a network for all agents and a deterministic distribution."""
    torch.manual_seed(0)
    spec = env.full_action_spec_unbatched["agents", "action"]
    net = MultiAgentMLP(
        n_agent_inputs=14, n_agent_outputs=2, n_agents=3, centralized=False, share_params=True,
        depth=1, num_cells=11,
    )  # fmt: skip
    return ProbabilisticActor(
        TensorDictModule(net, in_keys=[("agents", "observation")], out_keys=[("agents", "param")]),
        spec=spec,
        in_keys=[("agents", "param")],
        out_keys=[("agents", "action")],
        distribution_class=TanhDelta,
        distribution_kwargs={"low": spec.space.low, "high": spec.space.high},
    )


def loss_of(env, algorithm=ALITA, **settings) -> GroupLoss:
    known = algorithm.Settings(num_cells=(5,), **settings)
    return GroupLoss(with_policy(algorithm, policy_of_benchmarl(env))(env, known))


@pytest.mark.parametrize(
    ("algorithm", "settings"), [(MADDPG, {}), (ALITA, {}), (ALITA, {"weights": "attention"})]
)
def test_every_loss_trains_what_it_is_said_to_and_nothing_is_left_out(env, algorithm, settings):
    loss = loss_of(env, algorithm, **settings)
    SoftUpdate(loss.learner.maddpg, tau=0.1)
    losses = loss(env.rollout(2).reshape(-1))
    by_loss = loss.parameters_by_loss()
    for name in by_loss:
        for params in by_loss.values():
            for param in params:
                param.grad = None
        losses[name].backward(retain_graph=True)
        for other, params in by_loss.items():
            moved = all(param.grad is not None for param in params)
            untouched = all(param.grad is None for param in params)
            assert moved if other == name else untouched, (name, other)
    trained = {id(param) for params in by_loss.values() for param in params}
    assert trained == {id(param) for param in loss.parameters() if param.requires_grad}


def test_the_losses_are_those_of_the_algorithm(env):
    loss = loss_of(env, influence_coeff=0.7)
    SoftUpdate(loss.learner.maddpg, tau=0.1)
    batch = env.rollout(2).reshape(-1)
    torch.manual_seed(3)
    found = loss(batch)
    torch.manual_seed(3)
    expected = loss.learner._losses(batch, batch)
    torch.testing.assert_close(
        found["loss_actor"], expected["loss_actor"] + expected["loss_influence"]
    )
    assert float(expected["loss_influence"].detach()) != 0
    for name in ("loss_qvalue", "loss_novelty", "gap_0_1", "diversity_penalty"):
        torch.testing.assert_close(found[name], expected[name])
    assert not any(found[name].requires_grad for name in ("influence", "gap_0_1", "novelty"))


def test_one_step_after_the_other_can_follow_them(env):
    """BenchMARL steps an optimizer before it goes backward through the next loss."""
    loss = loss_of(env)
    SoftUpdate(loss.learner.maddpg, tau=0.1)
    optimizers = {
        name: torch.optim.Adam(params) for name, params in loss.parameters_by_loss().items()
    }
    for _ in range(2):
        losses = loss(env.rollout(2).reshape(-1))
        for name, value in losses.items():
            if name in optimizers:
                value.backward()
                optimizers[name].step()
                optimizers[name].zero_grad()
    assert all(bool(param.isfinite().all()) for param in loss.parameters())


def test_no_f_has_no_influence_in_its_losses(env):
    loss = loss_of(env, influence_coeff=0.0)
    SoftUpdate(loss.learner.maddpg, tau=0.1)
    losses = loss(env.rollout(2).reshape(-1))
    assert losses.get("influence", None) is None


@pytest.mark.parametrize(
    ("names", "settings"), [(ALITA_SETTINGS, ALITASettings), (MADDPG_SETTINGS, MADDPGSettings)]
)
def test_what_is_handed_on_are_settings_of_the_algorithm(names, settings):
    known = {field.name for field in dataclasses.fields(settings)}
    assert set(names) <= known
    # What BenchMARL says itself must not be said twice.
    assert not {"gamma", "tau", "actor_lr", "critic_lr", "batch_size"} & set(names)


def test_each_algorithm_has_a_configuration_for_hydra_which_repeats_no_setting():
    folder = Path(benchmarl.__file__).parent / "conf" / "algorithm"
    assert {path.stem for path in folder.glob("*.yaml")} == set(NAMES)
    for path in folder.glob("*.yaml"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert lines == ["defaults:", f"  - {path.stem}_config", "  - _self_"]


@pytest.mark.skipif(find_spec("benchmarl") is not None, reason="BenchMARL is installed")
def test_without_benchmarl_the_error_has_the_line_that_installs_it():
    with pytest.raises(
        ImportError, match=r"benchmarl is not installed; try: pip install --no-deps"
    ):
        benchmarl.register()


def run(code_or_options: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [str(PYTHON), *code_or_options], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@inside
def test_hydra_knows_the_algorithms_with_the_packages_defaults(tmp_path):
    code = f"""
import dataclasses, json
from torchrl_alita.algorithms import ALITASettings
from torchrl_alita.contrib.benchmarl import register
configs = register()
assert set(configs) == set({NAMES!r}), set(configs)
import pickle
found = {{}}
for name, config in configs.items():
    made = pickle.loads(pickle.dumps(config()))
    assert made == config.get_from_yaml()
    found[name] = dataclasses.asdict(made)
print(json.dumps(found))
"""
    found = json.loads(run(["-c", code], tmp_path).splitlines()[-1])
    plain = json.loads(json.dumps(dataclasses.asdict(ALITASettings())))
    assert found["alita"] == {name: plain[name] for name in ALITA_SETTINGS}
    assert found["alita_no_f"] == found["alita"] | {"influence_coeff": 0.0}
    assert found["alita_no_im"] == found["alita"] | {"novelty_coeff": 0.0, "diversity_coeff": 0.0}
    assert found["alita_symmetric"] == found["alita"] | {"influencers": "all"}
    assert set(found["alita_maddpg"]) == set(MADDPG_SETTINGS)


@inside
@pytest.mark.parametrize("algorithm", ["alita", "alita_maddpg"])
def test_the_command_of_the_page_trains(tmp_path, algorithm):
    options = {
        "algorithm": algorithm,
        "task": "vmas/balance",
        "experiment.max_n_frames": 200,
        "experiment.off_policy_collected_frames_per_batch": 100,
        "experiment.off_policy_n_envs_per_worker": 5,
        "experiment.off_policy_n_optimizer_steps": 2,
        "experiment.off_policy_train_batch_size": 16,
        "experiment.evaluation_interval": 100,
        "experiment.evaluation_episodes": 2,
        "experiment.loggers": "[csv]",
        "experiment.render": False,
        "experiment.create_json": False,
    }
    arguments = [f"{name}={value}" for name, value in options.items()]
    run(["-m", "torchrl_alita.contrib.benchmarl", *arguments], tmp_path)
    logged = {path.stem: path.read_text() for path in tmp_path.rglob("*.csv")}
    names = ["train_agents_loss_actor", "train_agents_loss_qvalue"]
    if algorithm == "alita":
        names += ["train_agents_loss_novelty", "train_agents_influence"]
    for name in names:
        values = [float(line.split(",")[1]) for line in logged[name].splitlines()]
        assert len(values) == 2, name
        assert all(abs(value) < float("inf") for value in values), name


@inside
def test_a_setting_out_of_its_range_and_another_group_are_refused(tmp_path):
    code = """
from torchrl_alita.contrib.benchmarl import register
configs = register()
try:
    configs["alita"](influence_coeff=-1.0)
except ValueError as error:
    print(error)
from benchmarl.environments import VmasTask
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig
config = ExperimentConfig.get_from_yaml()
config.loggers, config.create_json = [], False
try:
    Experiment(
        task=VmasTask.SIMPLE_TAG.get_from_yaml(), algorithm_config=configs["alita"](),
        model_config=MlpConfig.get_from_yaml(), seed=0, config=config,
    )
except ValueError as error:
    print(error)
"""
    said = run(["-c", code], tmp_path)
    assert "influence_coeff must be finite and at least 0, got -1.0" in said
    assert "must be one group named 'agents', got ['adversary', 'agent']" in said


HOSTILE = """
import warnings
warnings.simplefilter("ignore")
import torch
from torchrl_alita.contrib.benchmarl import register
configs = register()
assert register() == configs
from benchmarl.environments import VmasTask
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models import GruConfig, MlpConfig

def build(algorithm, model=None, critic=None, **changes):
    config = ExperimentConfig.get_from_yaml()
    config.loggers, config.create_json, config.evaluation = [], False, False
    for name, value in changes.items():
        setattr(config, name, value)
    return Experiment(
        task=VmasTask.BALANCE.get_from_yaml(), algorithm_config=algorithm,
        model_config=model or MlpConfig.get_from_yaml(), critic_model_config=critic,
        seed=0, config=config,
    )

alita, small = configs["alita"], MlpConfig.get_from_yaml()
small.num_cells = [7]
memory = GruConfig(
    hidden_size=5, n_layers=1, bias=True, dropout=0.0, compile=False, mlp_num_cells=[5],
    mlp_layer_class=torch.nn.Linear, mlp_activation_class=torch.nn.Tanh,
)
"""


REFUSED = {
    "build(alita(), memory)": "ValueError: Policies with a memory are not supported here",
    "build(alita(influencers=[7]))": "ValueError: influencers must be at least 0 and below",
    "build(alita(weights=[1.0]))": "ValueError: weights must be 3, one for each influencee",
    "alita(influencers='first')": "ValueError: influencers must be one of",
    "alita(num_cells='64')": "TypeError: num_cells must be a sequence",
    "alita(omega='much')": "TypeError: omega must be",
    "alita(gamma=0.9)": "got an unexpected keyword argument 'gamma'",
}


@inside
def test_hostile_experiments_are_refused_in_one_sentence(tmp_path):
    code = f"""{HOSTILE}
import json
said = {{}}
for call in {list(REFUSED)!r}:
    try:
        eval(call)
    except Exception as error:
        said[call] = f"{{type(error).__name__}}: {{error}}"
print(json.dumps(said))
"""
    said = json.loads(run(["-c", code], tmp_path).splitlines()[-1])
    assert said.keys() == REFUSED.keys()
    for call, sentence in REFUSED.items():
        assert sentence in said[call], said[call]


@inside
def test_a_model_for_critics_that_is_not_read_is_said_to_be_unread(tmp_path):
    code = f"""{HOSTILE}
for critic in (None, MlpConfig.get_from_yaml(), small):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build(alita(), critic=critic)
    print([str(w.message) for w in caught if "critic_model_config" in str(w.message)])
"""
    none, default, other = run(["-c", code], tmp_path).splitlines()[-3:]
    assert none == default == "[]"
    assert "critic_model_config, MlpConfig, is not read" in other


@inside
def test_a_restored_experiment_has_every_number_of_the_saved_one(tmp_path):
    code = f"""{HOSTILE}
from pathlib import Path
short = dict(
    max_n_frames=20, off_policy_collected_frames_per_batch=20, off_policy_n_envs_per_worker=5,
    off_policy_n_optimizer_steps=2, off_policy_train_batch_size=8, save_folder=".",
)
alone = alita(normalize=True, bonus_unit="own_return")
first = build(alone, checkpoint_interval=20, **short)
first.run()
(saved,) = Path(first.folder_name).rglob("*.pt")
second = build(alone, restore_file=str(saved), **short)
old, new = (each.losses["agents"].state_dict() for each in (first, second))
assert old.keys() == new.keys()
numbers = [name for name, value in old.items() if isinstance(value, torch.Tensor)]
differ = [name for name in numbers if not torch.equal(old[name], new[name])]
print(len(numbers), differ)
"""
    found = run(["-c", code], tmp_path).splitlines()[-1]
    number, differing = found.split(" ", 1)
    assert int(number) > 5
    assert differing == "[]"
