"""A regionlm that starts from public weights: PaliGemma, or SigLIP and Gemma or Qwen3.

    python -m regionjax.weights import downloads/paligemma-3b-pt-224 weights/paligemma
    python -m regionjax.main --config configs/regionlm_pretrained.py --workdir DIR

    python -m regionjax.weights import downloads/siglip-so400m-patch14-224 weights/siglip
    python -m regionjax.weights import downloads/gemma-2b weights/gemma
    python -m regionjax.main --config configs/regionlm_pretrained.py:siglip+gemma --workdir DIR

    python -m regionjax.weights import downloads/Qwen3-1.7B weights/qwen3
    python -m regionjax.main --config configs/regionlm_pretrained.py:siglip+qwen3 --workdir DIR

`downloads/NAME` is the Hugging Face directory with its tokenizer. The tower and the language model
are frozen, but for LoRA adapters and a table of words that has new rows; all that is regionlm's own
begins at random and is trained. What a step needs of a slice is told without one by `--mode plan`
with `--topology v6e:4x4`. Nothing has been trained at this size here.

Data: as in configs/regionlm_2b.py, at `config.data.root`.
"""

import dataclasses

from ml_collections import ConfigDict

from regionjax.config import ConfigError, nearest
from regionjax.models import decoder_config, vit

IMAGE = 224
SIGLIP = {"vit": {"path": "weights/siglip", "leave": ("params/pool/",)}}
# Language model, words (with 1024 location tokens), tokenizer, config.init_from.
STARTS = {
    "paligemma": (
        "gemma-2b",
        257_216,
        "downloads/paligemma-3b-pt-224",
        {part: {"path": "weights/paligemma", "part": part} for part in ("vit", "decoder")},
    ),
    "siglip+gemma": (
        "gemma-2b",
        257_152,
        "downloads/gemma-2b",
        {**SIGLIP, "decoder": {"path": "weights/gemma", "extend": ("/embedding$",)}},
    ),
    # Its padding is not 0, so it changes places with the word that is.
    "siglip+qwen3": (
        "qwen3-1.7b",
        152_704,
        "downloads/Qwen3-1.7B",
        {
            **SIGLIP,
            "decoder": {
                "path": "weights/qwen3",
                "extend": ("/embedding$",),
                "swap": (0, 151_643),
            },
        },
    ),
}
ADAPTED = "^params/decoder/layers/(query|key|value|attention_out|mlp_gate|mlp_up|mlp_out)/"


def get_config(arg="paligemma"):
    """The configuration for one of STARTS."""
    if arg not in STARTS:
        raise ConfigError(f"configs/regionlm_pretrained.py:{arg}{nearest(arg, STARTS)}")
    language, vocabulary, tokenizer, init_from = STARTS[arg]
    tower = vit.PRESETS["siglip-so400m-patch14-224"]
    language = dataclasses.replace(decoder_config.PRESETS[language], vocabulary=vocabulary)
    tower, language = (dataclasses.replace(part, remat="matmuls") for part in (tower, language))
    new_words = "extend" in init_from["decoder"]
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
                "vit": dataclasses.asdict(tower) | {"attention_pool": False},
                "region": {"cells": 3, "prompt_tokens": 4, "silhouette": 8, "focus": 16},
                "decoder": dataclasses.asdict(language),
            },
            "init_from": init_from,
            "lora": {"ranks": ((ADAPTED, 16), (".*", 0)), "alpha": 32.0},
            "data": {
                "root": "data/coco",
                "mixture": {"coco": 1.0},
                "tokenizer": tokenizer,
                "on_bad": "skip",
                "on_long": "skip",
                "threads": 16,
            },
            "losses": {"caption": 1.0, "grounding": 1.0, "pointing": 0.5},
            "optim": {
                "learning_rate": 2e-4,
                "warmup_fraction": 0.03,
                "frozen": (
                    ("^params/decoder/embedding$", not new_words),
                    ("^params/(vit|decoder)/", True),
                    (".*", False),
                ),
            },
            "train": {"steps": 10_000, "batch_size": 64, "checkpoint_every": 500},
            "mesh": {"data": 1, "fsdp": -1, "tensor": 1},
            "evaluate": {"max_images": 1000},
        }
    )
