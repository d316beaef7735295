"""Any folder in COCO's layout: a region's text is its category, the image's text its caption.

    python -m regionjax.main --config configs/coco_regions.py --workdir runs/coco \\
        --config.data.root=DIR

DIR holds `train2017/` and, in `annotations/`, `instances_train2017.json` and
`captions_train2017.json`. The sizes are for two CPU cores and a folder of a hundred photographs,
which the model learns by heart in about 8 minutes. It is scored on the images it was trained on,
unless `config.data.eval_split` names another split of the folder.
"""

from ml_collections import ConfigDict

IMAGE, PATCH, WIDTH = 128, 16, 128


def get_config():
    """The whole configuration; every field can be overridden, as in --config.train.steps=50."""
    return ConfigDict(
        {
            "seed": 0,
            "system": "regionlm",
            "batch": {
                "image_size": IMAGE,
                "mask_size": 64,
                "regions": 16,
                "points": 8,
                "prompt_length": 8,
                "target_length": 24,
                "text_length": 25,
            },
            "model": {
                "vit": {
                    "image_size": IMAGE,
                    "patch_size": PATCH,
                    "width": WIDTH,
                    "depth": 4,
                    "heads": 4,
                    "mlp_width": 4 * WIDTH,
                    "unroll": 4,
                    "stem_width": 64,
                },
                "region": {"cells": 3, "prompt_tokens": 2, "silhouette": 8, "focus": 16},
                "decoder": {
                    "vocabulary": 1024,
                    "width": WIDTH,
                    "depth": 2,
                    "heads": 4,
                    "kv_heads": 2,
                    "head_width": 32,
                    "mlp_width": 3 * WIDTH,
                    "unroll": 2,
                },
            },
            "data": {
                "root": "data/coco",
                "mixture": {"coco": 1.0},
                "eval_split": "train",
                "vocabulary_size": 1024,
                "location_bins": 64,
                "on_long": "skip",
                "as_mask": 0.8,
                "as_box": 0.1,
                "as_points": 0.1,
                "threads": 1,
            },
            "losses": {"caption": 1.0, "grounding": 0.25, "pointing": 0.25},
            "optim": {
                "learning_rate": 1.5e-3,
                "warmup_fraction": 0.05,
                "learning_rate_multipliers": (("kernel", 3.0), (".*", 1.0)),
                "muon": (
                    ("layers/attention_out/kernel", "biio"),
                    ("layers/(query|key|value)/kernel", "bioo"),
                    ("layers/.*kernel", "bio"),
                    ("pointer/key_out/kernel", "iooo"),
                    ("prompt_out/kernel", "ioo"),
                    ("kernel", "io"),
                    (".*", ""),
                ),
            },
            "train": {"steps": 600, "batch_size": 8, "checkpoint_every": 200},
            "mesh": {"data": 1, "fsdp": -1, "tensor": 1},
            "evaluate": {"max_images": 200},
        }
    )
