"""A small population, and what its journal and its members say of each other."""

from impala_mi.pbt.journal import Journal, disagreements, read
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.folder import RunFolder
from tests.integration.session import TINY

RATE, COST = "learner.learning_rate", "learner.entropy_cost"
POPULATION = TINY | {
    "env": {"suite": "tiny", "levels": ["catch", "always_left"]},
    "actors": {"count": 1, "envs": 10},
    "pbt": {
        "members": 2, "concurrent": 2, "slice_s": 4.0, "burn_in_frames": 0, "ready_episodes": 400, "threshold": 0.0,
        "probability": 1.0, "space": {RATE: {"log_uniform": [1e-5, 1e-2]}, COST: {"log_uniform": [1e-3, 1e-1]}},
    },
}  # fmt: skip


def journal(session):
    folder = session.folder / "runs" / "p"
    return read(folder) if (folder / "pbt.jsonl").exists() else []


def count(session, event):
    return sum(line["event"] == event for line in journal(session))


def consistent(session):
    """Every member is what the journal says, whole."""
    folder = session.folder / "runs" / "p"
    lines = journal(session)
    assert disagreements(lines) == []
    histories = Journal(folder).members
    for key, history in histories.items():
        run = RunFolder(folder / "members" / key)
        saved = checkpoints.load(run.checkpoints)
        state = saved.run["member"]
        assert history.open is None
        assert (state["generation"], state["parameters"]) == (history.generation, history.parameters)
        learner = run.config.learner
        assert {RATE: learner.learning_rate, COST: learner.entropy_cost} == history.parameters
    return histories
