"""Triton kernels of the engine against the same in PyTorch: on a GPU, or interpreted by `make test-kernels`.

Where Triton is not installed, as with a CPU build of PyTorch, they are skipped: what runs there is the reference.
"""

import pytest
import torch
from torch.nn.functional import linear

from t3d.decoding import attention, engine, few_rows, layer_kernels, products, slots
from t3d.decoding.request import DecodingOptions
from t3d.params import Budget, Sampling
from tests.conftest import SHAPES, tiny_model
from tests.decoding.small import MANY_STOPS, requests, run

triton = pytest.importorskip("triton")
INTERPRETED = triton.knobs.runtime.interpret
if not (INTERPRETED or torch.cuda.is_available()):
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def rand(*shape):
    return torch.randn(*shape, device=DEVICE)


@pytest.mark.parametrize(("size", "heads", "kv_heads", "width"), [(4, 4, 2, 16), (8, 3, 1, 24), (4, 14, 2, 16)])
@pytest.mark.parametrize(("pairs", "splits"), [(0, 1), (3, 1), (4, 1), (0, 3), (3, 3), (4, 3), (3, 8)])
def test_attention_of_blocks_alone_and_in_pairs(pairs, size, heads, kv_heads, width, splits, monkeypatch):
    """Eight blocks; 3 pairs and two others, whose keys lie anywhere, or 4 pairs, of which one block writes nowhere."""
    monkeypatch.setattr(attention, "_MOST_ROWS", 64)
    capacity = 256
    cache = rand(5 * capacity, 2, kv_heads, width)
    slots = {0: [2, 0, 1, 3, 3, 2, 4, 0], 3: [2, 0, 3, 2, 0, 3, 1, 1], 4: [2, 0, 1, 3, 2, 4, 1, 3]}[pairs]
    ends = {0: [1, 250, 64, 65, 128, 7, 9, 40], 3: [16 + size, 130, 64 + size, 16, 129, 64, 7, 250]}.get(pairs)
    ends = ends or [12 + size, 136 + size, size, 200 + size, 12, size, size, 200]
    # Queries lie among other numbers, as between keys and values.
    queries = rand(8, size, heads + 3, width)[:, :, :heads]
    arguments = [torch.tensor(each, dtype=torch.int32, device=DEVICE) for each in (slots, ends)]
    plain = attention.attend_plainly(queries, cache, *arguments, capacity)
    found = attention.attend_by_kernel(queries, cache, *arguments, capacity, pairs, splits)
    # The block in the scratch slot reads that of its pair: nobody needs it, but it must be a number.
    needed = [block for block in range(8) if slots[block] != 4 or not pairs]
    torch.testing.assert_close(found[needed], plain[needed], rtol=1e-5, atol=1e-5)
    assert torch.isfinite(found).all()


def test_queries_of_large_blocks_are_not_put_in_pairs():
    capacity, slots = 64, torch.tensor([0, 1, 0, 1], dtype=torch.int32, device=DEVICE)
    ends = torch.tensor([48, 32, 32, 16], dtype=torch.int32, device=DEVICE)
    cache, queries = rand(2 * capacity, 2, 2, 16), rand(4, 16, 8, 16)
    plain = attention.attend_plainly(queries, cache, slots, ends, capacity)
    found = attention.attend_by_kernel(queries, cache, slots, ends, capacity, pairs=2)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 2, 16), (3, 1, 64), (4, 4, 24), (14, 2, 16)])
def test_norms_and_rotations_and_what_is_written(heads, kv_heads, width, normed):
    rows = 6
    qkv, cos, sin = rand(rows, (heads + 2 * kv_heads) * width), rand(rows, width), rand(rows, width)
    norms = (rand(width), rand(width)) if normed else None
    places = torch.tensor([3, 9, 1, 0, 7, 8], device=DEVICE)
    cache = rand(12, 2, kv_heads, width)
    queries, kv = layer_kernels.turn(qkv, norms, cos, sin, heads, kv_heads, 1e-6)
    written = cache.index_copy(0, places, kv)
    found = layer_kernels.turn_and_write(qkv, norms, cos, sin, heads, 1e-6, places, cache)
    torch.testing.assert_close(found, queries, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cache, written, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "depth", "vocabulary"), [(1, 96, 200), (5, 100, 97), (16, 128, 256)])
@pytest.mark.parametrize("excluded", [3, -1])
def test_the_best_token_is_that_of_the_logits(rows, depth, vocabulary, excluded):
    x, norm, head = rand(rows, depth), rand(depth), rand(vocabulary, depth)
    # The excluded token is likely in the first row, and another is far above all of the last.
    head[3], head[7] = 3 * x[0] / norm, 40 * x[-1] / norm
    tokens, log_odds = few_rows.best_token_plainly(x, head, norm, 1e-6, excluded)
    found, odds = few_rows.best_token(x, head, norm, 1e-6, excluded)
    assert excluded not in found
    assert found[-1] == 7
    torch.testing.assert_close(found, tokens)
    torch.testing.assert_close(odds, log_odds, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 97), (17, 300), (3, 9001)])
def test_the_best_token_is_read_off_logits(rows, vocabulary):
    logits = rand(rows, vocabulary)
    # The excluded token is the likeliest, two others are equal, and one row has a token far above the others.
    logits[:, 3] = 50
    logits[0, 5] = logits[0, vocabulary - 1] = 9
    logits[-1, 7] = 40
    tokens, log_odds = few_rows.best_of_logits_plainly(logits, 3)
    found, odds = few_rows.best_of_logits(logits, 3)
    assert found[-1] == 7
    assert rows == 1 or found[0] == 5
    torch.testing.assert_close(found, tokens)
    torch.testing.assert_close(odds, log_odds, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", [few_rows.best_of_logits, few_rows.best_of_logits_plainly])
def test_a_logit_that_is_no_number_shows_in_the_log_odds_of_what_is_read(way):
    logits = rand(3, 9001)
    logits[1, 5000], logits[2, 7] = float("nan"), float("inf")
    assert way(logits, 3)[1].isfinite().tolist() == [True, False, False]


def test_of_equal_tokens_the_first_is_the_best():
    x, norm = rand(4, 64), torch.ones(64, device=DEVICE)
    head = rand(300, 64) * 0.1
    head[290] = head[140] = head[70] = x[2]
    found, odds = few_rows.best_token(x, head, norm, 1e-6, 70)
    plain, log_odds = few_rows.best_token_plainly(x, head, norm, 1e-6, 70)
    assert found[2] == plain[2] == 140
    torch.testing.assert_close(odds, log_odds, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("way", [few_rows.best_token, few_rows.best_token_plainly])
def test_a_logit_that_is_no_number_shows_in_the_log_odds(way, value):
    x, norm, head = rand(4, 64), torch.ones(64, device=DEVICE), rand(300, 64)
    # Infinity times a negative number is a logit of -inf: a token like any that is never chosen.
    x[:, 5], head[200, 5] = x[:, 5].abs(), value
    assert not way(x, head, norm, 1e-6, 3)[1].isfinite().any()


def test_a_logit_of_minus_infinity_is_that_of_a_token_that_is_never_chosen():
    x, norm, head = rand(4, 64), torch.ones(64, device=DEVICE), rand(300, 64)
    x[:, 5], head[200, 5] = -x[:, 5].abs(), float("inf")
    tokens, log_odds = few_rows.best_token_plainly(x, head, norm, 1e-6, 3)
    found, odds = few_rows.best_token(x, head, norm, 1e-6, 3)
    assert odds.isfinite().all()
    assert 200 not in found
    torch.testing.assert_close(found, tokens)
    torch.testing.assert_close(odds, log_odds, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "width"), [(1, 24), (5, 192), (3, 2560)])
def test_norms_and_activations(rows, width):
    x, weight = 3 * rand(rows, width), rand(width)
    x[0, :4] = torch.tensor([0.0, 200.0, -200.0, -0.5])
    for fast, plain in (
        (layer_kernels.norm(x, weight, 1e-6), layer_kernels.norm_plainly(x, weight, 1e-6)),
        (layer_kernels.swiglu(x), layer_kernels.swiglu_plainly(x)),
    ):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("programs", [1, 12, 1000])
@pytest.mark.parametrize(("rows", "columns", "depth"), [(1, 32, 128), (8, 100, 520), (5, 72, 24), (20, 70, 640)])
@pytest.mark.parametrize("biased", [False, True])
def test_products_in_parts(rows, columns, depth, programs, biased):
    x, weight, bias = rand(rows, depth), rand(columns, depth), rand(columns) if biased else None
    parts = products.in_parts(x, weight, bias, programs)
    assert len(parts) == 1 if programs == 1 or depth <= 128 else len(parts) > 1
    torch.testing.assert_close(parts.sum(0), linear(x, weight, bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "columns", "depth"), [(1, 16, 128), (8, 50, 520), (20, 72, 24)])
def test_gated_products(rows, columns, depth):
    x, weight = rand(rows, depth), rand(2 * columns, depth) / depth**0.5
    torch.testing.assert_close(
        products.gated(x, weight), layer_kernels.swiglu_plainly(linear(x, weight)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("count", [1, 3])
def test_parts_are_added_where_they_are_read(count):
    rows, heads, kv_heads, width = 5, 4, 2, 24
    x, weight, added = rand(rows, 100), rand(100), rand(count, rows, 100)
    total = x + added.sum(0)
    states = layer_kernels.norm(x, weight, 1e-6, added)
    torch.testing.assert_close(x, total, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(states, layer_kernels.norm_plainly(total, weight, 1e-6), rtol=1e-5, atol=1e-5)
    qkv, cos, sin = rand(count, rows, (heads + 2 * kv_heads) * width), rand(rows, width), rand(rows, width)
    norms, places = (rand(width), rand(width)), torch.tensor([3, 9, 1, 0, 7], device=DEVICE)
    caches = [torch.zeros(12, 2, kv_heads, width, device=DEVICE) for _ in range(2)]
    shape = (norms, cos, sin, heads, 1e-6, places)
    of_parts = layer_kernels.turn_and_write(qkv, *shape, caches[0])
    whole = layer_kernels.turn_and_write(qkv.sum(0), *shape, caches[1])
    torch.testing.assert_close(of_parts, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*caches, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "width"), [(1, 16), (3, 24), (8, 64)])
def test_where_blocks_are(size, width):
    starts, owners = torch.tensor([12, 0, 40, 7], device=DEVICE), torch.tensor([2, 3, 0, 1], device=DEVICE)
    turns = rand(2, 64, width)
    plain = layer_kernels.locate_plainly(owners, starts, turns, size, 64)
    for one, other in zip(layer_kernels.locate(owners, starts, turns, size, 64), plain, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def slots_in_the_middle(budget, count, seed, causal=False, **options):
    """Slots of every kind: without work, with a complete block, with a few or only masks left."""
    torch.manual_seed(seed)
    settings = DecodingOptions(**{"max_new_tokens": 30, "stop_ids": frozenset({5}), "mask_id": 3} | options)
    made, size = slots.Slots(count, 64, Budget.parse(budget), settings, causal, torch.device(DEVICE)), int(budget[1])
    for name, column in vars(made).items():
        if not isinstance(column, torch.Tensor) or name in ("stops", "numbers", "places", "every_row", "flags"):
            continue
        if column.dtype == torch.bool:
            column.copy_(torch.rand(column.shape) < 0.6)
        else:
            column.copy_(torch.randint(0, 20, column.shape))
    made.starts.copy_(torch.randint(1, 48 // size, (count,)) * size)
    made.step.fill_(0 if causal else 1)
    made.masked[0], made.masked[-1], made.working[0] = False, True, True
    return made


def assert_equal_slots(one, other):
    for name, column in vars(one).items():
        if isinstance(column, torch.Tensor):
            torch.testing.assert_close(column, vars(other)[name], rtol=1e-6, atol=1e-7, equal_nan=True, msg=name)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("budget", "count", "commits", "prompts", "left", "causal"),
    [
        ("b4s1", 1, 0, 0, 4, False), ("b4s1", 1, 1, 0, 4, False), ("b4s2", 5, 5, 2, 4, False),
        ("b4s4", 5, 0, 0, 1, False), ("b3s2", 6, 6, 3, 2, False), ("b4t0.9", 9, 8, 1, 4, False),
        ("b8t0.9", 40, 32, 0, 8, False), ("b1s1", 7, 0, 4, 1, True),
    ],
)  # fmt: skip
def test_the_blocks_of_a_forward(budget, count, commits, prompts, left, causal, seed):
    made = slots_in_the_middle(budget, count, seed, causal)
    if 0 < commits < count:
        # At least as many as are unwritten.
        made.unwritten[commits - 2 :] = False
    size = int(budget[1])
    waiting = [torch.randint(0, 9, shape, device=DEVICE) for shape in ((prompts, size), (prompts,), (prompts,))]
    plain, matter = made.next_blocks_plainly(commits, waiting, left)
    found, rows = made.next_blocks(commits, waiting, left)
    for one, other in zip(found, plain, strict=True):
        assert one.dtype == other.dtype
    # Of a block that only fills a shape nobody reads the tokens.
    filling = plain[1] == count
    filling[:count] = False
    assert torch.equal(found[0][~filling], plain[0][~filling])
    assert torch.equal(found[1], plain[1])
    assert torch.equal(found[2], plain[2])
    assert torch.equal(rows, matter)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("odd", [None, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("budget", "left", "guard"),
    [
        ("b4s1", 4, True), ("b4s2", 4, True), ("b4s2", 2, True), ("b8s3", 5, True), ("b3s2", 3, True),
        ("b1s1", 1, True), ("b4s1", 4, False), ("b8s3", 8, False), ("b4t0.9", 4, True), ("b8t0.3", 8, True),
    ],
)  # fmt: skip
def test_what_a_step_commits(budget, left, guard, odd, seed):
    count, size = 6, int(budget[1])
    plain, fast = (slots_in_the_middle(budget, count, seed, sample=Sampling(prompt_guard=guard)) for _ in range(2))
    for made in (plain, fast):
        made.masked[:-1, left:] = False
        if left < size:
            made.masked[-1] = torch.arange(size, device=DEVICE) >= size - left
    rows = plain.next_blocks_plainly(0, (rand(0, size).long(), rand(0).long(), rand(0).long()), left)[1]
    drawn, log_odds = torch.randint(0, 97, (len(rows),), device=DEVICE), rand(len(rows)) * 3
    log_odds[1], log_odds[-1] = log_odds[0], log_odds[len(rows) // 2]  # equal ones
    if odd is not None:
        log_odds[-2:] = odd
    plain.commit_plainly(rows, drawn, log_odds)
    fast.commit(rows, drawn, log_odds)
    assert_equal_slots(fast, plain)
    assert plain.step.max() == 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stops", [frozenset(), frozenset({5}), MANY_STOPS])
@pytest.mark.parametrize("budget", ["b1s1", "b3s2", "b4s1", "b8t0.9"])
def test_blocks_that_are_complete(budget, stops, seed):
    plain, fast = (slots_in_the_middle(budget, 12, seed, stop_ids=stops) for _ in range(2))
    for made in (plain, fast):
        made.masked[::2] = False
    plain.finish_plainly()
    fast.finish()
    assert_equal_slots(fast, plain)
    assert plain.unwritten.any() or stops


@pytest.mark.parametrize(
    ("shape", "budget", "batch_size"),
    [("qwen3", "b4s1", 1), ("qwen3", "b4s2", 2), ("qwen3", "b4t0.3", 2), ("qwen2", "b8s2", 1), ("wide", "b4s1", 2)],
)
def test_the_engine_writes_with_kernels_what_the_plain_decoder_writes(shape, budget, batch_size, monkeypatch):
    """On a GPU every step is captured too; many stop tokens do not hinder that."""
    # Wide enough for products of 2 and 5 parts; the first of them also fetch weights early on a GPU that can.
    wide = SHAPES["qwen2"] | {"hidden_size": 256, "intermediate_size": 520}
    model = tiny_model(**(wide if shape == "wide" else SHAPES[shape])).to(DEVICE)
    monkeypatch.setattr(products, "_programs", lambda device: 40)
    items, settings = requests(3), {"max_new_tokens": 8, "stop_ids": MANY_STOPS}
    plain = run(model, items, budget, engine=False, **settings)
    # Interpreted, each block that only fills a shape takes long.
    monkeypatch.setattr(engine, "_MIN_BLOCKS", 2)
    monkeypatch.setattr(engine, "_PREFILL", 4)
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        best = few_rows.likeliest
        patch.setattr(few_rows, "likeliest", lambda *args: calls.append(1) or best(*args))
        if INTERPRETED:
            # Attention on a CPU takes the reference otherwise.
            patch.setattr(attention, "attend", attention.attend_by_kernel)
            patch.setattr("t3d.decoding.network.attend", attention.attend_by_kernel)
        fast = run(model, items, budget, engine=True, batch_size=batch_size, **settings)
    assert calls
    for one, other in zip(plain, fast, strict=True):
        assert (one.ids, one.step_map, one.denoising_steps) == (other.ids, other.step_map, other.denoising_steps)
        assert one.confidence == pytest.approx(other.confidence, rel=1e-4, abs=1e-6)
