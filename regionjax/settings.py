"""All sections of a config, each with the dataclass of its owner.

`build(Settings, config, "config")` turns a config file's dictionary into this; an unknown section
or key is an error that names the nearest right one.
"""

import dataclasses

from input_pipeline.data_config import DataConfig
from regionjax.batch import BatchSpec
from regionjax.lora import LoraConfig
from regionjax.mesh import MeshConfig
from regionjax.optim import OptimConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long a run is and what it leaves behind. Periods are in steps."""

    steps: int
    batch_size: int  # images a step, over all devices
    microbatches: int = 1  # parts that a batch is taken in, to save memory
    log_every: int = 20
    checkpoint_every: int = 500
    keep_latest: int = 2  # checkpoints
    keep_every: int = 0  # also keep those of every so many steps; 0: none
    abort_after_skipped: int = 10  # updates in a row that were not finite
    evaluate_at_end: bool = True

    def __post_init__(self):
        for field in dataclasses.fields(self):
            least = 0 if field.name == "keep_every" else 1
            if field.type is int and getattr(self, field.name) < least:
                value = getattr(self, field.name)
                raise ValueError(f"{field.name} = {value}, expected at least {least}")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole config. `model`, `evaluate`, `dialogue` and `claims` are built by those who need
    them.

    `init_from` says which parameters come from a checkpoint: {scope: regionjax.starting.InitFrom}.
    """

    seed: int
    system: str
    model: dict
    data: DataConfig
    batch: BatchSpec
    losses: dict  # {loss name: weight}
    optim: OptimConfig
    train: TrainConfig
    mesh: MeshConfig = MeshConfig()
    lora: LoraConfig | None = None
    init_from: dict = dataclasses.field(default_factory=dict)
    evaluate: dict = dataclasses.field(default_factory=dict)
    dialogue: dict = dataclasses.field(default_factory=dict)
    claims: dict = dataclasses.field(default_factory=dict)  # regionjax/claims: a table of many runs
