"""Tiny random models of `transformers`, one of every public architecture that is known here."""

import numpy as np

_VIT = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 12,
    "patch_size": 4,
}
_TEXT = {
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
    "max_position_embeddings": 8,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
_SIGLIP2 = {key: value for key, value in _VIT.items() if key != "image_size"} | {"num_patches": 9}
_SWIN = {
    "embed_dim": 6,
    "depths": [2, 4],
    "num_heads": [1, 3],
    "window_size": 2,
    "patch_size": 2,
    "image_size": 16,
}
_BERT = {key: _TEXT[key] for key in _TEXT if "token_id" not in key} | {"num_hidden_layers": 2}
_GEMMA = {
    "vocab_size": 40,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "intermediate_size": 20,
    "pad_token_id": 0,
}
_LOCAL = {**_GEMMA, "sliding_window": 4}
_T5 = {
    "model_type": "t5",
    "vocab_size": 40,
    "d_model": 12,
    "d_kv": 5,
    "d_ff": 16,
    "num_layers": 2,
    "num_heads": 3,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_BLIP = {
    "vision_config": _VIT,
    "qformer_config": _BERT | {"num_hidden_layers": 4},
    "text_config": _T5,
    "num_query_tokens": 3,
    "image_token_index": 39,
}

# {architecture: (its config class, settings)}
MODELS = {
    "CLIPVisionModel": ("CLIPVisionConfig", _VIT),
    "SiglipVisionModel": ("SiglipVisionConfig", _VIT),
    "Siglip2VisionModel": ("Siglip2VisionConfig", _SIGLIP2),
    "InstructBlipVisionModel": ("InstructBlipVisionConfig", _VIT),
    "Blip2VisionModel": ("Blip2VisionConfig", _VIT),
    "ViTModel": ("ViTConfig", _VIT),
    "DeiTModel": ("DeiTConfig", _VIT),
    "CLIPModel": ("CLIPConfig", {"vision_config": _VIT, "text_config": _TEXT}),
    "SiglipModel": ("SiglipConfig", {"vision_config": _VIT, "text_config": _TEXT}),
    "Siglip2Model": ("Siglip2Config", {"vision_config": _SIGLIP2, "text_config": _TEXT}),
    "ViTForImageClassification": ("ViTConfig", _VIT),
    "DeiTForImageClassification": ("DeiTConfig", _VIT),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", _VIT),
    "SwinModel": ("SwinConfig", _SWIN),
    "SwinForImageClassification": ("SwinConfig", _SWIN),
    "BertModel": ("BertConfig", _BERT),
    "BertForMaskedLM": ("BertConfig", _BERT),
    "BertForPreTraining": ("BertConfig", _BERT),
    "GemmaForCausalLM": ("GemmaConfig", _GEMMA),
    "Gemma2ForCausalLM": ("Gemma2Config", _LOCAL),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", _LOCAL),
    "Qwen3ForCausalLM": ("Qwen3Config", _GEMMA),
    "Gemma3ForConditionalGeneration": (
        "Gemma3Config",
        {
            "vision_config": _VIT | {"vision_use_head": False},
            "text_config": _LOCAL,
            "mm_tokens_per_image": 4,
        },
    ),
    "T5ForConditionalGeneration": ("T5Config", _T5),
    "PaliGemmaForConditionalGeneration": (
        "PaliGemmaConfig",
        {
            "vision_config": _VIT
            | {
                "model_type": "siglip_vision_model",
                "vision_use_head": False,
                "projection_dim": 12,
            },
            "text_config": _GEMMA | {"model_type": "gemma"},
            "projection_dim": 12,
            "hidden_size": 12,
            "image_token_index": 39,
        },
    ),
    "Blip2ForConditionalGeneration": ("Blip2Config", _BLIP),
    "InstructBlipForConditionalGeneration": ("InstructBlipConfig", _BLIP),
}


def build(name):
    """A model in which no norm is 1, no bias 0 and no two layers alike."""
    import torch
    import transformers

    kind, settings = MODELS[name]
    model = getattr(transformers, name)(getattr(transformers, kind)(**settings))
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            values = rng.normal(scale=fan_in**-0.5, size=parameter.shape)
            parameter.copy_(torch.from_numpy(np.asarray(values, np.float32)))
    return model.eval()
