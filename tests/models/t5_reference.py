"""Tiny random T5s of `transformers`, and the golden file that keeps what one of them said.

`PYTHONPATH=. python tests/models/t5_reference.py` writes the golden file anew (it needs torch).
"""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from parity import randomise, saved

from regionjax.models.t5 import T5
from regionjax.weights import table
from regionjax.weights.tables import t5 as t5_table

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "t5.npz"

# (settings of transformers' T5Config, whether lm_head is a tensor of its own)
CONFIGS = {
    "v1_0": (
        dict(d_model=16, d_kv=5, d_ff=24, num_layers=3, num_decoder_layers=2, num_heads=3),
        False,
    ),
    "v1_1": (
        dict(
            **dict(d_model=24, d_kv=8, d_ff=20, num_layers=3, num_decoder_layers=2, num_heads=4),
            **dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
            **dict(relative_attention_num_buckets=8, relative_attention_max_distance=20),
        ),
        True,
    ),
    "blip_2": (  # exact GELU, as BLIP-2's Flan-T5
        dict(
            **dict(d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, dense_act_fn="gelu"),
            **dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
            **dict(layer_norm_epsilon=1e-5),
        ),
        False,
    ),
}
CONFIGS["golden"] = (
    dict(
        **dict(d_model=12, d_kv=4, d_ff=10, num_layers=2, num_decoder_layers=1, num_heads=3),
        **dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        **dict(relative_attention_num_buckets=8, relative_attention_max_distance=20),
    ),
    True,
)
VOCABULARY = 61
HEADER = dict(vocab_size=VOCABULARY, decoder_start_token_id=0)
GOLDEN_EOS = 19


def build(name, seed=0):
    """A random T5ForConditionalGeneration, its tensors, and our config of it."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    settings, own_head = CONFIGS[name]
    config = T5Config(**HEADER, **settings)
    model = T5ForConditionalGeneration(config)
    if own_head:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    tensors = tensors_of(randomise(model, seed))
    return model, tensors, t5_table.config_from(config.to_dict(), tensors)


def tensors_of(model):
    """{public name: numpy array}"""
    with tempfile.TemporaryDirectory() as folder:
        return saved(model, pathlib.Path(folder))


def ours(config, tensors, dtype=jnp.float32):
    """Our T5 and its variables, of their tensors."""
    network = T5(config, dtype)
    tokens = jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), tokens, tokens)["params"]
    return network, {"params": table.to_ours(tensors, t5_table.rows(config), shapes)}


def inputs(length, target, seed=0, batch=3):
    """Tokens i32 [batch, length], decoder inputs [batch, target], and two masks [batch, length]."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, VOCABULARY, (batch, length), dtype=np.int32)
    decoder = rng.integers(2, VOCABULARY, (batch, target), dtype=np.int32)
    decoder[:, 0] = 0
    real = length - np.arange(batch)[:, None] * length // (batch + 1)  # tokens that are no padding
    right = np.arange(length) < real
    return tokens, decoder, {"none": None, "right": right, "left": right[:, ::-1]}


def torch_forward(model, tokens, decoder, mask):
    """Logits, and what encoder and decoder say after every layer, of the reference."""
    import torch

    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(tokens).long(),
            decoder_input_ids=torch.from_numpy(decoder).long(),
            attention_mask=None if mask is None else torch.from_numpy(mask.copy()).long(),
            output_hidden_states=True,
        )
    encoder = [state.numpy() for state in out.encoder_hidden_states]
    return out.logits.numpy(), encoder, [state.numpy() for state in out.decoder_hidden_states]


def torch_generate(model, tokens, mask, **settings):
    """i32 [batch, length] without the start token, 0 after the end."""
    import torch

    tokens, mask = torch.from_numpy(tokens).long(), torch.from_numpy(mask.copy()).long()
    return generated(model, input_ids=tokens, attention_mask=mask, **settings)


def generated(model, *, eos_id, length, **settings):
    """What `model.generate` says: i32 [batch, length] without the start token, 0 after `eos_id`."""
    ends = {"eos_token_id": eos_id, "pad_token_id": 0, "max_new_tokens": length}
    out = model.generate(do_sample=False, **ends, **settings)[:, 1:].numpy()
    out = np.pad(out, [(0, 0), (0, length - out.shape[1])]).astype(np.int32)
    ended = np.cumsum(out == eos_id, axis=1) - (out == eos_id) > 0  # beams repeat the end
    return np.where(ended, 0, out)


def write_golden():
    """Weights, inputs and outputs of one small model."""
    model, tensors, _ = build("golden")
    tokens, decoder, masks = inputs(9, 6)
    mask = masks["left"]
    logits, encoder, _ = torch_forward(model, tokens, decoder, mask)
    ends = dict(eos_id=GOLDEN_EOS, length=8)
    np.savez_compressed(
        GOLDEN,
        **{f"tensor/{name}": tensor for name, tensor in tensors.items()},
        **dict(tokens=tokens, decoder=decoder, mask=mask, logits=logits, encoded=encoder[-1]),
        greedy=torch_generate(model, tokens, mask, **ends),
        beam=torch_generate(model, tokens, mask, **ends, num_beams=3),
    )


if __name__ == "__main__":
    write_golden()
