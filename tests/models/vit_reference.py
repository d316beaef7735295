"""Tiny random vision towers of `transformers`, and the golden file of what some of them said.

`PYTHONPATH=. python tests/models/vit_reference.py` writes the golden file anew (it needs torch).
"""

import json
import math
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from parity import randomise, saved

from regionjax.models.vit import ViT
from regionjax.weights import table
from regionjax.weights.tables import vit as vit_table

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "vit.npz"


def _sizes(width, heads, depth, mlp, image, patch, **more):
    return {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_hidden_layers": depth,
        "intermediate_size": mlp,
        "image_size": image,
        "patch_size": patch,
        **more,
    }


# Settings of the towers, and sizes of images to show them beside their own: higher than wide, with
# pixels beyond the last whole patch; wider than high and smaller than the position table.
TOWERS = {
    "odd_heads": (_sizes(15, 3, 3, 22, 12, 4), [(23, 17), (4, 9)]),
    "rest_of_pixels": (
        _sizes(20, 5, 2, 31, 23, 5, layer_norm_eps=1e-3),
        [(45, 25), (10, 24)],
    ),
    "narrow_heads": (_sizes(14, 7, 1, 40, 14, 2, hidden_act="quick_gelu"), [(16, 12), (6, 14)]),
}
GOLDEN_TOWER = (_sizes(6, 3, 2, 8, 6, 2), [(8, 5)])


def build(model_type, settings):
    """A random tower of theirs, and the values of its config.json."""
    import transformers

    settings = dict(settings)
    name = vit_table.CLASSES[model_type]
    if model_type == "siglip2_vision_model":
        settings["num_patches"] = (settings.pop("image_size") // settings["patch_size"]) ** 2
    config = getattr(transformers, name.replace("Model", "Config"))(**settings)
    # The pooler of a ViTModel is no part of a tower: public files have a classifier in its place.
    more = {"add_pooling_layer": False} if model_type in ("vit", "deit") else {}
    model = randomise(getattr(transformers, name)(config, **more))
    return model, config.to_dict()


def tensors_of(model):
    """{public name: numpy array}"""
    with tempfile.TemporaryDirectory() as folder:
        return saved(model, pathlib.Path(folder))


def pictures(sizes, seed=1):
    """Random images, one batch a size: uint8 [2, H, W, 3]."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (2, *size, 3), dtype=np.uint8) for size in sizes]


def torch_forward(model, model_type, image, config):
    """What theirs says of uint8 images: features, pooled (or None), and all hidden states."""
    import torch

    pixels = (image / 255 - np.array(config.mean)) / np.array(config.std)
    pixels = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)
    more = {"interpolate_pos_encoding": True}
    if model_type == "siglip2_vision_model":
        side = config.patch_size
        shape = tuple(size // side for size in image.shape[1:3])
        pixels = pixels[:, :, : shape[0] * side, : shape[1] * side]
        pixels = pixels.reshape(len(image), 3, shape[0], side, shape[1], side)
        pixels = pixels.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        more = {
            "pixel_attention_mask": torch.ones(pixels.shape[:2], dtype=torch.int64),
            "spatial_shapes": torch.tensor([shape] * len(image)),
        }
    with torch.no_grad():
        out = model(pixels, output_hidden_states=True, **more)
        features = out.last_hidden_state
        if model_type == "clip_vision_model":  # there only the class token is normalised
            features = model.post_layernorm(features)
    pooled = None if out.pooler_output is None else out.pooler_output.numpy()
    return features.numpy(), pooled, [state.numpy() for state in out.hidden_states]


def ours(config, tensors, rows, dtype=jnp.float32):
    """Our tower as a function of images, and its parameters of their tensors."""
    network = ViT(config, dtype)
    image = np.zeros((1, config.image_size, config.image_size, 3), np.uint8)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    params = table.to_ours(tensors, rows, shapes)
    return jax.jit(lambda image: network.apply({"params": params}, image, keep_hidden=True)), params


def write_golden():
    """Weights, images and outputs of one small tower of every kind."""
    settings, sizes = GOLDEN_TOWER
    side = settings["image_size"]
    kept = {}
    for model_type in vit_table.CLASSES:
        model, values = build(model_type, settings)
        config, tensors = vit_table.config_from(values), tensors_of(model)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        kept[f"{model_type}/config"] = json.dumps({"values": values, "shapes": shapes})
        kept[f"{model_type}/tensors"] = np.concatenate([t.ravel() for t in tensors.values()])
        for i, image in enumerate(pictures([(side, side), *sizes])):
            features, pooled, _ = torch_forward(model, model_type, image, config)
            kept[f"{model_type}/{i}/image"] = image
            kept[f"{model_type}/{i}/features"] = features
            kept[f"{model_type}/{i}/pooled"] = features[:0] if pooled is None else pooled
    np.savez_compressed(GOLDEN, **kept)


def read_golden(model_type):
    """Values of config.json, {name: tensor}, and (image, features, pooled) of two sizes."""
    with np.load(GOLDEN) as file:
        kept = {name: file[name] for name in file.files if name.startswith(f"{model_type}/")}
    header = json.loads(str(kept[f"{model_type}/config"]))
    tensors, start = {}, 0
    for name, shape in header["shapes"].items():
        end = start + math.prod(shape)
        tensors[name] = kept[f"{model_type}/tensors"][start:end].reshape(shape)
        start = end
    names = ("image", "features", "pooled")
    seen = [tuple(kept[f"{model_type}/{i}/{name}"] for name in names) for i in range(2)]
    return header["values"], tensors, seen


if __name__ == "__main__":
    write_golden()
