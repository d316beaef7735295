"""Tiny random language models of `transformers`, and a golden file of what one of each kind said.

`PYTHONPATH=. python tests/models/decoder_reference.py` writes the golden file (it needs torch).
"""

import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from parity import randomise, saved

from regionjax import decode
from regionjax.models.decoder import Decoder
from regionjax.weights import table
from regionjax.weights.tables import decoder as decoder_table

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "decoder.npz"
VOCABULARY = 61
EOS = 7


def _sizes(width, heads, kv_heads, head_width, depth, mlp, **more):
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_width,
        "num_hidden_layers": depth,
        "intermediate_size": mlp,
        **more,
    }


def _kinds(letters):
    return {"layer_types": [{"f": "full", "l": "sliding"}[c] + "_attention" for c in letters]}


def _caps(attention, final, divisor):
    return {
        "attn_logit_softcapping": attention,
        "final_logit_softcapping": final,
        "query_pre_attn_scalar": divisor,
    }


# By name: model_type and settings. Windows are shorter than most texts below, but never 1: then
# the cache of transformers 5.23 keeps all tokens.
MODELS = {
    "gemma_one_kv_head": ("gemma", _sizes(15, 3, 1, 10, 3, 22)),
    "gemma_grouped": ("gemma", _sizes(24, 6, 2, 4, 2, 40, rms_norm_eps=1e-3)),
    "gemma_untied": (
        "gemma",
        _sizes(20, 5, 5, 6, 2, 18, tie_word_embeddings=False, rope_theta=100.0),
    ),
    "gemma2_alternating": (
        "gemma2",
        _sizes(18, 3, 1, 8, 4, 26, sliding_window=3, **_caps(2.0, 1.5, 8)),
    ),
    "gemma2_grouped": (
        "gemma2",
        _sizes(24, 6, 3, 4, 3, 30, sliding_window=5, **_kinds("lfl"), **_caps(0.7, 3.0, 11)),
    ),
    "gemma2_untied": (
        "gemma2",
        _sizes(
            *(10, 5, 5, 6, 2, 24),
            **dict(sliding_window=2, tie_word_embeddings=False),
            **_caps(None, None, 3),
        ),
    ),
    "gemma3_two_bases": (
        "gemma3_text",
        _sizes(
            *(20, 4, 2, 6, 6, 24),
            **dict(sliding_window=4, sliding_window_pattern=3, query_pre_attn_scalar=9),
            **dict(rope_theta=5e3, rope_local_base_freq=50.0),
        ),
    ),
    "gemma3_longer": (
        "gemma3_text",
        _sizes(
            *(21, 7, 1, 4, 3, 20),
            **dict(sliding_window=2, rope_scaling={"rope_type": "linear", "factor": 8.0}),
            **_kinds("lff"),
        ),
    ),
    "gemma3_capped": (
        "gemma3_text",
        _sizes(
            *(12, 3, 3, 8, 2, 30),
            **dict(sliding_window=6, final_logit_softcapping=2.0, tie_word_embeddings=False),
            **_kinds("fl"),
        ),
    ),
    "qwen3_untied": ("qwen3", _sizes(20, 5, 1, 8, 3, 24, rope_theta=1e6)),
    "qwen3_tied": ("qwen3", _sizes(24, 6, 2, 10, 2, 36, tie_word_embeddings=True)),
    "qwen3_windows": (
        "qwen3",
        _sizes(
            *(16, 4, 4, 6, 3, 20),
            **dict(use_sliding_window=True, sliding_window=3, max_window_layers=1),
        ),
    ),
}
GOLDEN_MODELS = {
    "gemma": ("gemma", _sizes(6, 3, 1, 4, 2, 8)),
    "gemma2": (
        "gemma2",
        _sizes(6, 3, 1, 4, 2, 8, sliding_window=3, **_caps(2.0, 1.5, 8)),
    ),
    "gemma3_text": (
        "gemma3_text",
        _sizes(8, 2, 1, 4, 2, 10, sliding_window=4, rope_local_base_freq=50.0, **_kinds("lf")),
    ),
    "qwen3": ("qwen3", _sizes(6, 3, 1, 4, 2, 8, tie_word_embeddings=False)),
}


def build(model_type, settings):
    """A random ForCausalLM, and the values of its config.json."""
    import transformers

    name = decoder_table.CLASSES[model_type]
    name, text = name.removesuffix("ForCausalLM"), "Text" if model_type == "gemma3_text" else ""
    config = getattr(transformers, f"{name}{text}Config")(
        **settings, attn_implementation="eager", eos_token_id=None, pad_token_id=0
    )
    model = randomise(getattr(transformers, decoder_table.CLASSES[model_type])(config))
    return model, {**settings, "model_type": model_type}


def ours(values, tensors, dtype=jnp.float32):
    """Our decoder and its variables, of a config.json and the tensors beside it."""
    config = decoder_table.config_from(values)
    network = Decoder(config, dtype)
    tokens = jnp.zeros((1, 2), jnp.int32)
    init = lambda: network.init(jax.random.key(0), tokens, method=Decoder.read)  # noqa: E731
    shapes = jax.eval_shape(init)["params"]
    return network, {"params": table.to_ours(tensors, decoder_table.rows(config), shapes)}


def inputs(length, seed=0, batch=3):
    """Tokens i32 [batch, length], and masks by the side where the padding lies."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, VOCABULARY, (batch, length), dtype=np.int32)
    real = length - np.arange(batch)[:, None] * length // (batch + 1)  # tokens that are no padding
    right = np.arange(length) < real
    return tokens, {"none": np.ones_like(right), "right": right, "left": right[:, ::-1]}


def torch_forward(model, tokens, mask):
    """Logits, and what every layer returns, of the reference."""
    import torch

    hidden = []
    hooks = [
        layer.register_forward_hook(
            lambda *a: hidden.append(a[-1][0] if isinstance(a[-1], tuple) else a[-1])
        )
        for layer in model.model.layers
    ]
    with torch.no_grad():
        logits = model(
            input_ids=torch.from_numpy(tokens).long(),
            attention_mask=torch.from_numpy(mask.copy()).long(),
        ).logits
    for hook in hooks:
        hook.remove()
    return logits.numpy(), [state.numpy() for state in hidden]


def torch_generate(model, tokens, mask, eos_id, length, **settings):
    """i32 [batch, length], 0 after `eos_id`; padding must lie on the left."""
    import torch

    out = model.generate(
        input_ids=torch.from_numpy(tokens).long(),
        attention_mask=torch.from_numpy(mask.copy()).long(),
        **dict(eos_token_id=eos_id, pad_token_id=0, max_new_tokens=length, do_sample=False),
        **settings,
    )[:, tokens.shape[1] :].numpy()
    out = np.pad(out, [(0, 0), (0, length - out.shape[1])]).astype(np.int32)
    ended = np.cumsum(out == eos_id, axis=1) - (out == eos_id) > 0  # beams repeat the end
    return np.where(ended, 0, out)


def generator(network, config):
    """(variables, tokens, mask, eos_id) → i32 [batch, max_new_tokens]; compiled."""

    @jax.jit
    def generate(variables, tokens, mask, eos_id):
        logits, cache = network.apply(
            variables, tokens, mask, config.max_new_tokens, method=Decoder.start
        )
        return decode.generate(
            *(logits, cache),
            lambda cache, token: network.apply(variables, cache, token, method=Decoder.advance),
            jax.random.key(0),
            **dict(eos_id=eos_id, config=config),
        )[:, 0]

    return generate


def write_golden():
    """Settings, weights, inputs and outputs of small models."""
    kept = {}
    for name, (model_type, settings) in GOLDEN_MODELS.items():
        model, values = build(model_type, settings)
        tokens, masks = inputs(9)
        mask = masks["left"]
        logits, hidden = torch_forward(model, tokens, mask)
        with tempfile.TemporaryDirectory() as folder:
            tensors = saved(model, pathlib.Path(folder))
        kept |= {f"{name}/tensor/{key}": tensor for key, tensor in tensors.items()}
        kept |= {
            f"{name}/config": json.dumps(values),
            f"{name}/tokens": tokens,
            f"{name}/mask": mask,
            f"{name}/logits": logits,
            f"{name}/hidden": np.stack(hidden),
            f"{name}/greedy": torch_generate(model, tokens, mask, EOS, 8),
            f"{name}/beam": torch_generate(model, tokens, mask, EOS, 8, num_beams=3),
        }
    np.savez_compressed(GOLDEN, **kept)


if __name__ == "__main__":
    write_golden()
