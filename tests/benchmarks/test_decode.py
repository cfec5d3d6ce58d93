"""`benchmarks/decode.py`: what is measured beside what, on which floor, and how it is shown."""

import json

import pytest
import torch

from benchmarks import decode, decode_floor, decode_report, decode_vllm
from t3d.errors import ParameterError
from t3d.params import Budget
from tests.conftest import tiny_model

STUB = '''
"""Stands for vLLM where there is none: as many tokens as asked for, a millisecond each on a clock of its own."""
import json, pathlib, time
from types import SimpleNamespace

__version__ = "0.0"
now = time.perf_counter()
time.perf_counter = lambda: now

class SamplingParams:
    def __init__(self, **settings):
        self.tokens = settings["max_tokens"]
        assert settings["ignore_eos"] and settings["temperature"] == 0

class LLM:
    def __init__(self, model, **settings):
        config = json.loads(pathlib.Path(model, "config.json").read_text())
        assert config["architectures"] == ["Qwen3ForCausalLM"] and settings["load_format"] == "dummy"
        assert set(settings["compilation_config"]["cudagraph_capture_sizes"]) >= {1, 2}

    def generate(self, prompts, sampling, use_tqdm):
        global now
        now += 0.001 * sampling.tokens
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[5] * sampling.tokens)]) for _ in prompts]
'''
FEW = ["--device", "cpu", "--sizes", "tiny", "--prompt", "8", "--response", "16", "--slow-response", "4"]
FEW += ["--repeats", "2", "--budgets", "ar", "b4s1"]


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A folder with a stand-in for vLLM, where this Python and its children find it."""
    monkeypatch.setattr(decode_vllm, "VLLM", tmp_path / "no environment")
    (tmp_path / "stub").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "stub"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"))
    return tmp_path / "stub" / "vllm.py"


def test_one_command_measures_every_decoder_and_shows_them(stub, tmp_path):
    stub.write_text(STUB)
    out = tmp_path / "decode.json"
    decode.main([*FEW, "--batches", "1", "2", "--with-vllm", "--out", str(out)])
    content = json.loads(out.read_text())
    rows = {(row["batch"], row["budget"], row["decoder"]): row for row in content["rows"]}
    ours = {("ar", "engine"), ("b4s1", "engine"), ("b4s1", "plain"), ("b4s1", "hugging face")}
    assert set(rows) == {(batch, *key) for batch in (1, 2) for key in (*ours, ("ar", "vLLM"))}
    for row in rows.values():
        assert len(row["runs"]) == 2
        assert 0 <= row["spread"] < 20
        assert row["floor_tokens_per_second"] == pytest.approx(row["tokens_per_second"] / row["of_floor"])
    # The first tokens are not timed: 8 of the 16 take 8 ms.
    assert rows[2, "ar", "vLLM"]["tokens_per_second"] == pytest.approx(2000)
    table = out.with_suffix(".md").read_text().splitlines()
    assert len(table) == 2 + 4
    ratio = rows[2, "b4s1", "engine"]["tokens_per_second"] / rows[2, "ar", "vLLM"]["tokens_per_second"]
    assert f"| {ratio:.2f} |" in next(line for line in table if line.startswith("| tiny | 2 | 4 (b4s1) |"))
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert content["machine"]["bandwidth"] > 1e8


def test_the_slow_decoders_write_at_chosen_batches(tmp_path):
    out = tmp_path / "decode.json"
    decode.main([*FEW, "--batches", "1", "2", "--loop-at", "2", "--plain-at", "--out", str(out)])
    slow = [row for row in json.loads(out.read_text())["rows"] if row["decoder"] != "engine"]
    assert [(row["decoder"], row["batch"], row["budget"]) for row in slow] == [("hugging face", 2, "b4s1")]


def test_what_was_measured_is_kept_if_the_next_row_fails(monkeypatch, tmp_path):
    out, measure = tmp_path / "decode.json", decode.measure_engine

    def ended(model, mask_id, batch, *rest):
        if batch == 2:
            raise KeyboardInterrupt
        return measure(model, mask_id, batch, *rest)

    monkeypatch.setattr(decode, "measure_engine", ended)
    with pytest.raises(KeyboardInterrupt):
        decode.main([*FEW, "--loop-at", "--plain-at", "--batches", "1", "2", "--out", str(out)])
    assert {row["batch"] for row in json.loads(out.read_text())["rows"]} == {1}


def test_without_vllm_the_option_says_how_to_get_it(stub, capsys):
    with pytest.raises(SystemExit) as ended:
        decode.main([*FEW, "--with-vllm"])
    assert ended.value.code == 2
    assert "--with-vllm: vLLM is not installed. `make vllm-env VLLM_FOR=cuda` makes its" in capsys.readouterr().err


def test_a_vllm_that_fails_says_why(stub):
    stub.write_text("raise SystemExit('no GPU for vLLM')")
    request = decode_vllm.vllm_request(decode.random_model("tiny", "meta")[0].config, [1], 8, 16, 1)
    with pytest.raises(ParameterError, match=r"(?s)--with-vllm: vLLM ended with status 1 .*no GPU for vLLM"):
        decode_vllm.measure_vllm(decode_vllm.python_of_vllm(), request)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budgets", "b4t0.9"], "--budgets: b4t0.9 cannot be timed; choose blocks of 1, 2, 4 or 8"),
        (["--budgets", "four"], "four"),
        (["--budgets", "b16s1"], "--budgets: b16s1 cannot be timed"),
        (["--out", "nowhere/decode.json"], "argument --out: there is no folder nowhere"),
        (["--response", "8"], "--response: more than the 8 tokens that are not timed"),
    ],
)
def test_what_cannot_be_timed_is_refused_first(arguments, message, capsys):
    with pytest.raises(SystemExit):
        decode.main([*FEW, *arguments])
    assert message in capsys.readouterr().err


def test_the_floor_counts_rows_weights_and_cache():
    """By hand: 48 hidden, 2 layers, 4 heads and 2 key heads of 12, 96 inner, 97 ids (`tiny_model`), float32."""
    model = tiny_model()
    config = model.config
    width, heads, kv_heads = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "layers" in name)
    head = model.lm_head.weight.numel()
    cache = 10 * 2 * 2 * kv_heads * width * 4
    row = 2 * matrices + 4 * 2 * heads * width * 10
    (token,) = decode_floor.forwards(model, 3, None, 10)
    assert token.read == 4 * (matrices + head) + 3 * cache
    assert token.operations == 3 * (row + 2 * head)
    first, second = decode_floor.forwards(model, 3, Budget.parse("b4s2"), 10)
    assert first.read == second.read == token.read
    # 4 rows to denoise and 4 to commit, 4 of them masked; then 4 rows, of which 2 are masked.
    assert first.operations == 3 * (8 * row + 4 * 2 * head)
    assert second.operations == 3 * (4 * row + 2 * 2 * head)
    machine = decode_floor.Machine("", bandwidth=first.read, arithmetic=first.operations * 2)
    assert decode_floor.floor_seconds([first, second], machine) == 2.0


def test_the_figure_has_a_line_and_a_floor_per_decoder():
    machine = {"name": "GPU", "bandwidth": 4e12, "arithmetic": 8e14}
    row = {"size": "4b", "tokens_per_second": 10.0, "floor_tokens_per_second": 20.0}
    kinds = [("vLLM", "ar"), ("engine", "b4s1"), ("plain", "b4s1"), ("hugging face", "b4s4"), ("hugging face", "b4s1")]
    rows = [row | {"batch": b, "decoder": d, "budget": text} for b in (1, 32) for d, text in kinds]
    drawn = decode_report.figure(rows, machine)
    (axis,) = drawn.axes
    assert [len(line.get_xdata()) for line in axis.lines] == [2] * 5
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert labels == ["vLLM, AR", "engine, 4 per step", "Hugging Face loop, 4 per step"]
    assert "4.00 TB/s and 800 TFLOP/s" in drawn.legends[0].get_title().get_text().replace("\n", " ")


def test_the_engine_is_timed_with_everything_captured():
    model = tiny_model()
    requests = decode.requests_of(model, 3, 2, 5)
    assert len(requests) == 2
    assert torch.tensor([request.prompt_ids for request in requests]).shape == (2, 5)
    row = decode.measure_engine(model, 3, 2, Budget.parse("b4s2"), prompt=5, response=16, repeats=3)
    assert len(row["runs"]) == 3
    assert min(row["runs"]) > 0
