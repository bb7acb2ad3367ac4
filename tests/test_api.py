"""The public API: lazy names, trained agents in a program, training and evaluation by function call."""

import json
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import impala_mi
from impala_mi import api
from impala_mi.analysis.play import evaluation_root, play
from impala_mi.config import Config, build
from impala_mi.envs.base import Observation
from impala_mi.envs.seeds import EpisodeSeeds
from impala_mi.envs.suites import make_suite
from impala_mi.nn.agent import Agent
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.folder import create
from tests.commands import impala
from tests.tiny import tiny_config

CARTPOLE = {
    "env": {"suite": "gym", "levels": ["CartPole-v1"]},
    "agent": {"torso": "mlp", "head": "shared", "core_width": 32},
}


def save_run(root: Path, config: Config, *scores: float | None) -> Path:
    """Folder of a run with a checkpoint of fresh weights for each score."""
    folder = create(config.model_copy(update={"run": config.run.model_copy(update={"root": str(root)})}), "a")
    suite = make_suite(config.env)
    for k, score in enumerate(scores):
        learner = {"agent": Agent(config.agent, suite.spaces).state_dict()}
        checkpoints.save(folder.checkpoints, learner, {}, {"env_frames": k, "score": score}, keep=5)
    return folder.path


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("tiny"), tiny_config("agent.head=mi_task"), None, 50.0, 20.0)


@pytest.fixture
def tiny_agent(tiny_run: Path) -> impala_mi.TrainedAgent:
    return impala_mi.load_agent(tiny_run)


@pytest.fixture(scope="module")
def cartpole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("cartpole"), build("cartpole", CARTPOLE), 1.0)


# -- names -----------------------------------------------------------------------------------------


def test_importing_the_package_takes_no_time_and_loads_no_library():
    code = (
        "import sys, time; start = time.perf_counter(); import impala_mi; print(time.perf_counter() - start); "
        "print(sorted({'torch', 'ray', 'numpy', 'pydantic', 'gymnasium', 'matplotlib'} & set(sys.modules)))"
    )
    seconds, modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    assert float(seconds) < 0.2
    assert modules == "[]"


@pytest.mark.slow
def test_acting_loads_neither_ray_nor_the_drawing_libraries_and_learning_no_compiler(cartpole_run):
    """PyTorch's compiler would be 75 MB in every learner."""
    code = (
        f"import sys, impala_mi; agent = impala_mi.load_agent({str(cartpole_run)!r}); "
        "agent.step([0.0] * 4, agent.initial_state()); "
        "print(sorted({'ray', 'matplotlib', 'scipy', 'sklearn', 'tensorboard'} & set(sys.modules))); "
        "import torch; from impala_mi.config import LearnerConfig, build; from impala_mi.types import Spaces; "
        "from impala_mi.learner.optim import make_optimizer; p = torch.nn.Parameter(torch.ones(2)); "
        "p.grad = torch.ones(2); make_optimizer(LearnerConfig(), [p]).step(torch.ones(2), 0.1); "
        "from impala_mi.learner.update import Learner; "
        "Learner(build('x', {}, []), Spaces((24, 24, 3), 'uint8', 3, 1, False), 1, torch.device('cpu')); "
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\nFalse\n"


@pytest.mark.parametrize("name", impala_mi.__all__)
def test_every_public_name_exists_and_is_documented(name):
    assert name in dir(impala_mi)
    assert getattr(impala_mi, name).__doc__.strip()


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'load_agents'"):
        impala_mi.load_agents  # noqa: B018


# -- acting ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("level", ["catch", "memory", "language", "CartPole-v1"])
def test_a_loop_of_steps_acts_exactly_as_evaluation_does(request, level, greedy):
    """Frames, words, previous actions, scaled rewards and samples are those of `play`, to the bit."""
    run = request.getfixturevalue("cartpole_run" if level == "CartPole-v1" else "tiny_run")
    agent = impala_mi.load_agent(run, seed=3)
    task = agent.levels.index(level)
    expected = []
    (episode,) = play(
        agent.network, agent.suite, 1, 3, greedy=greedy, levels=[task],
        on_step=lambda columns, inputs, action: expected.append((inputs, action.action)),
    )[task]  # fmt: skip

    seen, act = [], agent.network.act

    def spy(inputs, *args):
        action = act(inputs, *args)
        seen.append((inputs, action.action))
        return action

    agent.network.act = spy
    game = agent.suite.make_game(level)
    observation = game.reset(EpisodeSeeds(evaluation_root(3), level).take())
    state, reward, total, done = agent.initial_state(), 0.0, 0.0, False
    while not done:
        action, state = agent.step(observation, state, reward=reward, task=level, greedy=greedy)
        observation, reward, terminated, truncated = game.step(action)
        total, done = total + reward, terminated or truncated
    assert total == episode.return_
    assert len(seen) == len(expected) == episode.length
    for (inputs, action), (inputs_of_play, action_of_play) in zip(seen, expected, strict=True):
        for mine, theirs in zip(inputs, inputs_of_play, strict=True):
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype
        assert action == action_of_play


def random_observations(agent, count):
    frames = np.random.default_rng(0).integers(256, size=(count, 5, 5, 1)).astype(np.uint8)
    return [{"image": frame, "mission": f"go {k}"} for k, frame in enumerate(frames)]


def test_a_batch_acts_as_its_environments_would_alone(tiny_agent):
    tasks = ["catch", "memory", "language"]
    observations = [random_observations(tiny_agent, 3) for _ in range(4)]
    rewards = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    batch, alone = tiny_agent.initial_state(3), [tiny_agent.initial_state() for _ in range(3)]
    for t in range(4):
        stacked = {
            "image": np.stack([o["image"] for o in observations[t]]),
            "mission": tuple(o["mission"] for o in observations[t]),
        }
        actions, batch = tiny_agent.step(stacked, batch, reward=rewards[t], task=tasks, greedy=True)
        assert actions.shape == (3,)
        for k in range(3):
            action, alone[k] = tiny_agent.step(
                observations[t][k], alone[k], reward=rewards[t, k], task=tasks[k], greedy=True
            )
            assert isinstance(action, int)
            assert action == actions[k]
            np.testing.assert_allclose(
                alone[k].recurrent.hidden[0].numpy(), batch.recurrent.hidden[k].numpy(), atol=1e-6
            )


def test_first_starts_an_episode_in_its_rows_alone(tiny_agent):
    observation = {"image": np.full((2, 5, 5, 1), 255, np.uint8), "mission": "left"}
    _, state = tiny_agent.step(observation, tiny_agent.initial_state(2), task="catch")
    _, after = tiny_agent.step(
        observation, state, reward=[9.0, 9.0], first=np.array([True, False]), task="catch", greedy=True
    )
    _, fresh = tiny_agent.step(observation, tiny_agent.initial_state(2), task="catch", greedy=True)
    np.testing.assert_array_equal(after.recurrent.hidden[0].numpy(), fresh.recurrent.hidden[0].numpy())
    assert not np.array_equal(after.recurrent.hidden[1].numpy(), fresh.recurrent.hidden[1].numpy())


def test_a_state_stays_valid_after_a_step_from_it(tiny_agent):
    observation = {"image": np.full((5, 5, 1), 99, np.uint8), "mission": "left"}
    _, state = tiny_agent.step(observation, tiny_agent.initial_state(), task=0, greedy=True)
    kept = state.recurrent.hidden.clone(), state.last_action.copy()
    first = tiny_agent.step(observation, state, reward=1.0, task=0, greedy=True)
    again = tiny_agent.step(observation, state, reward=1.0, task=0, greedy=True)
    assert first[0] == again[0]
    assert first[1].recurrent.hidden.equal(again[1].recurrent.hidden)
    assert state.recurrent.hidden.equal(kept[0])
    assert (state.last_action == kept[1]).all()


def test_the_reward_matters_to_the_network(tiny_agent):
    observation = {"image": np.full((5, 5, 1), 99, np.uint8), "mission": ""}
    _, state = tiny_agent.step(observation, tiny_agent.initial_state(), task=0)
    (_, a), (_, b) = (tiny_agent.step(observation, state, reward=r, task=0) for r in (0.0, 1.0))
    assert not a.recurrent.hidden.equal(b.recurrent.hidden)


def test_samples_follow_the_seed(tiny_run):
    def actions(seed):
        agent = impala_mi.load_agent(tiny_run, seed=seed)
        observation = {"image": np.zeros((64, 5, 5, 1), np.uint8), "mission": ""}
        return agent.step(observation, agent.initial_state(64), task="catch")[0].tolist()

    assert actions(1) == actions(1)
    assert actions(1) != actions(2)
    assert len(set(actions(1))) > 1


def test_forms_of_an_observation(tiny_agent):
    frame = np.random.default_rng(0).integers(256, size=(5, 5, 1)).astype(np.uint8)

    def hidden(observation):
        _, state = tiny_agent.step(observation, tiny_agent.initial_state(), task="language")
        return state.recurrent.hidden.tolist()

    expected = hidden(Observation(frame, "go left"))
    assert hidden({"frame": frame, "instruction": "go left"}) == expected
    assert hidden({"direction": 3, "mission": "go left", "image": frame[..., 0]}) == expected  # a grey image
    assert hidden({"pixels": frame, "mission": "go right"}) != expected
    frame.flags.writeable = False
    assert hidden({"image": frame[::-1][::-1], "mission": "go left"}) == expected


@pytest.mark.slow
def test_a_gymnasium_loop_of_one_and_of_many_environments(cartpole_run):
    agent = impala_mi.load_agent(cartpole_run)
    env = gymnasium.make("CartPole-v1")
    state, reward, done, total = agent.initial_state(), 0.0, False, 0.0
    observation, _ = env.reset(seed=1)
    while not done:
        action, state = agent.step(observation, state, reward=reward, greedy=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, done = total + reward, terminated or truncated
    assert total >= 5
    mode = gymnasium.vector.AutoresetMode.SAME_STEP
    envs = gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
    state, reward, first = agent.initial_state(3), np.zeros(3), np.ones(3, bool)
    observation, _ = envs.reset(seed=1)
    ends = 0
    for _ in range(60):
        actions, state = agent.step(observation, state, reward=reward, first=first)
        observation, reward, terminated, truncated, _ = envs.step(actions)
        first = terminated | truncated
        ends += first.sum()
    assert ends >= 2


class Grid(gymnasium.Env):
    """Two actions in a world that is observed as an array of real numbers."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2, 3, 1, 1))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3, 1, 1), {}


def test_vectors_of_any_shape_are_flattened_as_in_training(tmp_path):
    gymnasium.register("Grid-v0", Grid)
    values = {"env": {"suite": "gym", "levels": ["Grid-v0"]}, "agent": {"torso": "mlp", "head": "shared"}}
    agent = impala_mi.load_agent(save_run(tmp_path, build("gym", values), 1.0))
    game = agent.suite.make_game("Grid-v0")
    trained, observed = game.reset(0).frame, Grid().reset()[0]
    assert (trained.shape, observed.shape) == ((6,), (2, 3, 1, 1))

    def hidden(observation, state):
        return agent.step(observation, state, greedy=True)[1].recurrent.hidden

    expected = hidden(trained, agent.initial_state())
    for shape in ((2, 3, 1, 1), (2, 3), (1, 6)):
        assert hidden(observed.reshape(shape), agent.initial_state()).equal(expected)
    batch = np.stack([observed, observed[::-1], observed])
    assert hidden(batch, agent.initial_state(3)).equal(hidden(batch.reshape(3, 6), agent.initial_state(3)))
    for refused, state in ((observed[:1], None), (batch.T, 3), (batch[:2], 3)):
        with pytest.raises(impala_mi.UserError, match=r"observation: a frame of shape"):
            agent.step(refused, agent.initial_state(state))


FRAME = np.zeros((5, 5, 1), np.uint8)
SEEN = {"image": FRAME, "mission": ""}


@pytest.mark.parametrize(
    ("observation", "options", "says"),
    [
        ({"image": FRAME[:4], "mission": ""}, {}, r"observation: .*\(4, 5, 1\).* takes \(5, 5, 1\) uint8"),
        ({"image": FRAME.astype(np.float32), "mission": ""}, {}, "observation: .*float32.* takes .*uint8"),
        ({"image": FRAME[None], "mission": ""}, {}, r"observation: .*\(1, 5, 5, 1\)"),
        ({"picture": FRAME, "mission": ""}, {}, "observation: no frame.* frame, image, pixels"),
        (FRAME, {}, "observation: no instruction.*instruction or mission"),
        ({"image": FRAME, "mission": 7}, {}, "observation: instruction 7"),
        (SEEN, {"task": None}, "task: the policy of agent.head='mi_task' .* one of catch, memory"),
        (SEEN, {"task": "chess"}, "task='chess': .*name or index, of catch, memory"),
        (SEEN, {"task": 5}, "task=5: .*name or index"),
        (SEEN, {"task": -1}, "task=-1: .*name or index"),
        (SEEN, {"task": ["catch", "memory"]}, "task=.*'catch', 'memory'.*: pass a level's name or index$"),
        (SEEN, {"task": 1.5}, "task=1.5: pass a level's name or index"),
        (SEEN, {"reward": [1.0, 2.0]}, r"reward=\[1.0, 2.0\]: pass a number"),
        (SEEN, {"reward": "much"}, "reward='much'"),
        (SEEN, {"first": None, "reward": None}, "reward=None"),
    ],
)
def test_what_a_step_refuses(tiny_agent, observation, options, says):
    with pytest.raises(impala_mi.UserError, match=says):
        tiny_agent.step(observation, tiny_agent.initial_state(), **{"task": "catch"} | options)


def test_a_batch_refuses_observations_of_another_number(tiny_agent):
    state = tiny_agent.initial_state(3)
    with pytest.raises(impala_mi.UserError, match="this state is of 3 environments"):
        tiny_agent.step({"image": np.zeros((2, 5, 5, 1), np.uint8), "mission": ""}, state, task="catch")
    with pytest.raises(impala_mi.UserError, match="or 3 of them"):
        tiny_agent.step({"image": np.zeros((3, 5, 5, 1), np.uint8), "mission": ["go", "left"]}, state, task="catch")
    for batch in (0, -1, 1.5, True):
        with pytest.raises(impala_mi.UserError, match=f"batch={batch}"):
            tiny_agent.initial_state(batch)


class Levers(gymnasium.Env):
    """Two levers of two and three positions; what was pulled is observed, and pays."""

    observation_space = gymnasium.spaces.Box(0.0, 3.0, (2,))
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.time += 1
        return action.astype(np.float32), float(action.sum()), False, self.time == 5, {}


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Levers-v0"])
def test_continuous_and_multi_discrete_actions_are_the_environments(tmp_path, env_id):
    if env_id not in gymnasium.registry:
        gymnasium.register(env_id, Levers)
    values = {"env": {"suite": "gym", "levels": [env_id]}, "agent": {"torso": "mlp", "head": "shared"}}
    agent = impala_mi.load_agent(save_run(tmp_path, build("gym", values), 1.0))
    env, envs = gymnasium.make(env_id), gymnasium.make_vec(env_id, 3, vectorization_mode="sync")
    state, batch = agent.initial_state(), agent.initial_state(3)
    observation, _ = env.reset(seed=1)
    observations, _ = envs.reset(seed=1)
    for greedy in (False, True, False, True):
        action, state = agent.step(observation, state, greedy=greedy)
        assert env.action_space.contains(action)
        observation, *_ = env.step(action)
        actions, batch = agent.step(observations, batch, greedy=greedy)
        assert envs.action_space.contains(actions)
        observations, *_ = envs.step(actions)
    assert state.last_action.shape == (1, *env.action_space.shape)


@pytest.mark.parametrize("core", ["feedforward", "mlstm"])
def test_any_recurrent_state(tmp_path, core):
    agent = impala_mi.load_agent(save_run(tmp_path, tiny_config(f"agent.core={core}"), 1.0))
    state = agent.initial_state(2)
    for _ in range(3):
        actions, state = agent.step({"image": np.zeros((2, 5, 5, 1), np.uint8), "mission": "go"}, state)
    assert actions.shape == (2,)
    (first, _), (second, _) = (play(agent.network, agent.suite, 2, 1, greedy=True)[:2] for _ in range(2))
    assert first == second


def test_an_agent_that_learns_its_context_acts_without_a_task(tmp_path):
    agent = impala_mi.load_agent(save_run(tmp_path, tiny_config(), 1.0))
    action, _ = agent.step(SEEN, agent.initial_state())
    assert action in range(3)


# -- loading ---------------------------------------------------------------------------------------


def test_which_checkpoint_is_loaded(tiny_run, tmp_path):
    assert impala_mi.load_agent(tiny_run).checkpoint == f"{1:015d}"
    assert impala_mi.load_agent(str(tiny_run), "last").checkpoint == f"{2:015d}"
    assert impala_mi.load_agent(tiny_run, f"{0:015d}").checkpoint == f"{0:015d}"
    with pytest.raises(impala_mi.UserError, match="no checkpoint '7'"):
        impala_mi.load_agent(tiny_run, "7")
    with pytest.raises(impala_mi.UserError, match="there is no such folder"):
        impala_mi.load_agent(tmp_path / "nowhere")


def test_without_a_score_the_last_checkpoint_is_loaded_with_a_warning(tmp_path):
    run = save_run(tmp_path / "scoreless", tiny_config(), None, None)
    with pytest.warns(UserWarning, match="no best checkpoint"):
        assert impala_mi.load_agent(run).checkpoint == f"{1:015d}"
    empty = save_run(tmp_path / "empty", tiny_config())
    with pytest.raises(impala_mi.UserError, match="no checkpoint in"):
        impala_mi.load_agent(empty)


@pytest.mark.parametrize("override", ["agent.core_width=64", "env.suite=doom", "env.dmlab.held_out=true"])
@pytest.mark.parametrize("function", [impala_mi.load_agent, impala_mi.evaluate])
def test_only_the_keys_of_a_machine_can_be_overridden(tiny_run, function, override):
    with pytest.raises(impala_mi.UserError, match=rf"{override}.: only env\.dmlab\.\(renderer\|.*human_sc"):
        function(tiny_run, overrides=[override])


# -- evaluating, training --------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluate_scores_every_level_the_same_way_under_a_seed(tiny_run):
    result = impala_mi.evaluate(tiny_run, episodes=4, against_random=True)
    assert isinstance(result, impala_mi.Evaluation)
    assert [row.level for row in result.levels] == impala_mi.load_agent(tiny_run).levels
    assert all(row.agent.episodes == row.random.episodes == 4 for row in result.levels)
    assert result.as_dict() == impala_mi.evaluate(tiny_run, episodes=4, against_random=True).as_dict()
    sampled, greedy = (impala_mi.evaluate(tiny_run, episodes=30, greedy=g).as_dict() for g in (False, True))
    assert sampled != greedy
    assert greedy == impala_mi.evaluate(tiny_run, episodes=30, greedy=True).as_dict()


@pytest.mark.slow
def test_the_commands_act_greedily(tiny_run):
    where = {"cwd": tiny_run.parent}
    done = impala("eval", "a", "--checkpoint", "best", "--episodes", "30", "--greedy", **where)
    assert done.returncode == 0, done.stderr
    (file,) = (tiny_run / "eval").glob("*-greedy.json")
    written = json.loads(file.read_text())
    assert written["greedy"]
    assert written["levels"] == impala_mi.evaluate(tiny_run, episodes=30, greedy=True).as_dict()["levels"]
    for command in (("tsne", "--episodes", "3"), ("video", "--level", "catch")):
        done = impala(command[0], "a", *command[1:], "--greedy", **where)
        assert done.returncode == 0, done.stderr
    assert list((tiny_run / "tsne").glob("*-greedy.npz"))
    assert [file.name for file in (tiny_run / "videos").iterdir()] == [f"{2:015d}-catch-greedy-1.mp4"]


def test_what_evaluate_refuses(tiny_run):
    with pytest.raises(impala_mi.UserError, match="cannot act without it"):
        impala_mi.evaluate(tiny_run, task_ids=False)
    with pytest.raises(impala_mi.UserError, match="episodes=0"):
        impala_mi.evaluate(tiny_run, episodes=0)


def test_a_torso_of_the_task_needs_the_task(tmp_path):
    config = tiny_config("agent.head=shared", "agent.torso_conditioning=task")
    run = save_run(tmp_path, config, 1.0)
    says = "the policy of agent.torso_conditioning='task' is computed from the task"
    with pytest.raises(impala_mi.UserError, match=f"without task IDs: {says} ID and cannot act without it"):
        impala_mi.evaluate(run, task_ids=False)
    agent = impala_mi.load_agent(run)
    with pytest.raises(impala_mi.UserError, match=f"task: {says}; pass one of catch, memory"):
        agent.step(SEEN, agent.initial_state())
    assert agent.step(SEEN, agent.initial_state(), task="catch")[0] in range(3)


@pytest.mark.parametrize(
    ("config", "overrides", "says"),
    [
        ("nowhere", [], "neither a file nor one of the shipped"),
        (7, [], "config=7: pass a YAML file"),
        ({"train": {"env_frames": 0}}, [], "train.env_frames=0"),
        ({"trian": {}}, [], "unknown key 'trian'"),
        ({}, ["learner.batchsize=3"], "did you mean 'learner.batch_size'"),
        (Config(), ["seed=-1"], "seed=-1"),
        ("cartpole", "seed=2", "overrides='seed=2': pass a list"),
        ("cartpole", ["agent.torso=shallow"], "use agent.torso=mlp"),
    ],
)
def test_what_train_refuses_before_anything_starts(tmp_path, monkeypatch, config, overrides, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(impala_mi.UserError, match=says):
        impala_mi.train(config, overrides)
    assert list(tmp_path.iterdir()) == []


def test_train_changes_no_mapping_and_names_runs_by_their_configuration():
    values = {"learner": {"batch_size": 32}}
    name, config = api._settings(values, ["learner.batch_size=64"])
    assert (name, config.learner.batch_size) == ("run", 64)
    assert values == {"learner": {"batch_size": 32}}
    assert api._settings("configs/cartpole.yaml", [])[0] == "cartpole"
    assert api._settings(config, ["seed=9"])[1] == config.model_copy(update={"seed": 9})


@pytest.mark.integration
def test_a_run_from_train_to_its_numbers(tmp_path):
    records = []
    settings = {
        "run": {"root": str(tmp_path), "name": "a"},
        "env": {"suite": "tiny"},
        "agent": {"torso": "mlp", "core_width": 32, "context_width": 8},
        "actors": {"count": 1, "envs": 5},
        "learner": {"unroll_length": 20, "batch_size": 5, "optimizer": "adam", "epsilon": 1e-6},
        "train": {"log_every_s": 0.2},
    }
    result = impala_mi.train(settings, ["train.env_frames=4000"], report=records.append)
    assert isinstance(result, impala_mi.Result)
    assert (result.status, result.counters.env_frames, result.run) == ("done", 4000, tmp_path / "a")
    assert records[-1]["env_frames"] == 4000
    agent = impala_mi.load_agent(result.run, "last")
    assert agent.checkpoint == result.checkpoint.name
    assert len(impala_mi.evaluate(result.run, "last", episodes=2).levels) == 5
    run = impala_mi.read_run(result.run)
    assert run.metrics["env_frames"][-1] == 4000
    assert run.checkpoints[-1] == result.checkpoint.name
    with pytest.raises(impala_mi.UserError, match="exists; continue it with"):
        impala_mi.train(settings)
