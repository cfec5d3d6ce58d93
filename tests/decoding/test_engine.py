"""The engine writes what the plain decoder writes: tokens, steps, confidences, whatever the batch."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from t3d.decoding import attention, engine, memory
from t3d.decoding.request import Request
from t3d.errors import DecodingError, MemoryTooSmallError
from t3d.models.folder import mask_id, stop_ids
from t3d.params import Sampling
from t3d.prompts.reader import encode_prompt
from tests.conftest import SHAPES, SHIPPED, tiny_model
from tests.decoding.small import DYNAMIC, MANY_STOPS, STATIC, requests, run


def both(model, items, budget, batch_size=3, **kwargs):
    plain = run(model, items, budget, engine=False, **kwargs)
    return plain, run(model, items, budget, engine=True, batch_size=batch_size, **kwargs)


def assert_same(plain, fast):
    assert len(plain) == len(fast)
    for one, other in zip(plain, fast, strict=True):
        assert one.confidence == pytest.approx(other.confidence, rel=1e-4, abs=1e-6)
        assert replace(one, confidence=other.confidence) == other


@pytest.mark.parametrize(
    ("shape", "budget"),
    [*(("qwen3", budget) for budget in (*STATIC, *DYNAMIC)), *(("qwen2", b) for b in ("b1s1", "b4s2", "b8t0.3"))],
)
def test_the_engine_writes_what_the_plain_decoder_writes(shape, budget):
    model = tiny_model(**SHAPES[shape])
    plain = run(model, requests(11), budget, engine=False)
    for count, batch_size in ((4, 1), (11, 4), (11, 32)):
        assert_same(plain[:count], run(model, requests(11)[:count], budget, engine=True, batch_size=batch_size))


@pytest.mark.parametrize(
    "sample",
    [
        Sampling(temperature=0.7),
        Sampling(temperature=0.7, confidence="tempered", top_k=5),
        Sampling(temperature=1.0, top_p=0.9),
        Sampling(prompt_guard=False),
    ],
    ids=["temperature", "tempered", "nucleus", "no guard"],
)
@pytest.mark.parametrize("budget", ["b4s2", "b8s3", "b4t0.9"])
def test_every_way_of_drawing(model, budget, sample):
    assert_same(*both(model, requests(9), budget, sample=sample))


@pytest.mark.parametrize("engine", [False, True])
@pytest.mark.parametrize(("budget", "temperature"), [("b4s2", 0.0), ("b8s1", 0.7), ("b4t0.9", 0.7)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_model_that_computes_no_numbers_stops_with_the_item(engine, budget, temperature, value):
    """One prompt of five holds a token whose embedding is damaged; the others decode."""
    model, odd = tiny_model(tie_word_embeddings=False), 7
    items = [
        Request([token if token != odd else 8 for token in item.prompt_ids], item.seed, f"q{number}")
        for number, item in enumerate(requests(5))
    ]
    items[3] = replace(items[3], prompt_ids=[*items[3].prompt_ids, odd])
    with torch.no_grad():
        model.model.embed_tokens.weight[odd] = value
        model.lm_head.weight[odd] = model.lm_head.weight[8]  # nobody writes it, or 8 comes first
    sample = Sampling(temperature=temperature, top_k=1 if temperature else 0)
    settings = {"max_new_tokens": 8, "batch_size": 3, "engine": engine, "sample": sample}
    for item in items[:3]:
        assert run(model, [item], budget, **settings)
    with pytest.raises(DecodingError, match=r"^q3: the model computes NaN or infinity at token "):
        run(model, items, budget, **settings)


@pytest.mark.parametrize("engine", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_logit_that_is_no_number_is_enough(model, engine, value):
    with torch.no_grad():
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(97))
        model.lm_head.bias[11] = value
    with pytest.raises(DecodingError, match=r"^a prompt: the model computes NaN or infinity at token 1 "):
        run(model, [Request([5, 6, 7], 0)], "b4s2", engine=engine)


@pytest.mark.parametrize("budget", ["b4s4", "b4s1", "b8t0.3"])
def test_sequences_end_at_different_times_and_slots_are_used_again(model, budget):
    stops = frozenset(range(4, 24))
    plain, fast = both(model, requests(23), budget, batch_size=4, stop_ids=stops, max_new_tokens=40)
    assert_same(plain, fast)
    assert len({r.length for r in plain}) > 3
    assert {r.finish_reason for r in plain} == {"stop", "length"} or budget != "b4s4"


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("budget", ["b4s2", "b8s1", "b4t0.9"])
def test_many_stop_tokens(model, budget, batch_size):
    plain, fast = both(model, requests(9), budget, batch_size, stop_ids=MANY_STOPS, max_new_tokens=40)
    assert_same(plain, fast)
    assert "stop" in {response.finish_reason for response in plain}


class _Capturable(TorchDispatchMode):
    """Refuses operations that a CUDA graph cannot hold: the host would have to wait for their result or its size.

    A GPU refuses them too, but there only the tests of the kernels run. `torch.isin` sorts, and keeps what differs,
    where one side is large.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        if func is torch.ops.aten.index.Tensor:
            waits = any(index is not None and index.dtype == torch.bool for index in args[1])
        assert not waits, f"{func} waits for the GPU"
        assert func.overloadpacket is not torch.ops.aten.isin
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("budget", "sample"),
    [
        *((budget, Sampling()) for budget in ("b4s1", "b4s2", "b8s3", "b1s1")),
        ("b4s2", Sampling(temperature=0.7)),
        ("b4s2", Sampling(temperature=0.7, top_k=5, top_p=0.9)),
        ("b4s2", Sampling(prompt_guard=False)),
    ],
)
def test_a_cuda_graph_could_hold_every_step(model, budget, sample, monkeypatch):
    work, calls = engine.Engine._work, []

    def watched(self, *key):
        calls.append(key)
        with _Capturable():
            work(self, *key)

    # Attention's kernel takes the ends as they are; the reference looks for the longest.
    monkeypatch.setattr(attention, "attend_plainly", lambda queries, *_: queries)
    monkeypatch.setattr(engine.Engine, "_work", watched)
    run(model, requests(5), budget, engine=True, batch_size=2, stop_ids=MANY_STOPS, sample=sample)
    assert calls


def test_prompts_longer_than_a_forward_are_read_in_parts(model, monkeypatch):
    monkeypatch.setattr(engine, "_PREFILL", 8)
    monkeypatch.setattr(engine, "_MIN_BLOCKS", 2)
    generator = torch.Generator().manual_seed(0)
    items = [Request(torch.randint(4, 97, (n,), generator=generator).tolist(), n) for n in (90, 3, 41, 64, 1)]
    assert_same(*both(model, items, "b4s2", batch_size=2))


def test_the_shipped_teacher_answers_alike(teacher, tokenizer):
    items = [
        Request(encode_prompt(tokenizer, f"Tom has {n} apples and buys 3. How many has he?"), n) for n in range(5, 9)
    ]
    settings = {"mask_id": mask_id(tokenizer), "stop_ids": stop_ids(SHIPPED), "max_new_tokens": 64}
    assert_same(*both(teacher, items, "b8s2", batch_size=2, **settings))


def test_nothing_to_decode(model):
    assert both(model, [], "b4s2") == ([], [])


def test_progress_counts_every_response(model):
    seen = []
    run(model, requests(7), "b4s2", max_new_tokens=12, batch_size=3, engine=True, on_finished=seen.append)
    assert sum(seen) == 7


def test_memory_that_does_not_suffice_is_said_before_anything_is_decoded(model, monkeypatch):
    one = memory.bytes_per_slot(model, 128, 4, Sampling())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * one, 12 * one))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)

    class OnGPU:
        device = torch.device("cuda")
        config, lm_head = model.config, model.lm_head

    memory.check_memory(OnGPU, 9, 128, 4, Sampling())
    with pytest.raises(MemoryTooSmallError, match=r"batch_size 32 needs .* Choose a batch_size of at most 9"):
        memory.check_memory(OnGPU, 32, 128, 4, Sampling())


def test_attention_sees_the_prefix_and_the_block_and_nothing_else():
    torch.manual_seed(0)
    capacity, ends = 64, torch.tensor([4, 40], dtype=torch.int32)
    cache = torch.randn(3 * capacity, 2, 2, 8)
    queries, slots = torch.randn(2, 4, 4, 8), torch.tensor([2, 0], dtype=torch.int32)
    found = attention.attend(queries, cache, slots, ends, capacity)
    for block, (slot, end) in enumerate(((2, 4), (0, 40))):
        keys, values = cache[slot * capacity : slot * capacity + end].unbind(1)
        for head in range(4):
            weights = (queries[block, :, head] @ keys[:, head // 2].T / 8**0.5).softmax(-1)
            torch.testing.assert_close(found[block, :, head], weights @ values[:, head // 2])
    cache[2 * capacity + 4 :] = float("nan")
    assert torch.isfinite(attention.attend(queries[:1], cache, slots[:1], ends[:1], capacity)).all()
