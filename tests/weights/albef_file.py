"""A tiny random ALBEF .pth. Needs torch."""

import dataclasses
import pathlib

import numpy as np

from regionjax.models import albef
from regionjax.weights import architectures, table


def config():
    """A small AlbefConfig of the published form."""
    preset = albef.PRESETS["albef-base"]
    sizes = {"width": 64, "heads": 1, "mlp_width": 24}
    text = dataclasses.replace(
        preset.text, **sizes, depth=2, vocabulary=30, positions=9, token_types=2
    )
    fusion = dataclasses.replace(preset.fusion, **sizes, depth=2, encoder_width=64, positions=9)
    tower = dataclasses.replace(preset.vit, **sizes, depth=2, image_size=8, patch_size=4)
    return albef.AlbefConfig(vit=tower, text=text, fusion=fusion, projection=8)


def write(file):
    """Writes weights beside a queue that has no parameter; returns the former, {name: tensor}."""
    import torch

    ours, architecture = config(), architectures.ARCHITECTURES["ALBEF"]
    rng, tensors = np.random.default_rng(0), {}
    for piece in table.expand(architecture.rows(ours), architecture.shapes(ours, "float32")):
        values = rng.normal(size=piece.whole_shape).astype(np.float32)
        tensors[piece.theirs] = torch.from_numpy(np.asarray(values))
    pathlib.Path(file).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": tensors | {"image_queue": torch.zeros(4, 8)}, "epoch": 1}, file)
    return tensors
