"""Settings of the input: where the data lies, what is mixed, how a region is shown."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """The built-in world that is written to `DataConfig.root` when it is not there yet."""

    seed: int = 0
    train: int = 8000  # images
    val: int = 250
    test: int = 250
    image_size: int = 96  # pixels a side


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Everything about the data except the sizes of a batch (those are BatchSpec's)."""

    root: str  # a folder in COCO's layout (see input_pipeline/sources)
    mixture: dict[str, float]  # {source: weight}; weights are relative numbers of examples
    world: WorldConfig | None = None  # None: `root` holds data that somebody else wrote
    train_split: str = "train"
    eval_split: str = "val"
    tokenizer: str = ""  # a Hugging Face directory; "" trains one on the data's own texts
    vocabulary_size: int = 8192  # upper limit of a trained tokenizer, location tokens included
    location_bins: int = 1024  # `<loc0000>`… tokens; 0…1023 as in PaliGemma
    on_bad: str = "stop"  # an image that cannot be read: "stop" or "skip" (and count)
    on_long: str = "stop"  # a text that does not fit into BatchSpec: "stop" or "skip"
    as_mask: float = 0.6  # how often a region that has a mask is shown as that mask, …
    as_box: float = 0.2  # … as its bounding box, …
    as_points: float = 0.2  # … as a few points in it, …
    as_part: float = 0.0  # … as one side of a cut through the mask, named "part of …", …
    as_nothing: float = 0.0  # … or not at all: as the whole image, so that a guess is learnt too
    workers: int = 0  # processes that make batches; 0: threads of this process
    threads: int = 2  # threads that make batches, in each process; 0: made when asked for

    def __post_init__(self):
        if not self.mixture:
            raise ValueError("mixture is empty; name at least one source, such as {'coco': 1.0}")
        for name, weight in self.mixture.items():
            if not weight > 0:
                raise ValueError(f"mixture[{name!r}] = {weight!r}; a weight is a number above 0")
        for name in ("on_bad", "on_long"):
            if getattr(self, name) not in ("stop", "skip"):
                raise ValueError(f"{name} = {getattr(self, name)!r}; expected 'stop' or 'skip'")
        shares = (self.as_mask, self.as_box, self.as_points, self.as_part, self.as_nothing)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(
                f"as_mask, as_box, as_points, as_part, as_nothing = {shares} must be shares of 1"
            )
        if not 2 <= self.location_bins <= 10_000:
            raise ValueError(f"location_bins = {self.location_bins}; expected 2…10000")
        if min(self.workers, self.threads) < 0:
            raise ValueError("workers and threads are numbers from 0 up")

    @property
    def splits(self):
        """The splits that have to be prepared, each once."""
        return tuple(dict.fromkeys((self.train_split, self.eval_split)))
