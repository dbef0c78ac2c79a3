"""The base of all settings: immutable, typed and complete."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """A section of a parameter file.

    It is immutable. A key without a default must be there, an unknown key is refused, and no value is
    converted to another type.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
