"""The requests of the page. Each class has the inputs of a tab and their bounds."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

MAX_RUNS, MAX_LABELS = 8, 20
EMPTY = BeforeValidator(lambda typed: None if typed == "" else typed)  # an empty text box keeps the value from training
Runs = Annotated[list[str], Field(min_length=1, max_length=MAX_RUNS)]
Sample = Annotated[int, Field(ge=0, le=999_999)]
Guidance = Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)]
SamplingSteps = Annotated[int, Field(ge=1, le=100)]


class SamplingRequest(BaseModel):
    """Inputs of all tabs that generate images.

    If ``guidance`` or ``sampling_steps`` is None, the value from training is used.
    """

    seed: int = Field(ge=0, le=2**53)  # browsers cannot represent all larger integers
    guidance: Annotated[Guidance | None, EMPTY] = None
    sampling_steps: Annotated[SamplingSteps | None, EMPTY] = None


class SamplesRequest(SamplingRequest):
    runs: Runs
    labels: str = Field(max_length=400)
    samples_per_label: int = Field(ge=1, le=20)
    nearest: bool


class MorphRequest(SamplingRequest):
    run: str
    label: str | None
    from_sample: Sample
    to_sample: Sample
    part: float = Field(ge=0, le=1)


class NoiseRequest(SamplingRequest):
    run: str
    label: str | None
    sample: Sample
    coordinate: int = Field(ge=0)
    value: float = Field(ge=-3, le=3)


class EpochsRequest(BaseModel):
    run: str
    grid: int = Field(ge=1, le=1_000_000)


class ScoresRequest(BaseModel):
    runs: Runs


def explain(error: ValidationError) -> str:
    """Returns the first error in a request as one line of text."""
    first = error.errors()[0]
    return f"{str(first['loc'][0]).replace('_', ' ')} is {first['input']!r:.60}. {first['msg']}."
