"""What transformers said about one tiny Swin, BERT, Q-Former and ALBEF, kept in files.

`PYTHONPATH=. python tests/models/golden.py` writes them anew (it needs torch).
"""

import json
import pathlib
import tempfile

import numpy as np

FOLDER = pathlib.Path(__file__).parents[1] / "golden"


def read(name):
    """{"json": config.json, "tensors": {name: array}, and the arrays by their names}."""
    kept = {"tensors": {}}
    with np.load(FOLDER / f"{name}.npz") as file:
        for key, array in file.items():
            if key.startswith("tensor/"):
                kept["tensors"][key.removeprefix("tensor/")] = array
            else:
                kept[key] = array
    kept["json"] = json.loads(str(kept["json"]))
    return kept


def _write(name, settings, tensors, **arrays):
    tensors = {f"tensor/{key}": tensor for key, tensor in tensors.items()}
    np.savez_compressed(FOLDER / f"{name}.npz", json=json.dumps(settings), **tensors, **arrays)


def _swin(folder):
    import test_swin_parity as parity
    import torch

    theirs = parity.TheirConfig(
        **dict(image_size=18, patch_size=2, embed_dim=4, window_size=3, mlp_ratio=2.0),
        **dict(depths=[2, 2], num_heads=[1, 2]),
    )
    model = parity.randomise(parity.SwinModel(theirs))
    config = parity.swin_table.config_from(theirs.to_dict())
    image = np.random.default_rng(1).integers(0, 256, (2, 15, 21, 3), dtype=np.uint8)
    with torch.no_grad():
        features = model(parity.pixels(image, config)).last_hidden_state
    settings = parity.swin_table.config_to(config)
    _write("swin", settings, parity.saved(model, folder), image=image, features=features)


_TINY = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 9,
    "vocab_size": 43,
}


def _bert(folder):
    import test_bert_parity as parity
    import torch

    model = parity.randomise(parity.BertForMaskedLM(parity.TheirConfig(**_TINY)))
    tokens, masks = parity.texts(7)
    with torch.no_grad():
        logits = model(parity.flat(tokens), parity.flat(masks["left"])).logits
    settings = model.config.to_dict() | {"architectures": ["BertForMaskedLM"]}
    tensors = parity.saved(model, folder)
    _write("bert", settings, tensors, tokens=tokens, mask=masks["left"], logits=logits)


def _qformer(folder):
    import test_bert_parity as parity
    import torch

    theirs = parity.InstructBlipQFormerConfig(encoder_hidden_size=parity.ENCODER_WIDTH, **_TINY)
    model = parity.randomise(parity.InstructBlipQFormerModel(theirs))
    tokens, _ = parity.texts(5)
    config, tensors, _, encoded = parity.with_queries(model, 3, folder, tokens)
    with torch.no_grad():
        hidden = model(
            parity.flat(tokens),
            query_embeds=torch.from_numpy(tensors["query_tokens"]).expand(6, -1, -1),
            encoder_hidden_states=torch.from_numpy(encoded).repeat_interleave(3, 0),
        ).last_hidden_state
    settings = parity.bert_table.config_to(config)
    _write("qformer", settings, tensors, tokens=tokens, encoded=encoded, hidden=hidden)


def _albef(folder):
    import test_albef_parity as parity
    import torch

    vision, text = parity.build(4, 2, 1, 8, 4, 1, 2, vocab_size=41, max_position_embeddings=9)
    vision, text = parity.randomise(vision, 1), parity.randomise(text, 2)
    tensors, _ = parity.file_of(vision, text, folder)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    config = parity.albef_table.config_from(shapes, head_width=4)
    rng = np.random.default_rng(4)
    image = rng.integers(0, 256, (parity.B, 8, 8, 3), dtype=np.uint8)
    tokens = rng.integers(1, 41, (parity.B, parity.R, parity.T), dtype=np.int32)
    mask = np.arange(parity.T) < 2 + np.arange(6).reshape(2, 3, 1) // 2
    features, out, logits = parity.reference(
        (vision, text, tensors, config, None, (image, tokens, mask))
    )
    for attention in out.cross_attentions:
        attention.retain_grad()
    matches = parity.linear(tensors, "itm_head", out.last_hidden_state[:, 0])
    matches[:, 1].sum().backward()
    _write(
        "albef",
        {"head_width": 4},
        tensors,
        **dict(image=image, tokens=tokens, mask=mask),
        **dict(matches=matches.detach(), logits=logits.detach()),
        gradients=torch.stack([attention.grad for attention in out.cross_attentions]),
    )


if __name__ == "__main__":
    for write in (_swin, _bert, _qformer, _albef):
        with tempfile.TemporaryDirectory() as folder:
            write(pathlib.Path(folder))
