import re

import pytest
import torch

from impala_mi.config import AgentConfig
from impala_mi.errors import UserError
from impala_mi.nn.heads import HEADS, ContextOutput, Head, HeadSpec, PerTaskOutput, context_mlp, task_settings
from impala_mi.nn.multiplicative import Multiplicative

H, A, K = 16, 5, 4


def make(head: str, conditioned: str = "both") -> Head:
    return Head(AgentConfig(head=head, conditioned=conditioned, core_width=H, context_width=8), A, K)


def test_mi_with_a_one_hot_context_is_a_head_per_task_plus_a_shared_one():
    one_hot = ContextOutput(Multiplicative(H, K, A)).double()
    for p in one_hot.parameters():
        torch.nn.init.normal_(p)
    per_task = PerTaskOutput(H, A, K).double()
    layer = one_hot.layer
    with torch.no_grad():  # task i: W_i + V and U_i + b
        per_task.linear.weight.copy_((layer.W.transpose(1, 2) + layer.V).reshape(K * A, H))
        per_task.linear.bias.copy_((layer.U + layer.b).reshape(-1))
    h, level = torch.randn(20, H).double(), torch.randint(0, K, (20,))
    context = torch.eye(K).double()[level]
    torch.testing.assert_close(one_hot(h, level, context), per_task(h, level, None))


NEEDS_TASK = [name for name, spec in HEADS.items() if spec.needs_task]


def test_properties_of_the_shipped_heads():
    contexts = ["mi_context", "concat_context", "film_context", "low_rank_context", "hyper_context"]
    tasks = ["concat", "mi_task", "film_task", "low_rank_task", "hyper_task"]
    assert set(HEADS) == {"shared", "per_task", *contexts, *tasks}
    assert set(NEEDS_TASK) == {"per_task", *tasks}
    generating = {name for name, spec in HEADS.items() if spec.generates_weights}
    assert generating == {*contexts, *tasks} - {"concat", "concat_context"}
    assert not task_settings(AgentConfig(head="mi_task", conditioned="value"))
    head = "agent.head='mi_task' with agent.conditioned='policy'"
    assert task_settings(AgentConfig(head="mi_task", conditioned="policy")) == head
    torso = "agent.torso_conditioning='task'"
    assert task_settings(AgentConfig(head="shared", torso_conditioning="task")) == torso
    both = AgentConfig(head="mi_task", conditioned="policy", torso_conditioning="task")
    assert task_settings(both) == f"{head} and {torso}"
    assert task_settings(AgentConfig(head="shared", torso_conditioning="instruction")) is None


@pytest.mark.parametrize("head", NEEDS_TASK)
def test_the_task_id_decides(head):
    module, h = make(head), torch.randn(1, H).expand(K, H)
    logits, value = module(h, torch.arange(K))
    assert len({tuple(row.tolist()) for row in logits}) == K
    assert len(set(value.tolist())) == K


@pytest.mark.parametrize("head", [name for name in HEADS if name not in NEEDS_TASK])
def test_heads_that_do_not_read_the_task_id(head):
    module, h = make(head).eval(), torch.randn(6, H)
    told = module(h, torch.randint(0, K, (6,)))
    untold = module(h, None)
    torch.testing.assert_close(told.logits, untold.logits)
    torch.testing.assert_close(told.value, untold.value)


@pytest.mark.parametrize("head", NEEDS_TASK)
def test_without_task_ids(head):
    h = torch.randn(6, H)
    for conditioned in ("both", "policy"):
        with pytest.raises(ValueError, match="without"):
            make(head, conditioned).eval()(h, None)
    logits, value = make(head, "value").eval()(h, None)  # acting needs no value
    assert logits.isfinite().all()
    assert value.isnan().all()


@pytest.mark.parametrize(("conditioned", "same"), [("policy", "value"), ("value", "logits")])
def test_only_the_conditioned_output_sees_the_task(conditioned, same):
    out = make("mi_task", conditioned)(torch.randn(1, H).expand(K, H), torch.arange(K))
    assert torch.allclose(getattr(out, same), getattr(out, same)[:1].expand_as(getattr(out, same)))
    other = out.value if same == "logits" else out.logits
    assert not torch.allclose(other, other[:1].expand_as(other))


def test_one_task():
    config = AgentConfig(head="mi_task", core_width=H, context_width=8)
    logits, value = Head(config, A, 1)(torch.randn(3, H), torch.zeros(3, dtype=torch.long))
    assert logits.shape == (3, A)
    assert value.shape == (3,)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_starts_with_outputs_of_the_scale_of_a_linear_layers(name):
    """The second moment is 1/3 for unit features, whatever the head; the mean is over heads, as contexts differ."""
    config = AgentConfig(head=name, core_width=64, context_width=32)
    h, level = torch.randn(64, 64), torch.arange(64) % K
    # A learnt context expects an LSTM's small outputs: see `LearntContext`.
    moments = []
    for _ in range(30):
        head = Head(config, 20, K)
        context = None if head.context is None else head.context(h / 40**0.5, level)
        moments.append(head.policy(h, level, context).square().mean().item())
    assert sum(moments) / 30 == pytest.approx(1 / 3, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("width", [8, 128])
def test_contexts_start_with_a_second_moment_of_one(width):
    for inputs, x in ((50, torch.eye(50)), (256, torch.randn(50, 256))):
        norm2 = x.square().sum(1).mean().item()
        moments = [context_mlp(inputs, width, norm2)(x).square().mean().item() for _ in range(300)]
        assert sum(moments) / 300 == pytest.approx(1.0, rel=0.2)


def test_what_is_generated():
    h, level = torch.randn(6, H), torch.randint(0, K, (6,))
    for name, spec in HEADS.items():
        assert set(make(name).vectors(h, level)) == (
            {"context", "policy", "value"} if spec.generates_weights else set()
        )
    assert set(make("mi_task", "value").vectors(h, level)) == {"context", "value"}


@pytest.mark.parametrize("name", [name for name, spec in HEADS.items() if spec.generates_weights])
def test_generated_weights_are_the_policys(name):
    h, level = torch.randn(6, H), torch.randint(0, K, (6,))
    head = make(name)
    vectors = head.vectors(h, level)
    assert vectors["context"].shape == (6, 8)
    weight, bias = vectors["policy"].unflatten(1, (A, H)), head.policy.layer.generate(vectors["context"]).bias
    torch.testing.assert_close((weight @ h.unsqueeze(-1)).squeeze(-1) + bias, head(h, level).logits)


def test_a_concatenated_context_shifts_the_output():
    """The paper's baseline W [h; z] + b: tasks differ by a constant, whatever h is."""
    head, h = make("concat"), torch.randn(7, H)
    outputs = [head(h, torch.full((7,), k)).logits for k in range(K)]
    for other in outputs[1:]:
        shift = other - outputs[0]
        torch.testing.assert_close(shift, shift[:1].expand_as(shift))
        assert shift.abs().max() > 1e-3
    context = head.context(h, torch.zeros(7, dtype=torch.long))
    linear = head.policy.layer.linear
    torch.testing.assert_close(outputs[0], torch.cat([h, context], 1) @ linear.weight.T + linear.bias)


OWN = HeadSpec(HEADS["shared"].output)


def test_names_of_heads():
    assert Head(AgentConfig(head=f"{__name__}:OWN", core_width=H), A, K).spec is OWN
    for name, message in (
        ("mi_taks", "agent.head='mi_taks': no such entry; there are shared, per_task, concat, mi_task, mi_context"),
        ("no_module:HEAD", "cannot be imported: ModuleNotFoundError"),
        (f"{__name__}:H", "is a int, not a HeadSpec"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            make(name)
