"""A student spread over processes: the gradients, weights, states and files of one that is not."""

import os
import signal
from dataclasses import replace

import pytest
import torch

from t3d.distillation import losses, trainer
from t3d.distillation.batches import micro_batches
from t3d.distributed import collectives, fsdp
from t3d.distributed.checkpoints import Checkpoints
from t3d.models import packed
from tests.conftest import SHAPES, tiny_model
from tests.started import error_of
from tests.training import setting

# Of 8 rows in micro-batches of 2, three processes have 2, 1 and 1.
MICRO = {"micro_batch_size": 2}
JOB = setting("t3d", **MICRO)


def gathered(tensors):
    """Whole tensors in numpy (which pipes carry without leave of the operating system), the same in all processes."""
    found = (t.full_tensor() if hasattr(t, "full_tensor") else t for t in tensors)
    return torch.cat([tensor.detach().flatten() for tensor in found]).numpy()


def trained(job, checkpoints=None, **model):
    student = tiny_model(**model)
    log = trainer.train(student, job, checkpoints)
    return log, gathered(student.parameters())


@pytest.fixture(scope="module")
def alone():
    """What one process trains."""
    return trained(JOB)


@pytest.fixture(scope="module")
def unbroken(in_processes):
    """What two processes train that are left alone, in each of them."""
    return in_processes(lambda _: trained(JOB))


def equal(ours, theirs):
    """Whether all processes have the same log and weights, bit for bit."""
    return all(a[0] == b[0] and (a[1] == b[1]).all() for a, b in zip(ours, theirs, strict=True))


def assert_close(ours, theirs):
    """The same log and weights up to the order of sums."""
    for one, other in zip(ours[0], theirs[0], strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    torch.testing.assert_close(torch.from_numpy(ours[1]), torch.from_numpy(theirs[1]), rtol=1e-5, atol=1e-5)


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
    ("name", "tied", "recomputed"),
    [
        ("naive_td", True, False),
        ("t3d", False, False),
        ("t3d", True, True),
        ("dparallel", False, True),
    ],
)
def test_gradients_are_those_of_unsharded_processes_bit_for_bit(in_processes, name, tied, recomputed):
    """And to 1e-5 those of one process, which adds the micro-batches up in another order."""
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


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_processes_trains_the_same_student_on_the_same_states(in_processes, monkeypatch, count):
    """Log and weights to 1e-5, after three rounds of two steps."""
    seen = []
    compute = losses.compute

    def watching(objective, student, reference, batch, steps):
        seen.append((*batch.ids, batch.noisy_input.numpy().tobytes()))
        return compute(objective, student, reference, batch, steps)

    monkeypatch.setattr(losses, "compute", watching)
    alone = trained(JOB)
    states = seen.copy()
    assert len(states) == 6 * 4

    def run(_):
        seen.clear()
        return *trained(JOB), seen

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


def test_the_reference_is_the_student_of_the_round(in_processes):
    """Its head stays gathered after a pass, and must be gathered anew when its weights have changed."""
    job = setting("t3d", steps=4, **MICRO)

    def run(_):
        return trainer.train(tiny_model(), job)

    for log in in_processes(run):
        for entry in (log[0], log[2]):
            assert entry["real_term"] == pytest.approx(0.693147, abs=1e-5)
        assert log[1]["real_term"] != pytest.approx(0.693147, abs=1e-7)


def test_qwen2s_layers_are_spread_alike(in_processes):
    """Two processes and one end with the same weights, up to the order of sums; biases are trained."""
    student = tiny_model(**SHAPES["qwen2"])
    before = student.model.layers[0].self_attn.q_proj.bias.detach().clone()
    alone = trainer.train(student, JOB), gathered(student.parameters())
    assert_close(in_processes(lambda _: trained(JOB, **SHAPES["qwen2"]))[0], alone)
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


def resumed(folder):
    """Train with the states in `folder`; the main process cleans it before the others look."""
    with collectives.raise_on_all_ranks():
        checkpoints = Checkpoints(folder, "recipe")
    return trained(JOB, checkpoints)


def dying(monkeypatch, step, count, in_processes, folder):
    """Kill all processes at the beginning of a step."""
    original = trainer._step

    def dies(*given):
        if given[-1] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_step", dies)
        if count > 1:
            assert in_processes(lambda _: resumed(folder), count) == [None] * count
        else:
            patch.setattr(trainer, "_step", lambda *given: original(*given) if given[-1] < step else 1 / 0)
            with pytest.raises(ZeroDivisionError):
                resumed(folder)


@pytest.mark.parametrize("killed", [1, 3])
def test_a_killed_and_resumed_run_ends_bitwise_equal(in_processes, unbroken, monkeypatch, tmp_path, killed):
    dying(monkeypatch, killed, 2, in_processes, tmp_path)
    again = in_processes(lambda _: resumed(tmp_path))
    assert equal(unbroken, again)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3), (3, 2)])
def test_another_number_of_processes_goes_on(in_processes, alone, monkeypatch, tmp_path, before, after):
    """Weights to 1e-5 those of one process from the beginning, from whose state they go on exactly."""
    dying(monkeypatch, 5, before, in_processes, tmp_path)
    stored = sorted(path.name for path in tmp_path.glob("step-*.pt"))
    of = [""] if before == 1 else [f".{rank}-of-{before}" for rank in range(before)]
    assert stored == [f"step-000000{step}{part}.pt" for step in (2, 4) for part in of]
    monkeypatch.setattr(trainer, "_say", (said := []).append)
    found, *_ = in_processes(lambda _: resumed(tmp_path), after) if after > 1 else [resumed(tmp_path)]
    assert after > 1 or said == ["distill: resuming after step 4"]
    assert_close(found, alone)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("moment", ["half written", "replaced"])
def test_a_process_that_is_killed_while_a_state_is_written_costs_that_state_alone(
    in_processes, unbroken, monkeypatch, tmp_path, victim, moment
):
    save, replace = torch.save, os.replace

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def saves(state, file):
        here = collectives.rank() == victim and state["step"] == 4
        if here and moment == "half written":
            file.write(b"half")
            die()
        save(state, file)

    def replaces(partial, path):
        replace(partial, path)
        if collectives.rank() == victim and "step-0000004" in path.name:
            die()

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", saves)
        if moment == "replaced":
            patch.setattr(os, "replace", replaces)
        assert None in in_processes(lambda _: resumed(tmp_path))
    assert {"step-0000002.0-of-2.pt", "step-0000002.1-of-2.pt"} <= {path.name for path in tmp_path.iterdir()}
    again = in_processes(lambda _: resumed(tmp_path))
    assert equal(unbroken, again)


def test_a_torn_part_costs_its_state_alone(in_processes, unbroken, monkeypatch, tmp_path):
    dying(monkeypatch, 5, 2, in_processes, tmp_path)
    (tmp_path / "step-0000004.1-of-2.pt").write_bytes(b"torn")
    again = in_processes(lambda _: resumed(tmp_path))
    assert equal(unbroken, again)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("after", [1, 2])
def test_one_flipped_bit_in_any_part_costs_its_state_alone(in_processes, unbroken, monkeypatch, tmp_path, rank, after):
    """Also where a single process reads the parts of two."""
    dying(monkeypatch, 5, 2, in_processes, tmp_path)
    part = tmp_path / f"step-0000004.{rank}-of-2.pt"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 4
    part.write_bytes(content)
    if after == 2:
        assert equal(unbroken, in_processes(lambda _: resumed(tmp_path)))
    else:
        assert Checkpoints(tmp_path, "recipe").latest()["step"] == 2
        assert not list(tmp_path.glob("step-0000004*"))


def test_a_full_disk_in_one_process_is_one_message_and_keeps_the_last_state(in_processes, monkeypatch, tmp_path):
    save = torch.save

    def full(state, file):
        if collectives.rank() == 1 and state["step"] == 4:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        main, other = in_processes(lambda _: error_of(resumed, tmp_path))
    assert main.startswith(f"TrainingError: cannot write the training state {tmp_path}/step-0000004.1-of-2.pt: ")
    assert "No space left on device. The last good state is kept" in main
    assert other == "SystemExit: 0"
    assert Checkpoints(tmp_path, "recipe").latest()["step"] == 2


def test_processes_that_see_different_folders_are_told(in_processes, tmp_path):
    def run(rank):
        checkpoints = Checkpoints(tmp_path / str(rank), "recipe")
        if rank == 0:
            torch.save({"step": 2}, tmp_path / "0" / "step-0000002.pt")
        return error_of(checkpoints.latest)

    main, other = in_processes(run)
    assert "one process reads the state of step 2, another that of step 0. Every node must see this folder" in main
    assert other == "SystemExit: 0"


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
