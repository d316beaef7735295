"""Settings of the input: where the data lies, what is mixed, how a region is shown."""

import dataclasses

from input_pipeline import tasks
from regionjax.config import nearest


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """The built-in world that is written to `DataConfig.root` when it is not there yet."""

    seed: int = 0
    train: int = 8000  # images
    val: int = 250
    test: int = 250
    image_size: int = 96  # pixels a side
    questions: bool = False  # also as VQAv2 and VCR, which become the sources vqav2 and vcr


# How a region is shown that has a mask: DataConfig's as_… are the shares.
WAYS = ("nothing", "more", "part", "points", "click", "box", "mask")
_MOST = {"crop": 0.4, "flip": 1.0, "brightness": 0.9, "contrast": 0.9, "saturation": 1.0}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Everything about the data except the sizes of a batch (those are BatchSpec's)."""

    root: str = ""  # a folder in COCO's layout (see input_pipeline/sources); "": none
    # {name: weight}: parts in one of the folders in `prepared`, or else a source below `root`.
    # Weights are relative numbers of `mixture_by`; what has weight 0 is evaluated, not trained on.
    mixture: dict[str, float] = dataclasses.field(default_factory=dict)
    prepared: tuple[str, ...] = ()  # folders that input_pipeline/prepare.py wrote; or one, as text
    world: WorldConfig | None = None  # None: `root` holds data that somebody else wrote
    train_split: str = "train"
    eval_split: str = "val"
    tokenizer: str = ""  # a Hugging Face directory; "" trains one on the data's own texts
    vocabulary_size: int = 8192  # upper limit of a trained tokenizer, location tokens included
    location_bins: int = 1024  # `<loc0000>`… tokens; 0…1023 as in PaliGemma
    on_bad: str = "stop"  # an image that cannot be read: "stop" or "skip" (and count)
    on_long: str = "stop"  # a text that does not fit into BatchSpec: "stop", "skip", "truncate"
    mixture_by: str = "examples"  # or "regions": what the images fill slots with counts
    prompts: dict[str, str] = dataclasses.field(default_factory=dict)  # {task: template}; see tasks
    # Names, expressions, narrations and captions are learnt and scored as BLIP's caption processor
    # makes them: lower case, without . ! " ( ) * # : ; ~ and of at most 50 words; and questions are
    # asked as its question processor makes them.
    normalize_text: bool = False
    # {task: weight}; 1 where none is given. Where a record has more to ask than there are slots,
    # each thing to ask competes with its task's weight; what has weight 0 is never trained.
    task_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    as_mask: float = 0.6  # how often a region that has a mask is shown as that mask, …
    as_box: float = 0.2  # … as its bounding box, …
    as_points: float = 0.2  # … as a few points in it, a click or a stroke, …
    as_click: float = 0.0  # … as one point in it, …
    as_part: float = 0.0  # … as one side of a cut through the mask, named "part of …", …
    as_more: float = 0.0  # … together with another thing's mask, named "more than …", …
    as_nothing: float = 0.0  # … or not at all: as the whole image, so that a guess is learnt too
    # Which batch.points of a trace's points training sees, in their order: "even", always the same,
    # or "random", others each time (RegionVLM).
    trace_points: str = "even"
    # What training sees of regions and traces: "as_is"; "shuffled": points in no order; "hidden":
    # the whole image in their place, always. The last two are what a model is compared with.
    show_regions: str = "as_is"
    # Changes to training images that regions and texts follow; see input_pipeline/augmentation.py.
    crop: float = 0.0  # the most that is cut off each side, as a share; never part of a region
    flip: float = 0.0  # how often left and right change places, where the texts allow it
    brightness: float = 0.0  # factors lie from 1 - this to 1 + this, …
    contrast: float = 0.0
    saturation: float = 0.0
    workers: int = 0  # processes that make batches; 0: threads of this process
    threads: int = 2  # threads that make batches, in each process; 0: made when asked for

    def __post_init__(self):
        if isinstance(self.prepared, str):
            object.__setattr__(self, "prepared", (self.prepared,) if self.prepared else ())
        if not self.mixture:
            raise ValueError("mixture is empty; name at least one source, such as {'coco': 1.0}")
        for name, weight in self.mixture.items():
            if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
                raise ValueError(f"mixture[{name!r}] = {weight!r}; a weight is a number from 0 up")
        if not any(self.mixture.values()):
            raise ValueError(f"mixture = {self.mixture}: every weight is 0")
        for name, values in (
            ("on_bad", ("stop", "skip")),
            ("on_long", ("stop", "skip", "truncate")),
            ("mixture_by", ("examples", "regions")),
            ("show_regions", ("as_is", "shuffled", "hidden")),
            ("trace_points", ("even", "random")),
        ):
            if getattr(self, name) not in values:
                expected = " or ".join(map(repr, values))
                raise ValueError(f"{name} = {getattr(self, name)!r}; expected {expected}")
        object.__setattr__(self, "prompts", tasks.all_prompts(self.prompts))
        for task, weight in self.task_weights.items():
            where = f"task_weights[{task!r}]"
            if task not in tasks.ALL:
                raise ValueError(f"{where} is the weight of no task{nearest(task, tasks.ALL)}")
            if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
                raise ValueError(f"{where} = {weight!r}; a weight is a number from 0 up")
        if not any(self.task_weights.get(task, 1) for task in tasks.ALL):
            raise ValueError("task_weights: every weight is 0, nothing is left to train")
        shares = {f"as_{way}": getattr(self, f"as_{way}") for way in WAYS}
        if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
            told = ", ".join(f"{way} = {share}" for way, share in shares.items())
            raise ValueError(f"{told} must be shares of 1")
        for name, most in _MOST.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} = {getattr(self, name)!r}; expected 0 to {most}")
        if not 2 <= self.location_bins <= 10_000:
            raise ValueError(f"location_bins = {self.location_bins}; expected 2…10000")
        if min(self.workers, self.threads) < 0:
            raise ValueError("workers and threads are numbers from 0 up")

    @property
    def splits(self):
        """The splits that have to be prepared, each once."""
        return tuple(dict.fromkeys((self.train_split, self.eval_split)))
