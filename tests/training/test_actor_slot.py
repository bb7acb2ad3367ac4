import pytest

from impala_mi.training.actor_slot import NEXT_PHASES, ActorSlot, Phase


def test_phases_follow_the_table_and_fields_belong_to_phases():
    for before, allowed in NEXT_PHASES.items():
        for after in Phase:
            state = ActorSlot(0, phase=before)
            if after in allowed:
                state.enter(after, 1.0)
                assert (state.phase, state.since) == (after, 1.0)
            else:
                with pytest.raises(RuntimeError, match=f"{before.name} to {after.name}"):
                    state.enter(after, 1.0)
    state = ActorSlot(0)
    state.enter(Phase.STARTING, 0, process="process", answer="ref")
    state.enter(Phase.IDLE, 0, node="node")
    assert (state.process, state.answer, state.node) == ("process", None, "node")
    state.enter(Phase.PLAYING, 0, answer="info", data="data", worker="worker")
    state.enter(Phase.BACKING_OFF, 0, retry_at=5.0)
    assert (state.process, state.node, state.answer, state.data, state.worker) == (None,) * 5
    with pytest.raises(RuntimeError, match="retry_at"):
        state.enter(Phase.STARTING, 0, retry_at=5.0)
