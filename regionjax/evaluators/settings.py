"""The settings of an evaluation."""

import dataclasses

from regionjax.decode import GenerationConfig


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """How much is evaluated, how text is generated and how sure the scores are.

    The split is the data's `eval_split`.

    Raises:
      ValueError: a count that is not positive.
    """

    max_images: int = 200  # of each source
    batch_size: int = 16  # images a device call, over the whole mesh
    generation: GenerationConfig = GenerationConfig()
    bootstrap_samples: int = 1000
    seed: int = 0  # of the bootstrap, of sampled points and text, and of the gallery
    gallery: int = 12  # pictures a section of the report, drawn at random

    def __post_init__(self):
        for name in ("max_images", "batch_size", "bootstrap_samples", "gallery"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
