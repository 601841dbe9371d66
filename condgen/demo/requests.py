"""Pydantic models to validate the page's requests, one per tab."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

MAX_RUNS, MAX_LABELS = 8, 20
EMPTY = BeforeValidator(lambda typed: None if typed == "" else typed)  # empty means the value from training
Runs = Annotated[list[str], Field(min_length=1, max_length=MAX_RUNS)]
Sample = Annotated[int, Field(ge=0, le=999_999)]
Guidance = Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)]
SamplingSteps = Annotated[int, Field(ge=1, le=100)]


class SamplingRequest(BaseModel):
    """Base class for the tabs that generate images. Settings that are None default to their values from training."""

    seed: int = Field(ge=0, le=2**53)  # JavaScript can't represent larger integers exactly
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


class MixRequest(SamplingRequest):
    run: str
    label: str | None
    other: str | None
    samples: int = Field(ge=1, le=10)
    weight: float = Field(ge=0, le=1)


class FilmRequest(SamplingRequest):
    run: str
    label: str | None
    samples: int = Field(ge=1, le=10)
    frame: int = Field(ge=1, le=1_000)


class EpochsRequest(BaseModel):
    run: str
    grid: int = Field(ge=1, le=1_000_000)


class ScoresRequest(BaseModel):
    runs: Runs


def explain(error: ValidationError) -> str:
    """Formats the first validation error as a single line."""
    first = error.errors()[0]
    return f"{str(first['loc'][0]).replace('_', ' ')} is {first['input']!r:.60}. {first['msg']}."
