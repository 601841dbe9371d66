"""Pydantic models to validate the page's requests, one per tab."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

MAX_RUNS, MAX_LABELS, MAX_MIXED = 8, 20, 5
EMPTY = BeforeValidator(lambda typed: None if typed == "" else typed)  # empty means the value from training
Runs = Annotated[list[str], Field(min_length=1, max_length=MAX_RUNS)]
Seed = Annotated[int, Field(ge=0, le=2**53)]  # JavaScript can't represent larger integers exactly
Weight = Annotated[float, Field(ge=0, le=1)]
MAX_SAMPLE = 999_999
Sample = Annotated[int, Field(ge=0, le=MAX_SAMPLE)]
Guidance = Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)]
SamplingSteps = Annotated[int, Field(ge=1, le=100)]


class SamplingRequest(BaseModel):
    """Base class for the tabs that generate images. Settings that are None default to their values from training."""

    seed: Seed
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
    """A slider's weight counts if its label is selected. ``weight_1`` belongs to the first selected label, etc."""

    run: str
    labels: Annotated[list[str], Field(min_length=1, max_length=MAX_MIXED)]
    samples: int = Field(ge=1, le=10)
    weight_1: Weight
    weight_2: Weight
    weight_3: Weight
    weight_4: Weight
    weight_5: Weight

    @property
    def weights(self) -> list[float]:
        """The weights of the selected labels."""
        return [self.weight_1, self.weight_2, self.weight_3, self.weight_4, self.weight_5][: len(self.labels)]


class EditRequest(BaseModel):
    run: str
    label: str | None
    start: Literal["Sample", "Test image", "Nothing"]
    number: int
    seed: Seed
    drawing: str | None


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
    name = str(first["loc"][0]).replace("_", " ")
    if first["input"] in (None, "", []):
        return f"{name.capitalize()} is empty."
    return f"{name} is {first['input']!r:.60}. {first['msg']}."
