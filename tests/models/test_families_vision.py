"""Encoders, vision-language models and diffusion parts build exactly the parameters their classes have.

``encoder_totals.json`` holds configs (made-up small ones, and numbers of published ones) with the totals of the models
that transformers 5.23.0 and diffusers 0.42.1 build from them on the meta device, tied matrices once.
"""

import json
from pathlib import Path

import pytest

from bytebound.documents.architecture import Attention, Conv, Linear
from bytebound.errors import ByteboundError, DocumentError, UnknownNameError
from bytebound.models.config import read_config

CASES = {case["name"]: case for case in json.loads((Path(__file__).parent / "encoder_totals.json").read_text())}


def _read(name, **changes):
    return read_config({**CASES[name]["config"], **changes}, name)


@pytest.mark.parametrize("name", CASES)
def test_total_is_the_librarys(name):
    """Total is the library's."""
    assert _read(name).parameters == CASES[name]["total"]


def test_t5_head_follows_the_config_and_not_the_library():
    """T5 head follows the config and not the library."""
    tied = _read("t5b")
    loose = _read("t5b", tie_word_embeddings=False)
    assert loose.parameters - tied.parameters == 500 * 64


def test_phi3_vision_has_the_published_total():
    """Phi-3.5 Vision names its CLIP and has the 4,146,621,440 parameters of its published files."""
    config = {
        "model_type": "phi3_v", "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 32,
        "num_key_value_heads": 32, "num_hidden_layers": 32, "vocab_size": 32064, "max_position_embeddings": 131072,
        "img_processor": {"model_name": "openai/clip-vit-large-patch14-336"}, "tie_word_embeddings": False,
    }  # fmt: skip
    assert read_config(config).parameters == 4_146_621_440


def test_mistral3_head_is_untied_unless_said():
    """Mistral 3 head is untied unless said."""
    config = {**CASES["m_mistral3"]["config"]}
    del config["tie_word_embeddings"]
    assert read_config(config).parameters == CASES["m_mistral3"]["total"]


@pytest.mark.parametrize(
    ("name", "tower", "tokens", "out"),
    [
        ("llava-hf--llava-1.5-7b-hf", "vision", 577, 576),
        ("m_gemma3", "vision", 4096, 256),
        ("meta-llama--Llama-4-Maverick-17B-128E-Instruct", "vision", 1025, 256),
        ("google--gemma-4-26B-A4B", "vision", 2520, 280),
        ("m_smol", "vision", 16, 1),
        ("openai--whisper-small", "audio encoder", 1500, 1500),
        ("openai--clip-vit-large-patch14", "vision", 257, 257),
        ("Qwen--Qwen2.5-VL-3B-Instruct", "vision", 5184, 1296),
        ("Qwen--Qwen3-VL-30B-A3B-Instruct", "vision", 4096, 1024),
        ("stable-diffusion-v1-5--stable-diffusion-v1-5--unet", "denoiser", 4096, 4096),
        ("stabilityai--stable-diffusion-xl-base-1.0--unet", "denoiser", 16384, 16384),
        ("stabilityai--stable-diffusion-3-medium-diffusers--transformer", "denoiser", 4096, 4096),
        ("stable-diffusion-v1-5--stable-diffusion-v1-5--vae", "image decoder", 4096, 512 * 512),
        ("d_cog", "denoiser", 13 * 30 * 45, 13 * 30 * 45),
    ],
)
def test_tokens_of_one_unit(name, tower, tokens, out):
    """Tokens of one unit."""
    found = next(item for item in _read(name).towers if item.name == tower)
    assert (found.tokens, found.tokens_out) == (tokens, out)


def _multiply_adds(architecture, tower_name):
    """Count multiply-adds of the matrices and convolutions of one pass, attention cores apart."""
    tower = next(item for item in architecture.towers if item.name == tower_name)
    total = 0.0
    for block in tower.blocks:
        for op in block.operators:
            per = sum(t.elements for t in op.tensors() if not t.name.endswith(".bias"))
            if isinstance(op, Conv) or (isinstance(op, Linear) and op.source == "self"):
                total += per * op.token_scale * tower.tokens * block.repeat
    return total


def test_unet_work_is_the_published_one():
    # Stable Diffusion 1.x at 512 x 512 is quoted at about 0.34 T multiply-adds a step (arXiv 2305.15798).
    """UNet work is the published one."""
    found = _multiply_adds(_read("stable-diffusion-v1-5--stable-diffusion-v1-5--unet"), "denoiser")
    assert 0.31e12 < found < 0.37e12


def test_unet_levels_halve():
    """UNet levels halve."""
    found = _read("stable-diffusion-v1-5--stable-diffusion-v1-5--unet")
    scales = {op.token_scale for _, _, op in found.operators() if isinstance(op, Conv)}
    assert scales == {1.0, 1 / 4, 1 / 16, 1 / 64}
    kinds = {op.kind for _, _, op in found.operators() if isinstance(op, Attention)}
    assert kinds == {"full", "cross"}


def test_cross_attention_reads_the_encoder():
    """Cross attention reads the encoder."""
    for name in ("openai--whisper-small", "t5a", "stable-diffusion-v1-5--stable-diffusion-v1-5--unet", "d_pix"):
        found = _read(name)
        sources = {op.source for _, _, op in found.operators() if isinstance(op, Linear)}
        assert "encoder" in sources, name
        assert any(op.kind == "cross" for _, _, op in found.operators() if isinstance(op, Attention)), name


def test_whisper_caches_only_its_decoder():
    """Whisper caches only its decoder."""
    found = _read("openai--whisper-small")
    assert found.kv_elements_per_token == 12 * 2 * 768


def test_encoders_keep_no_cache():
    """Encoders keep no cache."""
    for name in ("google-bert--bert-base-uncased", "v_sigv", "d_flux"):
        assert all(not op.cached for _, _, op in _read(name).operators() if isinstance(op, Attention)), name


def test_qwen25_looks_within_windows_except_where_told():
    """Qwen2.5 looks within windows except where told."""
    found = _read("Qwen--Qwen2.5-VL-3B-Instruct")
    vision = next(tower for tower in found.towers if tower.name == "vision")
    kinds = {}
    for block in vision.blocks:
        for op in block.operators:
            if isinstance(op, Attention):
                kinds[op.kind, op.window] = kinds.get((op.kind, op.window), 0) + block.repeat
    assert kinds == {("chunk", 64): 28, ("full", 0): 4}


def test_modernbert_slides_in_two_of_three():
    """ModernBERT slides in two of three."""
    found = _read("modernModel")
    kinds = [(op.kind, block.repeat) for _, block, op in found.operators() if isinstance(op, Attention)]
    assert sum(count for kind, count in kinds if kind == "full") == 2
    assert sum(count for kind, count in kinds if kind == "window") == 3


@pytest.mark.parametrize("name", ["bertModel", "v_clip", "m_llava", "d_flux", "d_dit", "whisper", "t5a"])
def test_a_key_that_may_change_a_shape_is_refused(name):
    """A key that may change a shape is refused."""
    with pytest.raises(DocumentError, match="may change the model's shape"):
        _read(name, extra_hidden_size=7)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("v_vit", {"image_size": 4}),
        ("v_vit", {"patch_size": [1, 2, 3]}),
        ("v_vit", {"hidden_size": 63}),
        ("v_vit", {"num_hidden_layers": 10**9}),
        ("v_dino", {"mlp_ratio": -1}),
        ("v_clip", {"vision_config": []}),
        ("bertForSequenceClassification", {"id2label": 3}),
        ("bertModel", {"is_decoder": True}),
        ("debertaModel", {"pos_att_type": 3}),
        ("modernModel", {"layer_types": ["full_attention"]}),
        ("m_pali", {"text_config": {"model_type": "gemma", "hidden_size": 4096}}),
        ("d_wan", {"patch_size": [1, 2]}),
        ("d_wan", {"qk_norm": "other"}),
        ("d_pix", {"norm_type": "ada_norm_zero"}),
        ("d_hy", {"activation_fn": "geglu"}),
        ("d_sd3", {"qk_norm": "layer_norm"}),
        ("d_lcm", {"down_block_types": ["AttnDownBlock2D"] * 4}),
        ("d_lcm", {"down_block_types": ["DownBlock2D"]}),
        ("d_lcm", {"mid_block_type": "Other"}),
        ("d_lcm", {"attention_head_dim": [5, 10]}),
        ("d_lcm", {"attention_head_dim": 0}),
        ("d_lcm", {"attention_head_dim": 7}),
        ("d_lcm", {"transformer_layers_per_block": [[1, "x"], 1, 1, 1]}),
        ("d_lcm", {"addition_embed_type": "image"}),
        ("d_lcm", {"addition_embed_type": "text_time"}),
        ("d_lcm", {"class_embed_type": "simple"}),
        ("d_lcm", {"encoder_hid_dim_type": "image_proj"}),
        ("d_lcm", {"block_out_channels": []}),
        ("d_lcm", {"block_out_channels": None}),
        ("d_lcm", {"only_cross_attention": [True]}),
        ("d_lcm", {"dual_cross_attention": True}),
        ("d_lcm", {"layers_per_block": 2**20}),
        ("d_vae", {"down_block_types": ["AttnDownEncoderBlock2D"] * 2}),
        ("m_kimi25", {"vision_config": {"merge_kernel_size": [2]}}),
        ("google--gemma-4-26B-A4B", {"audio_config": {"hidden_size": 8}}),
    ],
)
def test_damaged_config_is_a_clear_error(name, changes):
    """Damaged config is a clear error."""
    with pytest.raises(ByteboundError):
        _read(name, **changes)


@pytest.mark.parametrize(("name", "head"), [("bertModel", "BertForVideo"), ("whisper", "WhisperForX"), ("clip", "")])
def test_unknown_head_or_family(name, head):
    """Unknown head or family."""
    config = {**CASES["bertModel" if name == "clip" else name]["config"]}
    config |= {"architectures": [head]} if head else {"model_type": "never-seen"}
    with pytest.raises(UnknownNameError):
        read_config(config)
