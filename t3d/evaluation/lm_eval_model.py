"""A block-diffusion LM for lm-eval's own command line: any `generate_until` task, with its examples and `until`.

`t3d lm-eval` registers it and hands over. The workflow's own benchmarks are answered by `answers.py` instead, which
keeps ids and step maps and never tokenises a prompt twice.
"""

import sys
from collections import Counter
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import register_model

from t3d.decoding.decoder import decode
from t3d.decoding.request import DecodingOptions, Request
from t3d.errors import DataError, ParameterError, short
from t3d.evaluation.harness import GenerationOnly
from t3d.models.folder import load_tokenizer, mask_id, stop_ids
from t3d.models.sdar import load_model
from t3d.params import Budget, Sampling
from t3d.seeds import seed_for

NAME = "t3d"
_UNREAD = {"until", "do_sample", "temperature", "max_gen_toks", "top_p", "top_k"}


@register_model(NAME)
class T3DLM(GenerationOnly):
    """`--model_args pretrained=FOLDER,budget=b4s2`.

    lm-eval gives texts, with `--apply_chat_template` those of the folder's template. A response is decoded to its
    end-of-text token or `max_gen_toks` (512 unless the task has another number). It is then cut before the first of the
    task's `until` strings.
    """

    def __init__(
        self,
        pretrained: str = "",
        budget: str = "",
        device: str | None = None,
        dtype: str = "bfloat16",
        batch_size: int | str = 32,
        max_gen_toks: int = 512,
        seed: int = 0,
        mask_token: str | None = None,
        **unknown: Any,
    ) -> None:
        """Load a folder.

        Raises:
            ParameterError: an argument is missing, or is none of this model's; or a budget that is none.
            MissingInputError, CorruptArtefactError: as `load_model`.
        """
        super().__init__()
        # lm-eval's command line adds this one by itself.
        unknown.pop("max_batch_size", None)
        if unknown:
            known = "pretrained, budget, dtype, max_gen_toks, mask_token and seed"
            raise ParameterError(f"--model_args: {', '.join(unknown)} is not known; there are {known}.")
        if not pretrained or not budget:
            raise ParameterError("--model_args: give a folder and a budget: pretrained=FOLDER,budget=b4s2.")
        if type(seed) is not int or type(max_gen_toks) is not int or max_gen_toks < 1:
            raise ParameterError(f"--model_args: max_gen_toks={max_gen_toks} and seed={seed} are to be whole numbers.")
        if not str(batch_size).isdigit():
            raise ParameterError(f"--batch_size is {batch_size!r}; give a number.")
        self.budget = Budget.parse(budget)
        self.tokenizer = load_tokenizer(pretrained, mask_token)
        # lm-eval's command line says cuda:0 where nothing is said.
        self.model = load_model(pretrained, (device or "cuda") if torch.cuda.is_available() else "cpu", dtype)
        self._device = self.model.device
        self.stop_ids, self.batch_size = stop_ids(pretrained), int(batch_size)
        self.max_gen_toks, self.seed = max_gen_toks, seed

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval's cache of requests is named by."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template, which lm-eval records with its results."""
        return self.tokenizer.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the text that the model was trained on."""
        rendered = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return str(rendered)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts of the responses, in the order of the requests.

        Raises:
            DataError: a task sets an option of generation that this model does not have.
        """
        texts: list[str] = [""] * len(requests)
        # A task has one set of options, several tasks may differ.
        options = [self._options(request.args[1]) for request in requests]
        asked: Counter[str] = Counter()
        items = [self._item(request.args[0], asked) for request in requests]
        for limit, sample in dict.fromkeys(option[:2] for option in options):
            numbers = [n for n, option in enumerate(options) if option[:2] == (limit, sample)]
            how = DecodingOptions(limit, self.stop_ids, mask_id(self.tokenizer), sample, self.batch_size)
            decoded = decode(self.model, [items[n] for n in numbers], self.budget, how)
            for n, response in zip(numbers, decoded, strict=True):
                text = str(self.tokenizer.decode(response.ids[: response.length], skip_special_tokens=True))
                places = (text.find(string) for string in options[n][2] if string)
                texts[n] = text[: min((place for place in places if place >= 0), default=len(text))]
        return texts

    def _item(self, context: str, asked: Counter[str]) -> Request:
        # A draw depends on the text and on how often it was asked before (`repeats`), not on what stands beside it.
        ids = self.tokenizer(context, add_special_tokens=False)["input_ids"]
        seed = seed_for(self.seed, "answer", context, asked[context])
        asked[context] += 1
        return Request(ids, seed, context[-60:])

    def _options(self, given: dict[str, Any]) -> tuple[int, Sampling, list[str]]:
        if unread := given.keys() - _UNREAD:
            raise DataError(f"generation_kwargs has {', '.join(sorted(unread))}, which a block-diffusion LM has not.")
        until = given.get("until") or []
        drawn = ("temperature", "top_p", "top_k") if given.get("do_sample", True) else ()
        sample = Sampling.model_validate({name: given[name] for name in drawn if given.get(name)})
        return given.get("max_gen_toks", self.max_gen_toks), sample, [until] if isinstance(until, str) else until


def main(words: list[str]) -> None:
    """Run lm-eval's command line with `words`; `--model t3d` is added to a run that names no model.

    Raises:
        DataError: lm-eval refuses them, a task's name for example.
    """
    from lm_eval.__main__ import cli_evaluate

    runs = not words or words[0] not in ("ls", "validate")
    named = any(word == "--model" or word.startswith("--model=") for word in words)
    sys.argv = ["t3d lm-eval", *words, *(["--model", NAME] if words and runs and not named else [])]
    try:
        cli_evaluate()
    except ValueError as error:
        raise DataError(f"lm-eval: {short(error)}.") from error
