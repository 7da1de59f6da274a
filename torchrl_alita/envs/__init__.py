"""Environments, batched, in one layout."""

from torchrl_alita.envs.as_team import TeamLayout, as_team
from torchrl_alita.envs.cmae import (
    CMAEPushBox,
    CMAESecretRoom,
    cmae_secret_room_metrics,
    draw_cmae_secret_room,
)
from torchrl_alita.envs.exact_state import EnvironmentState, environment_state
from torchrl_alita.envs.games import MarkovGame, MatrixGame, draw_game, game_task
from torchrl_alita.envs.jaxmarl import JaxMARLEnv, jaxmarl_names, jaxmarl_task
from torchrl_alita.envs.particles import (
    CooperativeNavigation,
    ParticleEnv,
    ParticleSettings,
    PhysicalDeception,
    SpeakerListener,
    UnpaidSpeaker,
    draw_particles,
    navigation_metrics,
    physical_deception_metrics,
    speaker_listener_metrics,
)
from torchrl_alita.envs.pettingzoo import (
    ExactPettingZooEnv,
    PettingZooEnv,
    agent_returns,
    draw_pettingzoo,
    pettingzoo_task,
)
from torchrl_alita.envs.push_box import (
    PushBox,
    PushBoxEvents,
    PushBoxSettings,
    draw_push_box,
    push_box_events,
    push_box_metrics,
    push_box_task,
)
from torchrl_alita.envs.registry import (
    Task,
    get_task,
    make_env,
    register_suite,
    register_task,
    task_names,
)
from torchrl_alita.envs.secret_room import (
    SecretRoom,
    SecretRoomEvents,
    SecretRoomSettings,
    draw_secret_room,
    secret_room_events,
    secret_room_metrics,
    secret_room_task,
)
from torchrl_alita.envs.sides import SideView, check_sides, sides_by_name, sides_of
from torchrl_alita.envs.sparse_transport import (
    SparseTransport,
    SparseTransportSettings,
    sparse_transport_metrics,
)
from torchrl_alita.envs.turns import TakeTurns
from torchrl_alita.envs.vmas import (
    StreamedVmasEnv,
    WorldPoses,
    draw_vmas,
    spread_metrics,
    vmas_metrics,
    vmas_scenarios,
    vmas_task,
)
from torchrl_alita.envs.vmas_state import VmasState
from torchrl_alita.layout import Layout, layout_of

__all__ = [
    "CMAEPushBox",
    "CMAESecretRoom",
    "CooperativeNavigation",
    "EnvironmentState",
    "ExactPettingZooEnv",
    "JaxMARLEnv",
    "Layout",
    "MarkovGame",
    "MatrixGame",
    "ParticleEnv",
    "ParticleSettings",
    "PettingZooEnv",
    "PhysicalDeception",
    "PushBox",
    "PushBoxEvents",
    "PushBoxSettings",
    "SecretRoom",
    "SecretRoomEvents",
    "SecretRoomSettings",
    "SideView",
    "SparseTransport",
    "SparseTransportSettings",
    "SpeakerListener",
    "StreamedVmasEnv",
    "TakeTurns",
    "Task",
    "TeamLayout",
    "UnpaidSpeaker",
    "VmasState",
    "WorldPoses",
    "agent_returns",
    "as_team",
    "check_sides",
    "cmae_secret_room_metrics",
    "draw_cmae_secret_room",
    "draw_game",
    "draw_particles",
    "draw_pettingzoo",
    "draw_push_box",
    "draw_secret_room",
    "draw_vmas",
    "environment_state",
    "game_task",
    "get_task",
    "jaxmarl_names",
    "jaxmarl_task",
    "layout_of",
    "make_env",
    "navigation_metrics",
    "pettingzoo_task",
    "physical_deception_metrics",
    "push_box_events",
    "push_box_metrics",
    "push_box_task",
    "register_suite",
    "register_task",
    "secret_room_events",
    "secret_room_metrics",
    "secret_room_task",
    "sides_by_name",
    "sides_of",
    "sparse_transport_metrics",
    "speaker_listener_metrics",
    "spread_metrics",
    "task_names",
    "vmas_metrics",
    "vmas_scenarios",
    "vmas_task",
]
