"""What runs in vLLM's environment: lm-eval's vllm backend, asked by the recorded ids of a prompt set.

    workflow/envs/vllm/.venv/bin/python -m t3d.evaluation.vllm_backend request.json response.json

`vllm_client.py` starts it and says what the two files hold. Nothing else of the project imports vLLM.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval.models.vllm_causallms import VLLM
from vllm import SamplingParams
from vllm.platforms import current_platform


class RecordedPrompts(VLLM):
    """lm-eval's vllm backend, but for the text: prompts are ids, and the ids of the responses are kept."""

    def __init__(self, request: dict[str, Any]) -> None:
        """Start the engine that `request` describes."""
        prompts: dict[str, list[int]] = request["prompts"]
        super().__init__(
            request["model"],
            dtype=request["dtype"],
            max_model_len=max(map(len, prompts.values())) + request["max_new_tokens"],
            max_num_seqs=request["batch_size"],
            batch_size=request["batch_size"],  # a number, or there is a progress bar for every call
            # Every question is asked more than once here; a cache of prompts would make the later times too short.
            enable_prefix_caching=False,
        )
        self.prompts, self.request = prompts, request
        self.responses: dict[str, dict[str, Any]] = {}
        self.seconds = 0.0

    def answer(self) -> None:
        """Answer every question, all at once; `responses` and `seconds` keep what came of it."""
        keys = list(self.prompts)
        self.ask(keys[: self.request["batch_size"]], most=8)  # kernels are compiled at their first use
        started = time.monotonic()
        outputs = self.ask(keys)
        self.seconds = time.monotonic() - started
        for key, output in zip(keys, outputs, strict=True):
            self.responses[key] = {"ids": list(output.token_ids), "finish_reason": output.finish_reason}

    def ask(self, keys: list[str], most: int | None = None) -> list[Any]:
        """vLLM's completions to some questions together, of at most `most` tokens if that is given."""
        outputs = self._model_generate(
            [self.prompts[key] for key in keys],
            generate=True,
            sampling_params=[
                SamplingParams(
                    **self.request["sampling"],
                    seed=self.request["seeds"][key],
                    max_tokens=most or self.request["max_new_tokens"],
                    stop_token_ids=self.request["stop_ids"],
                )
                for key in keys
            ],
        )
        return [output.outputs[0] for output in outputs]


def main(request_path: Path, response_path: Path) -> None:
    """Answer every question, then the first few one at a time, and write what came of it."""
    request = json.loads(request_path.read_text())
    if current_platform.device_type != request["device"]:
        sys.exit(f"{request['device']} is asked for, and this vLLM is built for {current_platform.device_type}.")
    lm = RecordedPrompts(request)
    lm.answer()
    alone = list(lm.prompts)[: request["one_at_a_time"]]
    started = time.monotonic()
    tokens = sum(len(lm.ask([key])[0].token_ids) for key in alone)
    seconds = time.monotonic() - started
    response = {
        "responses": lm.responses,
        "seconds": lm.seconds,
        "one_at_a_time": {"questions": len(alone), "response_tokens": tokens, "seconds": seconds},
        "engine": f"vLLM {version('vllm')}",
    }
    response_path.write_text(json.dumps(response))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
