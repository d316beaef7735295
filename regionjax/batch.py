"""The batch: names, shapes and dtypes, in one place.

Letters used in every einsum, docstring and shape comment: B images, R regions an image, P patches,
K trace points, T text tokens, N heads, H head width, D width, V vocabulary; S image side, M mask
side. One image carries R slots; a slot is a region, a prompt and a target. A whole-image caption
is a slot whose region is the whole image and whose prompt is empty. An unused slot weighs 0.
Coordinates are xy, normalised to [0, 1], origin top-left, boxes xyxy.
"""

import dataclasses

import jax
import numpy as np

from regionjax.regions import Region

SLOTS = ("region_points", "region_box", "region_mask", "prompt", "target_box")  # one of each a slot
TEXTS = ("target", "target_weight")  # one of each a slot, or several to compare them


@dataclasses.dataclass(frozen=True)
class Segment:
    """One slot before it is encoded: what is pointed at, what is asked, what is answered.

    `target_box` (f32 [4] or None) is the box that a grounding answer names; it supervises the
    heatmap and is never shown to the model.
    """

    region: Region
    prompt: str = ""
    target: str = ""
    target_box: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """The static sizes of a batch."""

    image_size: int  # S, pixels
    mask_size: int  # M
    regions: int  # R
    points: int  # K
    prompt_length: int  # Tp
    target_length: int  # T
    text_length: int  # prompt and target of a slot together: at most Tp + T, often much less

    def __post_init__(self):
        if not 0 < self.text_length <= self.prompt_length + self.target_length:
            raise ValueError(
                f"text_length {self.text_length} must lie in 1…prompt_length + target_length "
                f"= {self.prompt_length + self.target_length}"
            )

    def fields(self):
        """{name: (shape without B, numpy dtype)} of everything a batch holds."""
        r = self.regions
        return {
            "image": ((self.image_size, self.image_size, 3), np.uint8),
            "region_points": ((r, self.points, 2), np.float32),
            "region_box": ((r, 4), np.float32),
            "region_mask": ((r, self.mask_size, self.mask_size), np.uint8),  # 0…255 = coverage
            "prompt": ((r, self.prompt_length), np.int32),  # right-padded with 0
            "target": ((r, self.target_length), np.int32),  # ends with eos, right-padded with 0
            "target_weight": ((r, self.target_length), np.float32),
            "target_box": ((r, 4), np.float32),  # all 0: this slot has none
            "example": ((), np.int32),  # global position in the training stream
            "bad": ((), np.int32),  # 1: the image could not be read and was skipped on request
            "long_texts": ((), np.int32),  # texts that did not fit: cut or left out on request
        }

    def abstract(self, batch_size):
        """{name: ShapeDtypeStruct [B, …]}: the batch by shapes only."""
        return {
            name: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
            for name, (shape, dtype) in self.fields().items()
        }

    def zeros(self, batch_size):
        """A batch of zeros, for initialisation and padding."""
        return {
            name: np.zeros((batch_size, *shape), dtype)
            for name, (shape, dtype) in self.fields().items()
        }

    def check(self, batch):
        """Raises ValueError naming the first field that is missing, extra or misshapen."""
        fields = self.fields()
        if missing := fields.keys() - batch.keys():
            raise ValueError(f"batch lacks {sorted(missing)}")
        if extra := batch.keys() - fields.keys():
            raise ValueError(f"batch has unknown fields {sorted(extra)}")
        for name, (shape, dtype) in fields.items():
            value = batch[name]
            if value.shape[1:] != shape or value.dtype != dtype:
                raise ValueError(
                    f"batch[{name!r}] is {value.dtype}{list(value.shape)}, "
                    f"expected {np.dtype(dtype)}[B, {', '.join(map(str, shape))}]"
                )
