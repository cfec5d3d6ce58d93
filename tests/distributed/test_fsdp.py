"""A student spread over processes: the gradients, weights, states and files of one that is not."""

from dataclasses import replace

import pytest
import torch

from t3d.distillation import losses, trainer
from t3d.distillation.batches import micro_batches
from t3d.distributed import fsdp
from t3d.models import packed
from tests.conftest import SHAPES, tiny_model
from tests.training import MICRO, SPREAD, assert_close, gathered, setting, trained


def first_gradient(job, **model):
    """The gradient of the first step as it is before it is clipped."""
    found = []
    clip = fsdp.clip

    def watching(parameters, limit):
        parameters = list(parameters)
        found.append(gathered(parameter.grad for parameter in parameters))
        return clip(parameters, limit)

    fsdp.clip = watching
    try:
        trainer.train(tiny_model(**model), job)
    finally:
        fsdp.clip = clip
    return torch.from_numpy(found[0])


@pytest.mark.parametrize(
    ("name", "tied", "recomputed", "once"),
    [
        ("naive_td", True, False, True),
        ("t3d", False, False, False),
        ("t3d", True, True, True),
        ("dparallel", False, True, True),
    ],
)
def test_gradients_are_those_of_unsharded_processes_bit_for_bit(
    in_processes, monkeypatch, name, tied, recomputed, once
):
    """And to 1e-5 those of one process, which adds the micro-batches up in another order."""
    monkeypatch.setattr(fsdp, "gathered_once", lambda *_: once)
    job = setting(name, steps=2, recompute_activations=recomputed, **MICRO)
    shape = {"tie_word_embeddings": tied}
    parts = []
    for rank in (0, 1):
        student, reference = tiny_model(**shape), tiny_model(**shape).requires_grad_(False)
        for batch in micro_batches(job, 0, rank, 2):
            loss, _ = losses.compute(job.student.objective, student, reference, batch, 4)
            (loss * 0.25).backward()
        parts.append(torch.cat([parameter.grad.flatten() for parameter in student.parameters()]))
    of_two = in_processes(lambda _: first_gradient(job, **shape).numpy())
    for found in of_two:
        assert torch.equal(torch.from_numpy(found), parts[0] + parts[1])
    one = first_gradient(job, **shape)
    assert one.abs().max() > 1e-3
    torch.testing.assert_close(torch.from_numpy(of_two[0]), one, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("once", "gathers"), [(True, 2 * 3), (False, 4 * 5)])
def test_weights_are_gathered_once_a_step_where_there_is_room(in_processes, monkeypatch, once, gathers):
    """Two steps of two micro-batches: the root's weights forward alone, those of two layers also backward."""
    monkeypatch.setattr(fsdp, "gathered_once", lambda *_: once)

    def run(_):
        with torch.profiler.profile() as profiler:
            trainer.train(tiny_model(), setting("naive_td", steps=2, **MICRO))
        return sum(event.count for event in profiler.key_averages() if event.key == "c10d::_allgather_base_")

    assert in_processes(run)[0] == gathers


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_processes_trains_the_same_student_on_the_same_states(in_processes, monkeypatch, count):
    """Log and weights to 1e-5, after three rounds of two steps."""
    seen = []
    compute = losses.compute

    def watching(objective, student, reference, batch, steps):
        seen.append((*batch.ids, batch.noisy_input.numpy().tobytes()))
        return compute(objective, student, reference, batch, steps)

    monkeypatch.setattr(losses, "compute", watching)
    alone = trained(SPREAD)
    states = seen.copy()
    assert len(states) == 6 * 4

    def run(_):
        seen.clear()
        return *trained(SPREAD), seen

    found = in_processes(run, count)
    for theirs, values, _ in found:
        assert [entry["step"] for entry in theirs] == [1, 2, 3, 4, 5, 6]
        assert_close((theirs, values), alone)
    passes = -(-4 // count)
    for step in range(6):
        theirs = [seen[step * passes : (step + 1) * passes] for *_, seen in found]
        assert {len(each) for each in theirs} == {passes}
        # Whoever has a micro-batch less repeats its own.
        assert {state for each in theirs for state in each} == set(states[step * 4 : (step + 1) * 4])


def test_packed_rows_are_spread_alike(in_processes, monkeypatch):
    # Compiling takes a CPU a minute, and is for a GPU to try.
    monkeypatch.setattr(packed, "compile_layers", lambda _: None)
    job = replace(setting("t3d", steps=3, recompute_activations=True, **MICRO), packed=True)
    alone = trained(job)
    for found in in_processes(lambda _: trained(job)):
        assert_close(found, alone)


def test_each_process_holds_its_part(in_processes):
    def run(_):
        model = tiny_model(tie_word_embeddings=False)
        fsdp.shard(model, "cpu")
        reference = fsdp.frozen_copy(model, "cpu")
        return [sum(p.to_local().numel() for p in m.parameters()) for m in (model, reference)]

    size = sum(parameter.numel() for parameter in tiny_model(tie_word_embeddings=False).parameters())
    # 97 tokens are 49 + 48.
    for part, reference in in_processes(run):
        assert part == reference
        assert part == pytest.approx(size / 2, rel=0.01)


def test_qwen2s_layers_are_spread_alike(in_processes):
    """Two processes and one end with the same weights, up to the order of sums; biases are trained."""
    student = tiny_model(**SHAPES["qwen2"])
    before = student.model.layers[0].self_attn.q_proj.bias.detach().clone()
    alone = trainer.train(student, SPREAD), gathered(student.parameters())
    assert_close(in_processes(lambda _: trained(SPREAD, **SHAPES["qwen2"]))[0], alone)
    assert (student.model.layers[0].self_attn.q_proj.bias != before).all()


@pytest.mark.parametrize("tied", [True, False])
def test_the_whole_student_is_in_the_main_process(in_processes, tmp_path, tied):
    """Saved, it is the folder that an unsharded one would be."""

    def run(rank):
        model = tiny_model(tie_word_embeddings=tied)
        fsdp.shard(model, "cpu")
        found = fsdp.gather_full_model(model)
        if rank == 0:
            found.save_pretrained(tmp_path / "spread")
        return str({parameter.device.type for parameter in found.parameters()})

    assert in_processes(run) == ["{'cpu'}", "{'meta'}"]
    fsdp.gather_full_model(tiny_model(tie_word_embeddings=tied)).save_pretrained(tmp_path / "plain")
    names = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert "model.safetensors" in names
    for name in names:
        assert (tmp_path / "spread" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name


def test_a_state_says_what_was_learned_and_not_which_kernel_learned_it():
    model = tiny_model()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    saved = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    saved.step()
    fresh = torch.optim.AdamW(model.parameters(), lr=2e-3)
    fsdp.load_optimizer(fresh, fsdp.to_local(saved.state_dict()))
    assert fresh.param_groups[0]["fused"] is None
    for parameter in model.parameters():
        assert torch.equal(fresh.state[parameter]["exp_avg"], saved.state[parameter]["exp_avg"])
