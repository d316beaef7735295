"""LoRA adapters in PEFT's format: adapter_config.json and adapter_model.safetensors."""

import collections

import numpy as np

from regionjax import lora, tables
from regionjax.weights import files, table
from regionjax.weights.table import WeightsError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def write(params, alpha, rows, out, base):
    """Writes a new directory `out` that PEFT loads on the base model.

    Layers are named as in the base model's files.

    Args:
      params: nested parameters with the scope `lora`, numpy arrays.
      alpha: of config.lora.
      rows: table of the base model.
      out: folder to be made.
      base: where the base model is, for adapter_config.json.

    Raises:
      WeightsError: an adapter whose layer is fused with others in theirs.
    """
    pairs = lora.pairs(params)
    leaves = tables.flatten({name: tree for name, tree in params.items() if name != lora.SCOPE})
    tensors, ranks = {}, {}
    for piece in table.expand(rows, tables.nest(leaves)):
        path, _, leaf = piece.ours.rpartition("/")
        if leaf != "kernel" or path not in pairs:
            continue
        if piece.row.part is not None:
            raise WeightsError(
                f"{piece.theirs} holds {path} and others, so PEFT has no place for its adapter "
                "alone; --lora merge has"
            )
        a, b = (pair if piece.index is None else pair[piece.index] for pair in pairs[path])
        rank, module = a.shape[-1], piece.theirs.removesuffix(".weight")
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a.reshape(-1, rank).T
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b.reshape(rank, -1).T
        ranks[module] = rank
    usual = collections.Counter(ranks.values()).most_common(1)[0][0]
    with files.new_directory(out) as partial:
        others = {module: rank for module, rank in ranks.items() if rank != usual}
        said = {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": base,
            "r": usual,
            "lora_alpha": alpha,
            "rank_pattern": others,
            "target_modules": sorted(ranks),
            "lora_dropout": 0.0,
            "bias": "none",
            "use_rslora": False,
            "fan_in_fan_out": False,
            "inference_mode": True,
        }
        files.write_json(partial / CONFIG, said)
        headers = {name: (tensor.shape, np.float32) for name, tensor in tensors.items()}
        files.write_safetensors(partial / WEIGHTS, headers, tensors.__getitem__)
