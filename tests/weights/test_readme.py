"""The README's way from public weights, at a tiny size: random models stand in for downloads."""

import importlib.util
import re

import albef_file
import checkpoints
import jax
import numpy as np
import pytest
import test_commands
import tokenizers
import transformers

from input_pipeline.scenes.writer import write_world
from regionjax.weights import __main__ as command
from regionjax.weights import files

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_once")]

TORCH = importlib.util.find_spec("torch") is not None
WORDS = 2048
TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 56,
    "patch_size": 14,
}
GEMMA = {
    "model_type": "gemma",
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 24,
}
QWEN3 = {
    **GEMMA,
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
QFORMER = {
    "vocab_size": 20,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 8,
}
DOWNLOADS = {
    "paligemma-3b-pt-224": {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        "image_token_index": WORDS - 1,
        "projection_dim": 16,
        "hidden_size": 16,
        "text_config": GEMMA,
        "vision_config": {**TOWER, "vision_use_head": False, "projection_dim": 16},
    },
    "siglip-so400m-patch14-224": {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "vision_config": TOWER,
    },
    "gemma-2b": {"architectures": ["GemmaForCausalLM"], **GEMMA, "vocab_size": 300},
    "Qwen3-1.7B": QWEN3,
    "instructblip-flan-t5-xl": {
        "architectures": ["InstructBlipForConditionalGeneration"],
        "model_type": "instructblip",
        "vision_config": {key: TOWER[key] for key in TOWER if key != "model_type"},
        "qformer_config": QFORMER,
        "text_config": checkpoints.T5,
        "num_query_tokens": 3,
    },
    "swin-base-patch4-window7-224": {
        "architectures": ["SwinForImageClassification"],
        "model_type": "swin",
        "embed_dim": 6,
        "depths": [2, 2],
        "num_heads": [1, 3],
        "window_size": 2,
        "patch_size": 2,
        "image_size": 16,
        "mlp_ratio": 2.0,
        "qkv_bias": True,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "use_absolute_embeddings": False,
    },
    "flan-t5-xl": checkpoints.T5,
}
SMALL = {
    "batch.image_size": 56,
    "model.vit.image_size": 56,
    "model.vit.width": 16,
    "model.vit.depth": 1,
    "model.vit.heads": 2,
    "model.vit.mlp_width": 24,
    "model.vit.remat": "none",
    "model.decoder.vocabulary": WORDS,
    "model.decoder.width": 16,
    "model.decoder.depth": 1,
    "model.decoder.heads": 2,
    "model.decoder.head_width": 8,
    "model.decoder.mlp_width": 24,
    "model.decoder.remat": "none",
    "model.vocabulary_chunks": 1,
    "data.tokenizer": "",
    "train.steps": 2,
    "train.batch_size": 2,
    "train.evaluate_at_end": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random downloads and a small world."""
    root = tmp_path_factory.mktemp("readme")
    for name, config in DOWNLOADS.items():
        checkpoints.write(root / "downloads" / name, config)
    if TORCH:
        albef_file.write(root / "downloads/ALBEF.pth")
    world = {"train": 4, "val": 1, "test": 1, "processes": 1, "progress": False}
    write_world(root / "world", seed=0, **world)
    return root


def moved(argument, root):
    """The README's folders are below `root`."""
    return re.sub(r"^(downloads|weights|runs|exports)/", rf"{root}/\1/", argument)


def test_the_readme_from_public_weights(folder, capsys):
    done = []
    for parts in filter(test_commands.starts_from_public_weights, test_commands.readme_commands()):
        if not TORCH and ("check" in parts or "albef" in " ".join(parts)):
            continue
        arguments = [moved(part, folder) for part in parts]
        if parts[0] == "regionjax.weights":
            assert command.main(arguments[1:]) == 0, capsys.readouterr()
            done.append(parts[1])
            continue
        arguments = [part.replace("=DIR", f"={folder / 'world'}") for part in arguments]
        start = test_commands.flag(parts, "--config").partition(":")[2]
        if start:
            sources = {
                "vit": {"path": str(folder / "weights/siglip"), "leave": ("params/pool/",)},
                "decoder": {"path": str(folder / "weights/gemma"), "extend": ("/embedding$",)},
            }
        else:
            path = str(folder / "weights/paligemma")
            sources = {part: {"path": path, "part": part} for part in ("vit", "decoder")}
        test_commands.run(arguments, **SMALL, init_from=repr(sources))
        done.append("train")
    assert done.count("train") == 2 and {"show", "import", "export"} <= set(done)
    exported = files.open_tensors(folder / "exports/gemma")
    before = files.open_tensors(folder / "downloads/gemma-2b")
    assert files.read_json(folder / "exports/gemma/config.json")["vocab_size"] == WORDS
    assert set(exported.headers) == set(before.headers)
    name = "model.layers.0.post_attention_layernorm.weight"  # frozen, without an adapter
    assert exported.read(name).tobytes() == before.read(name).tobytes()

    text = (test_commands.ROOT / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    images = np.zeros((2, 16, 16, 3), np.uint8)
    found = {"images": images}
    exec(code.replace('"weights/', f'"{folder}/weights/'), found)
    assert jax.tree.leaves(found["features"])[0].shape[0] == 2
    capsys.readouterr()


def test_siglip_and_qwen3(folder, capsys):
    """The README's other language model; padding changes places with the word 0, as in Qwen's."""
    for name in ("siglip-so400m-patch14-224", "Qwen3-1.7B"):
        places = str(folder / "downloads" / name), str(folder / "weights/second" / name)
        assert command.main(["import", *places]) == 0, capsys.readouterr()
    engine = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {"the": 0, "red": 1, "<unk>": 2, "<eos>": 3, "<pad>": 4}, "<unk>"
        )
    )
    engine.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words = folder / "downloads/words"
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=engine, unk_token="<unk>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(words)
    weights = folder / "weights/second"
    sources = {
        "vit": {"path": str(weights / "siglip-so400m-patch14-224"), "leave": ("params/pool/",)},
        "decoder": {
            "path": str(weights / "Qwen3-1.7B"),
            "extend": ("/embedding$",),
            "swap": (0, 4),
        },
    }
    run = folder / "runs/qwen3"
    config = "configs/regionlm_pretrained.py:siglip+qwen3"
    test_commands.run(
        ["regionjax.main", "--config", config, "--workdir", str(run)],
        **SMALL
        | {"model.decoder.kv_heads": 1, "data.tokenizer": words, "data.root": folder / "world"},
        init_from=repr(sources),
    )
    out, like = str(folder / "exports/qwen3"), str(weights / "Qwen3-1.7B")
    assert command.main(["export", str(run), out, "--part", "decoder", "--like", like]) == 0
    read = lambda path: files.open_tensors(path).read("model.embed_tokens.weight")[:5]  # noqa: E731
    after, before = read(out), read(folder / "downloads/Qwen3-1.7B")
    # Two steps of training change the rows by far less than they differ.
    assert np.abs(after - before[[4, 1, 2, 3, 0]]).max() < 0.01 < np.abs(after - before).max()
    capsys.readouterr()


def test_the_configs_names_are_the_readmes():
    """What regionlm_pretrained.py reads is what the README's commands write."""
    config = (test_commands.ROOT / "configs/regionlm_pretrained.py").read_text()
    readme = (test_commands.ROOT / "README.md").read_text()
    for name in sorted(set(re.findall(r'"((?:weights|downloads)/[\w.-]+)"', config))):
        assert name in readme, name
