"""What a score says as a whole: the JSON beside its verdicts, in one line per model, benchmark and budget."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from t3d.params.json_files import exactly, read_json
from t3d.provenance.store import Manifest

_Count = Annotated[int, Field(ge=1)]
_Least = Annotated[int, Field(ge=0)]
_Ratio = Annotated[float, Field(ge=0)] | None


@exactly
@dataclass(frozen=True)
class Totals:
    """The JSON of a score."""

    model: str
    benchmark: str
    budget: str
    n: _Count
    correct: _Least
    response_tokens: _Least
    denoising_steps: _Least
    commit_passes: _Least
    # None where there is nothing to divide by.
    accuracy: _Ratio = None
    tokens_per_step: _Ratio = None
    tokens_per_forward: _Ratio = None
    finish_reasons: dict[str, int] | None = None


def totals_of(manifest: Manifest) -> Totals:
    """The totals of a score, its files compared with the manifest; raises as `Manifest.file` and `read_json`."""
    return read_json(manifest.file(".json"), Totals)
