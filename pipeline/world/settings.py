"""Settings of the embedded world."""

from pydantic import Field

from common.settings import Settings


class WorldSection(Settings):
    """The rendered world that stands in for Market-1501; of no effect on another data set."""

    seed: int = Field(
        description="Everything follows from it; another seed is another world as hard", ge=0, lt=2**32
    )
    train_identities: int = Field(description="Identities in bounding_box_train", ge=2, le=1000)
    test_identities: int = Field(description="Identities in query and bounding_box_test", ge=2, le=501)
    images_per_identity: int = Field(description="Images of each identity, over all cameras", ge=2, le=1000)
    cameras: int = Field(
        description="Cameras of the world; Market-1501 has 6, its file names allow one digit", ge=2, le=6
    )
    camera_strength: float = Field(
        description="How strongly the cameras distort colours: 0 not at all, 1 like bad ones",
        ge=0,
        le=1,
    )
    distractors: int = Field(
        description="Images of people who are nobody's match (0000), in the gallery", ge=0, le=100_000
    )
    junk: int = Field(
        description="Badly cropped boxes of test people (-1), in the gallery; ignored when ranking",
        ge=0,
        le=100_000,
    )


class WorldSettings(WorldSection):
    """What `python -m pipeline.world` renders: the world, at the size of the data set's images."""

    height: int = Field(description="Image rows in pixels; Market-1501 has 128", ge=32, le=1024)
    width: int = Field(description="Image columns in pixels; Market-1501 has 64", ge=16, le=1024)
