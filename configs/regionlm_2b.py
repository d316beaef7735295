"""A 3-billion-parameter regionlm on photographs, for a TPU slice.

A ViT of So400m size (224 px, patches of 14) reads the image; a decoder of Gemma-2B size answers
for eight regions of it at once. All of it is trained, from random parameters.

    python -m regionjax.main --config configs/regionlm_2b.py --workdir DIR --distributed
    python -m regionjax.main --config configs/regionlm_2b.py:v6e-16 --workdir DIR --distributed

The first is for v5e:16x16 (256 chips), the second for v6e:4x4 (16 chips); every process of the
slice runs the same command. What a step needs can be seen without any TPU:

    python -m regionjax.main --config configs/regionlm_2b.py --mode plan --topology v5e:16x16
    python -m regionjax.main --config configs/regionlm_2b.py:v6e-16 --mode plan --topology v6e:4x4

Compiled (jax 0.10.2, libtpu 0.0.42; nothing was run), memory a chip:

    slice       images a step   arguments   temporaries    sum       of          compile, 2 cores
    v5e:16x16            1024     0.3 GiB       6.2 GiB    6.6 GiB   15.75 GiB   about 5 minutes
    v6e:4x4               128     2.2 GiB      13.1 GiB   15.4 GiB   31.25 GiB   about 8 minutes

With remat=full in place of matmuls (vit and decoder) the first took about 1.9 GiB.

Data: `data/coco` in COCO's layout with Localized Narratives and RefCOCO beside it (see
input_pipeline/sources), and `data/tokenizer`, a Hugging Face tokenizer directory of at most
257,216 tokens.
"""

from ml_collections import ConfigDict

from regionjax.config import ConfigError, nearest

IMAGE = 224
# The vision tower is 1152 wide, which fsdp must divide: 128 and 16 do, 256 does not.
SLICES = {
    "v5e-256": {"mesh": {"data": 2, "fsdp": 128, "tensor": 1}, "batch_size": 1024},
    "v6e-16": {"mesh": {"data": 1, "fsdp": 16, "tensor": 1}, "batch_size": 128},
}


def get_config(arg="v5e-256"):
    """The configuration for a slice: `v5e-256` or `v6e-16`."""
    if arg not in SLICES:
        raise ConfigError(f"configs/regionlm_2b.py:{arg} is not a slice{nearest(arg, SLICES)}")
    place = SLICES[arg]
    return ConfigDict(
        {
            "seed": 0,
            "system": "regionlm",
            "batch": {
                "image_size": IMAGE,
                "mask_size": 64,
                "regions": 8,
                "points": 16,
                "prompt_length": 32,
                "target_length": 32,
                "text_length": 48,
            },
            "model": {
                "dtype": "bfloat16",
                "vocabulary_chunks": 8,
                "vit": {
                    "image_size": IMAGE,
                    "patch_size": 14,
                    "width": 1152,
                    "depth": 27,
                    "heads": 16,
                    "mlp_width": 4304,
                    "remat": "matmuls",
                },
                "region": {"cells": 3, "prompt_tokens": 4, "silhouette": 8, "focus": 16},
                "decoder": {
                    "vocabulary": 257_216,
                    "width": 2048,
                    "depth": 18,
                    "heads": 8,
                    "kv_heads": 1,
                    "head_width": 256,
                    "mlp_width": 16_384,
                    "remat": "matmuls",
                },
            },
            "data": {
                "root": "data/coco",
                "mixture": {
                    "coco": 0.5,
                    "localized_narratives": 0.3,
                    "refcoco_unc": 0.1,
                    "refcocog_umd": 0.1,
                },
                "tokenizer": "data/tokenizer",
                "on_bad": "skip",
                "on_long": "skip",
                "threads": 16,
            },
            "losses": {"caption": 1.0, "grounding": 1.0, "pointing": 0.5},
            "optim": {
                "learning_rate": 3e-4,
                "warmup_fraction": 0.02,
                "weight_decay": (("kernel", 0.02), (".*", 0.0)),
            },
            "train": {
                "steps": 20_000,
                "batch_size": place["batch_size"],
                "checkpoint_every": 1000,
            },
            "mesh": place["mesh"],
            "evaluate": {"max_images": 1000},
        }
    )
