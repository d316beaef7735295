"""The settings of an evaluation."""

import dataclasses

import numpy as np

from regionjax.decode import GenerationConfig

RULES = ("all", "sensible", "parity")
METHODS = ("likelihood", "digit")
COMBINED = {"min": np.min, "mean": np.mean}  # one score of several, lower is better


@dataclasses.dataclass(frozen=True)
class ProposalConfig:
    """Which proposals are chosen among; evaluators/proposals.py says what the rules do.

    The numbers are those of RegionVLM on photographs with masks of Segment Anything. Things may be
    smaller than `least_area` elsewhere: half of those in the built-in world are.

    Raises:
      ValueError: an unknown rule, a share outside 0…1 or `most` below 1.
    """

    rule: str = "all"  # "all", "sensible" or "parity"
    least_area: float = 0.04  # share of the image
    most_border: float = 0.7  # share of one side of the image
    most: int = 20  # proposals an image
    fallback_area: float = 0.01  # the least area where nothing else is left

    def __post_init__(self):
        if self.rule not in RULES:
            raise ValueError(f"rule = {self.rule!r}; expected {' or '.join(map(repr, RULES))}")
        for name in ("least_area", "most_border", "fallback_area"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be a share, 0 to 1")
        if self.most < 1:
            raise ValueError(f"most = {self.most} must be at least 1")


@dataclasses.dataclass(frozen=True)
class RobustnessConfig:
    """How scribbles are made worse; evaluators/robustness.py says how. All empty: not at all.

    Captions, narrations and segmentation are evaluated once more for every number here. A number
    of 0 (for `points`: many) is where a curve begins: points alone, as they are.

    Raises:
      ValueError: a number that cannot be.
    """

    outside: tuple[float, ...] = ()  # shares of the points
    jitter: tuple[float, ...] = ()  # by the square root of the region's area
    shuffled: tuple[float, ...] = ()  # shares of the points
    points: tuple[int, ...] = ()
    count: int = 10  # points a region where it is not said; more than batch.points are thinned out

    def __post_init__(self):
        for name, most in (("outside", 1), ("jitter", float("inf")), ("shuffled", 1)):
            for value in getattr(self, name):
                if not 0 <= value <= most:
                    raise ValueError(f"{name} = {getattr(self, name)}: {value} is not in 0…{most}")
        for value in (*self.points, self.count):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{value!r} is not a number of points; 1 is the least")


def with_lengths(spec, settings):
    """The BatchSpec of an evaluation: `spec`, with the lengths that EvaluateConfig gives."""
    prompt = settings.prompt_length or spec.prompt_length
    target = settings.target_length or spec.target_length
    if (prompt, target) == (spec.prompt_length, spec.target_length):
        return spec
    lengths = {"prompt_length": prompt, "target_length": target, "text_length": prompt + target}
    return dataclasses.replace(spec, **lengths)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """How much is evaluated, how text is generated and how sure the scores are.

    The split is the data's `eval_split`.

    Raises:
      ValueError: a count that is not positive.
    """

    max_images: int = 200  # of each source
    batch_size: int = 16  # images a device call, over the whole mesh
    # Tokens that a prompt and an answer may have, where questions are longer than what is trained;
    # 0: as in `config.batch`. What is longer is left out and counted. (data.on_long = "stop" is
    # about all parts, and about what fits in training.)
    prompt_length: int = 0
    target_length: int = 0
    generation: GenerationConfig = GenerationConfig()
    # How answers of a word or two are generated, such as those to VQA's questions; None: as all
    # text. BLIP-2 and RegionVLM: 5 beams, 10 tokens, length_penalty -1.
    short_answers: GenerationConfig | None = None
    # How a text is chosen among several (evaluators/choices.py): "likelihood", "digit", or both.
    choices_by: tuple[str, ...] = ("likelihood",)
    proposals: ProposalConfig = ProposalConfig()
    # How often an expression is scored against a proposal, each time with other points in it, and
    # whether the best of these scores counts ("min", as published) or their mean, which five lucky
    # points in half of a thing move less. For systems that read points; masks need one.
    point_samplings: int = 1
    samplings_by: str = "min"
    # Texts of proposals (and samplings of them) that share one encoding of their image, so 100 are
    # 20 proposals by five expressions; 0: batch.regions. They take the room of several images: a
    # device call then has fewer images.
    scored_together: int = 0
    robustness: RobustnessConfig = RobustnessConfig()
    bootstrap_samples: int = 1000
    seed: int = 0  # of the bootstrap, of sampled points and text, and of the gallery
    gallery: int = 12  # pictures a section of the report, drawn at random

    def __post_init__(self):
        for name in ("max_images", "batch_size", "bootstrap_samples", "gallery", "point_samplings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.samplings_by not in COMBINED:
            raise ValueError(
                f"samplings_by = {self.samplings_by!r}: expected {' or '.join(map(repr, COMBINED))}"
            )
        for name in ("scored_together", "prompt_length", "target_length"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 0")
        for method in self.choices_by:
            if method not in METHODS:
                raise ValueError(
                    f"choices_by = {self.choices_by}: expected {' or '.join(map(repr, METHODS))}"
                )
