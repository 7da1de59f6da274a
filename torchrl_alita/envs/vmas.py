"""VMAS, the vectorized multi-agent simulator (extra ``vmas``; GPL-3.0).

Source: https://arxiv.org/abs/2207.03530.
"""

from __future__ import annotations

import ast
import inspect
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, make_dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Composite, Unbounded
from torchrl.envs import Compose, EnvBase, StepCounter, Transform, TransformedEnv, VmasEnv

from torchrl_alita._checks import LARGEST_NUMPY_SEED, check_integer, checked_seed, require_keys
from torchrl_alita._extras import import_extra
from torchrl_alita.envs._grid import first_episode, running
from torchrl_alita.envs.as_team import TeamLayout
from torchrl_alita.envs.registry import Task, naming_arguments, register_suite, unknown
from torchrl_alita.layout import ACTION, OBSERVATION, REWARD, next_key

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "StreamedVmasEnv",
    "WorldPoses",
    "draw_vmas",
    "spread_metrics",
    "vmas_metrics",
    "vmas_scenarios",
    "vmas_task",
]

# Of the scenario simple_spread.
_AGENT_RADIUS = 0.15
_LANDMARK_RADIUS = 0.05
_OCCUPIED_WITHIN = 0.1


class StreamedVmasEnv(VmasEnv):
    """TorchRL's VmasEnv with a random stream of its own.

    VMAS keeps its random state in one list, shared by all environments of the
    process: there, an evaluation moves the stream of the training environment.
    Here each environment puts its own stream into that list while it works, and
    leaves the list as it was.

    Args:
        scenario: of VMAS.
        seed: of the stream. Default: drawn from torch's global generator.
        **kwargs: of :class:`torchrl.envs.VmasEnv` and of the scenario.

    Raises:
        ImportError: if VMAS is not installed.
        ValueError: if the seed is no whole number from 0 to 2**32 - 1.

    Examples:
        >>> first = StreamedVmasEnv("simple_spread", seed=0, num_envs=2, device="cpu")
        >>> other = StreamedVmasEnv("simple_spread", seed=1, num_envs=2, device="cpu")
        >>> before = first.random_stream()
        >>> _ = other.reset()
        >>> bool((first.random_stream()[0] == before[0]).all())
        True
    """

    def __init__(self, scenario: str, *, seed: int | None = None, **kwargs):
        import_extra("vmas", "vmas")
        # VMAS seeds NumPy too.
        seed = checked_seed(seed, most=LARGEST_NUMPY_SEED)
        if seed is None:
            seed = int(torch.randint(2**31, ()))
        with _vmas_random_state(kwargs.get("device")) as shared:
            super().__init__(scenario, seed=seed, **kwargs)
            self._keep_stream(shared)
        # TorchRL looks these up in the simulator at every step, through all of its attributes.
        for name in ("continuous_actions", "n_agents"):
            self.__dict__[name] = getattr(self._env, name)
        self.__dict__["_alike"] = _laid_out(self)

    def random_stream(self) -> tuple:
        """State of the stream: torch's, NumPy's and Python's generator, and the GPU's."""
        return (*self._stream, self._gpu_stream)

    def _keep_stream(self, states: Iterable[Any]) -> None:
        self.__dict__["_stream"] = list(states)
        self.__dict__["_gpu_stream"] = _gpu_state(self.device)

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        with _vmas_random_state(self.device) as shared:
            shared[:] = self._stream
            if self._gpu_stream is not None:
                torch.cuda.set_rng_state(self._gpu_stream, self.device)
            try:
                yield
            finally:
                self._keep_stream(shared)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        with self._own_stream():
            return super()._reset(tensordict, **kwargs)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self._alike:
            return self._step_alike(tensordict)
        with self._own_stream():
            return super()._step(tensordict)

    def _simulate(self, actions: list[torch.Tensor]) -> tuple:
        """VMAS's step on this environment's stream, whose generators are exchanged once.

        VMAS does so too, by the list that all environments share: what it does in between is
        the method that its decorator wraps.
        """
        outside, gpu = _generators(), _gpu_state(self.device)
        _set_generators(self._stream)
        if gpu is not None:
            torch.cuda.set_rng_state(self._gpu_stream, self.device)
        try:
            result = inspect.unwrap(type(self._env).step)(self._env, actions)
            self._keep_stream(_generators())
        finally:
            _set_generators(outside)
            if gpu is not None:
                torch.cuda.set_rng_state(gpu, self.device)
        return result

    def _step_alike(self, tensordict: TensorDictBase) -> TensorDictBase:
        """A step of agents that are all alike: TorchRL's makes a tensordict for each of them."""
        actions = list(tensordict.get(ACTION).unbind(1))
        seen, paid, done, infos = self._simulate(actions)

        def all_agents(entries: Sequence[torch.Tensor]) -> torch.Tensor:
            stacked = torch.stack(list(entries), 1)
            return stacked if stacked.ndim > 2 else stacked.unsqueeze(-1)

        shape = (*self.batch_size, len(actions))
        agents = {"observation": all_agents(seen), "reward": all_agents(paid)}
        if infos[0]:
            values = {
                key: all_agents([info[key].to(torch.float32) for info in infos]) for key in infos[0]
            }
            agents["info"] = TensorDict(values, shape, device=self.device)
        done = done.unsqueeze(-1)
        entries = {
            "agents": TensorDict(agents, shape, device=self.device),
            "done": done,
            "terminated": done.clone(),
        }
        return TensorDict(entries, self.batch_size, device=self.device)

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """As in :class:`torchrl.envs.EnvBase`; NumPy's and torch's whole numbers too."""
        return super().set_seed(None if seed is None else check_integer("seed", seed), static_seed)

    def _set_seed(self, seed: int | None) -> None:
        with self._own_stream():
            super()._set_seed(seed)


def _gpu_state(device: torch.device | str | None) -> torch.Tensor | None:
    """State of the GPU's generator, from which VMAS draws there; None on the CPU."""
    on_gpu = device is not None and torch.device(device).type == "cuda"
    return torch.cuda.get_rng_state(device) if on_gpu else None


def _generators() -> tuple:
    """States of torch's, NumPy's and Python's generator."""
    return torch.random.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


def _set_generators(states: Sequence[Any]) -> None:
    torch.random.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])


@contextmanager
def _vmas_random_state(device: torch.device | str | None) -> Iterator[list]:
    """The list in which VMAS keeps its random state; it and the GPU's are restored."""
    from vmas.simulator.environment import Environment

    shared = Environment.vmas_random_state
    outside = list(shared)
    generators = _generators()
    on_gpu = _gpu_state(device)
    try:
        yield shared
    except BaseException:
        # VMAS puts these back at the end of its own methods, but not after an error.
        _set_generators(generators)
        raise
    finally:
        shared[:] = outside
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, device)


def _spread_geometry(observation: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Agents' positions and offsets to landmarks and teammates, ``[*B, N, 4N + 2]``.

    Returns ``[*B, N, 2]``, ``[*B, N, N, 2]`` and ``[*B, N, N - 1, 2]``.
    """
    num_agents = observation.shape[-2]
    position, _, landmarks, others = observation.split(
        [2, 2, 2 * num_agents, 2 * (num_agents - 1)], dim=-1
    )
    return position, landmarks.unflatten(-1, (-1, 2)), others.unflatten(-1, (num_agents - 1, 2))


def spread_metrics(episodes: TensorDictBase) -> dict[str, torch.Tensor]:
    """Figures of merit of cooperative navigation, episodes ``[B, T]`` -> scalars.

    Args:
        episodes: complete episodes of ``"vmas/spread"``.

    Returns:
        ``landmark_distance``: distance of a landmark to its nearest agent, summed
        over the landmarks, mean over the episode, in units of the arena's half
        width. ``contacts_per_episode``: pairs of agents that overlap, summed over
        the steps. ``occupied_share``: share of the landmarks with an agent's
        center within 0.1 at the end; ``near_share``: within 0.2.

    Raises:
        KeyError: if the episodes hold no next observation.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=2, n_agents=3, seed=0)
        >>> sorted(spread_metrics(env.rollout(5)))
        ['contacts_per_episode', 'landmark_distance', 'near_share', 'occupied_share']
    """
    _, landmarks, others = _spread_geometry(episodes[next_key(OBSERVATION)])
    nearest = landmarks.norm(dim=-1).amin(-2)
    # Each pair is seen from both sides.
    contacts = (others.norm(dim=-1) < 2 * _AGENT_RADIUS).sum((-1, -2)) / 2
    return {
        "landmark_distance": nearest.sum(-1).mean(),
        "contacts_per_episode": contacts.sum(-1).mean(),
        "occupied_share": (nearest[:, -1] < _OCCUPIED_WITHIN).float().mean(),
        "near_share": (nearest[:, -1] < 2 * _OCCUPIED_WITHIN).float().mean(),
    }


def _draw_spread(episode: TensorDictBase, *, size: int = 320, half_width: float = 1.6):
    """Frames of one episode ``[T]``: landmarks dark, agents in color with a trail."""
    image_module = import_extra("PIL.Image", "recipes")
    draw_module = import_extra("PIL.ImageDraw", "recipes")
    position, landmarks, _ = _spread_geometry(episode[next_key(OBSERVATION)].cpu())
    landmarks = position[0, 0] + landmarks[0, 0]
    colors = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")

    def to_pixels(points: torch.Tensor) -> list[tuple[float, float]]:
        pixels = (points * torch.tensor([1.0, -1.0]) / half_width + 1) * size / 2
        return [tuple(point) for point in pixels.tolist()]

    def frame(step: int) -> Image:
        image = image_module.new("RGB", (size, size), "white")
        canvas = draw_module.Draw(image)
        for i, agent in enumerate(to_pixels(position[step])):
            color = colors[i % len(colors)]
            trail = to_pixels(position[max(0, step - 15) : step + 1, i])
            canvas.line(trail, fill=color, width=2)
            canvas.circle(agent, _AGENT_RADIUS / half_width * size / 2, fill=color)
        for landmark in to_pixels(landmarks):
            canvas.circle(landmark, _LANDMARK_RADIUS / half_width * size / 2, fill="black")
        return image

    return [frame(step) for step in range(position.shape[0])]


# Every scenario


class WorldPoses(Transform):
    """Where everything in a VMAS world is, written as ``"poses"`` ``[B, E, 3]``.

    E entities, agents first, then landmarks: x, y and the angle. :func:`draw_vmas` draws them.

    Args:
        env: of VMAS, beneath the transform.

    Examples:
        >>> env = StreamedVmasEnv("balance", seed=0, num_envs=2, device="cpu")
        >>> TransformedEnv(env, WorldPoses(env)).reset()["poses"].shape
        torch.Size([2, 7, 3])
    """

    def __init__(self, env: StreamedVmasEnv):
        super().__init__(in_keys=[], out_keys=["poses"])
        # Not a part of the transform's state, nor of its copies.
        self.__dict__["_world"] = env._env.world

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        states = [entity.state for entity in self._world.entities]
        poses = [torch.cat([state.pos, state.rot], -1) for state in states]
        return next_tensordict.set("poses", torch.stack(poses, 1))

    def _reset(
        self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return self._call(tensordict_reset)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        shape = (*observation_spec.shape, len(self._world.entities), 3)
        observation_spec["poses"] = Unbounded(shape, device=observation_spec.device)
        return observation_spec


@cache
def vmas_scenarios() -> tuple[str, ...]:
    """Names of the scenarios of the installed VMAS, which is not imported for it.

    Returns:
        The names, sorted; none if VMAS is not installed.

    Examples:
        >>> {"balance", "simple_tag", "football"} <= set(vmas_scenarios())
        True
    """
    return tuple(sorted(_files()))


@cache
def _files() -> dict[str, Path]:
    try:
        found = find_spec("vmas")
    except ValueError:
        # Without a spec where a module stands in for it.
        found = None
    if found is None or not found.submodule_search_locations:
        return {}
    root = Path(found.submodule_search_locations[0]) / "scenarios"
    return {path.stem: path for path in root.rglob("*.py") if not path.stem.startswith("_")}


@cache
def _arguments_of(scenario: str) -> dict[str, Any]:
    """Arguments that a scenario reads, with their defaults; None where no plain value is."""
    found: dict[str, Any] = {}
    for node in ast.walk(ast.parse(_files()[scenario].read_text())):
        match node:
            case ast.Call(func=ast.Attribute(ast.Name("kwargs"), "pop" | "get"), args=given):
                pass
            case _:
                continue
        try:
            name, *default = map(ast.literal_eval, given)
        except ValueError:
            name, default = ast.literal_eval(given[0]), []
        found.setdefault(name, default[0] if default else None)
    return found


@cache
def _settings_class(scenario: str) -> type:
    fields: list[tuple[str, Any, Any]] = [("continuous_actions", bool, True)]
    for name, default in _arguments_of(scenario).items():
        if name != "n_agents" and name.isidentifier():
            kinds = {bool: bool, int: int | float, float: float, str: str}
            kind = kinds.get(type(default))
            plain = kind is not None
            fields.append((name, kind if plain else float | None, default if plain else None))
    made = make_dataclass(
        f"{''.join(word.title() for word in scenario.split('_'))}Settings",
        fields,
        frozen=True,
        kw_only=True,
    )
    made.__module__ = __name__
    made.__doc__ = f"What VMAS's scenario {scenario} can set; None is its own default."
    return made


def vmas_task(
    scenario: str, arguments: Mapping[str, Any] | None = None, *, continuous_actions: bool = True
) -> Task:
    """A scenario of VMAS as a task, all of its agents in one team of the layout.

    Every scenario of the installed VMAS is registered with its defaults, as
    ``"vmas/football"``; its arguments are the task's settings. Agents of several kinds stand in
    the order of TorchRL's groups, see :func:`torchrl_alita.envs.as_team`. A drawing needs
    neither a display nor OpenGL, see :func:`draw_vmas`.

    The scenarios ``simple_speaker_listener`` and ``simple_adversary`` draw one goal for all
    environments of a batch, and only when all are reset.

    Args:
        scenario: one of :func:`vmas_scenarios`.
        arguments: of the scenario, where they differ from its defaults.
        continuous_actions: otherwise, one-hot actions; what an agent does and says is one choice
            among the combinations.

    Returns:
        A :class:`torchrl_alita.envs.Task`. ``n_agents`` is handed to the scenario if it has this
        argument. Its metrics are those of :func:`vmas_metrics`.

    Raises:
        ImportError: if VMAS is not installed; the extra is named.
        ValueError: for an unknown scenario or argument; the known ones are listed.

    Examples:
        >>> task = vmas_task("football", {"ai_red_agents": False, "n_red_agents": 2})
        >>> from torchrl_alita.envs import make_env
        >>> make_env(task, num_envs=2, seed=0).rollout(3)["next", "agents", "reward"].shape
        torch.Size([2, 3, 5, 1])
    """
    import_extra("vmas", "vmas")
    if scenario not in _files():
        raise ValueError(unknown("scenario of VMAS", scenario, vmas_scenarios()))
    settings = _settings_class(scenario)
    known = [field.name for field in fields(settings)]
    for name in arguments or {}:
        if name not in known:
            raise ValueError(unknown(f"argument of {scenario}", name, known))
    return _task_of(scenario, settings(continuous_actions=continuous_actions, **(arguments or {})))


def _task_of(scenario: str, settings: Any) -> Task:
    own = {"scenario": scenario, "settings": settings}
    metrics: Callable[..., dict[str, torch.Tensor]] = partial(_metrics, **own)
    draw: Callable[..., list[Image]] = partial(draw_vmas, **own)
    if scenario == "simple_spread" and settings.obs_agents and settings.continuous_actions:
        metrics, draw = spread_metrics, _draw_spread
    return Task(
        make=partial(_make, scenario=scenario),
        metrics=metrics,
        draw=draw,
        settings=settings,
        n_agents=_arguments_of(scenario).get("n_agents"),
        configure=partial(_task_of, scenario),
    )


def _make(
    *,
    num_envs: int,
    n_agents: int | None,
    device: torch.device | str,
    seed: int | None,
    horizon: int,
    settings: Any,
    scenario: str,
) -> EnvBase:
    env = _simulator(scenario, settings, n_agents, num_envs=num_envs, device=device, seed=seed)
    if n_agents not in (None, env.n_agents):
        own = sorted(set(_arguments_of(scenario)) - {"n_agents"})
        raise ValueError(
            f"The scenario {scenario!r} has {env.n_agents} agents, got n_agents={n_agents}; its "
            f"arguments are {own}."
        )
    transforms = [] if _laid_out(env) else [TeamLayout(env, ["observation"])]
    if scenario != "simple_spread":
        transforms.append(WorldPoses(env))
    transforms.append(StepCounter(max_steps=horizon))
    return TransformedEnv(env, Compose(*transforms) if transforms[1:] else transforms[0])


def _simulator(
    scenario: str, settings: Any, n_agents: int | None, **options: Any
) -> StreamedVmasEnv:
    given = {name: value for name, value in asdict(settings).items() if value is not None}
    if n_agents is not None and "n_agents" in _arguments_of(scenario):
        given["n_agents"] = n_agents
    defaults = _arguments_of(scenario)
    given = {name: value for name, value in given.items() if value != defaults.get(name)}
    with naming_arguments(f"The scenario {scenario!r}", given):
        return StreamedVmasEnv(scenario, **options, **given)


def _laid_out(env: StreamedVmasEnv) -> bool:
    """Whether nothing has to be stacked, padded or encoded."""
    if list(env.group_map) != ["agents"] or env.het_specs or not env.continuous_actions:
        return False
    return isinstance(env.full_observation_spec_unbatched[OBSERVATION], Unbounded)


def vmas_metrics(
    episodes: TensorDictBase, *, groups: Mapping[str, Sequence[int]] | None = None
) -> dict[str, torch.Tensor]:
    """Figures of merit of any scenario, episodes ``[B, T]`` -> scalars.

    What comes after an episode's end does not count.

    Args:
        episodes: complete episodes.
        groups: the agents of each group, where there are several. Default: none.

    Returns:
        ``episode_length``; and of each number in the
        scenario's ``info`` its mean over the steps and the agents, named ``info_NAME``, or
        ``info_GROUP_NAME`` where there are groups.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/balance", num_envs=2, seed=0)
        >>> sorted(vmas_metrics(env.rollout(5)))
        ['episode_length', 'info_ground_rew', 'info_pos_rew']
    """
    after = episodes["next"]
    runs = running(episodes)
    values = {"episode_length": runs.sum(1).float().mean()}
    for key in sorted(key for key in after.keys(True, True) if isinstance(key, tuple)):
        if key[-2] != "info" or not after[key].dtype.is_floating_point:
            continue
        entry = after[key]
        if entry.shape[3:].numel() == 1:
            group = f"{key[0]}_" if groups else ""
            mean = entry.flatten(2).mean(-1)
            values[f"info_{group}{key[-1]}"] = (mean * runs).sum() / runs.sum()
    return values


def _metrics(episodes: TensorDictBase, *, scenario: str, settings: Any) -> dict[str, torch.Tensor]:
    n_agents = episodes[next_key(REWARD)].shape[-2]
    return vmas_metrics(episodes, groups=_groups(scenario, settings, n_agents))


@cache
def _groups(scenario: str, settings: Any, n_agents: int) -> dict[str, range] | None:
    """The agents of each group, if there are several."""
    sizes = _simulator(scenario, settings, n_agents, num_envs=1, device="cpu", seed=0).group_map
    ends = list(accumulate(len(agents) for agents in sizes.values()))
    if len(sizes) == 1:
        return None
    return {
        name: range(end - len(agents), end)
        for (name, agents), end in zip(sizes.items(), ends, strict=True)
    }


def draw_vmas(
    episode: TensorDictBase, *, scenario: str, settings: Any = None, size: int = 320
) -> list[Image]:
    """Frames of one episode ``[T]`` of any scenario: disks, boxes and lines in VMAS's colors.

    They are drawn from the poses that :class:`WorldPoses` wrote. VMAS's own renderer draws more
    (joints, sensors, a scenario's extras), but needs OpenGL; without a display it works where
    EGL is installed, after ``pyglet.options["headless"] = True``.

    Args:
        episode: it is drawn to its end, and not beyond.
        scenario: its name.
        settings: of its task. Default: the scenario's own.
        size: edge of a picture, pixels.

    Returns:
        A picture for each step.

    Raises:
        ImportError: if Pillow is not installed; the extra is named.
        KeyError: if the episode holds no poses.
    """
    image_module = import_extra("PIL.Image", "recipes")
    draw_module = import_extra("PIL.ImageDraw", "recipes")
    require_keys(episode, [next_key("poses")])
    episode = first_episode(episode)[0]
    poses = episode[next_key("poses")]
    settings = settings or _settings_class(scenario)()
    n_agents = episode[next_key(REWARD)].shape[-2]
    env = _simulator(scenario, settings, n_agents, num_envs=1, device="cpu", seed=0)
    entities = env._env.world.entities
    if len(entities) != poses.shape[1]:
        raise ValueError(
            f"The episode has {poses.shape[1]} entities, {scenario!r} {len(entities)}."
        )
    reach = float(poses[..., :2].abs().quantile(0.98)) + 0.2
    scale = size / 2 / max(reach, 1e-3)
    # Large things first, so that they cover nothing.
    order = sorted(range(len(entities)), key=lambda i: -_extent(entities[i].shape))

    def frame(step: int) -> Image:
        image = image_module.new("RGB", (size, size + 16), "white")
        canvas = draw_module.Draw(image)
        for number in order:
            x, y, angle = poses[step, number].tolist()
            place = (size / 2 + x * scale, size / 2 - y * scale)
            _draw_entity(canvas, entities[number], place, angle, scale)
        canvas.rectangle((0, size, size, size + 16), fill="white")
        canvas.text((4, size + 2), f"step {step + 1}", fill="black")
        return image

    return [frame(step) for step in range(len(poses))]


def _extent(shape: Any) -> float:
    """Half of an entity's largest length."""
    return max(getattr(shape, "radius", 0.0), getattr(shape, "length", 0.0) / 2)


def _draw_entity(
    canvas: Any, entity: Any, place: tuple[float, float], angle: float, scale: float
) -> None:
    rgb = tuple(int(255 * min(max(float(part), 0), 1)) for part in entity.color[:3])
    shape = entity.shape
    if hasattr(shape, "radius"):
        radius = max(shape.radius * scale, 1.5)
        box = (place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius)
        canvas.ellipse(box, fill=rgb)
        return
    half, wide = shape.length * scale / 2, getattr(shape, "width", 0.0) * scale / 2
    along = (half * math.cos(angle), -half * math.sin(angle))
    if not hasattr(shape, "hollow"):
        ends = [(place[0] + sign * along[0], place[1] + sign * along[1]) for sign in (-1, 1)]
        canvas.line(ends, fill=rgb, width=3)
        return
    across = (wide * math.sin(angle), wide * math.cos(angle))
    corners = [
        (place[0] + a * along[0] + b * across[0], place[1] + a * along[1] + b * across[1])
        for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))
    ]
    if shape.hollow:
        canvas.polygon(corners, outline=rgb)
    else:
        canvas.polygon(corners, fill=rgb)


def _registered(name: str) -> Task:
    if name == "spread":
        # The name under which the package's results on cooperative navigation are known.
        # The ceiling: landmarks shared out once, by the least sum of distances, and teammates
        # steered around (tests/benchmarks/test_navigation.py).
        return replace(_registered("simple_spread"), floor=-586.3, ceiling=-84.8)
    return _task_of(name, _settings_class(name)())


register_suite(
    "vmas",
    lambda: (*vmas_scenarios(), "spread") if vmas_scenarios() else (),
    _registered,
    module="vmas",
    extra="vmas",
)
