"""The base of all settings: immutable, typed and complete."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
MixedPrecision = Literal["auto", "bf16", "fp16", "no"]  # auto: bf16 where the device has it, else no


class Settings(BaseModel):
    """A section of a parameter file.

    It is immutable. A key without a default must be there, an unknown key is refused, and no value is
    converted to another type.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
