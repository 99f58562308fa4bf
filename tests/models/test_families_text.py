"""Every text family builds exactly the parameters its class has.

The totals of ``CASES`` come from transformers 5.23.0, which built each made-up config on the meta device; the totals of
``PUBLISHED`` from the places named beside them.
"""

import pytest

from bytebound.documents.architecture import Attention, Linear, Recurrence
from bytebound.models.config import read_config

SMALL = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LATENT = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "moe_intermediate_size": 20,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 2,
    "n_group": 1,
    "topk_group": 1,
}
GPT = {"vocab_size": 1000, "n_embd": 64, "n_layer": 3, "n_head": 8, "n_positions": 128}

CASES = [
    ("llama", {**SMALL, "head_dim": 8}, 333504),
    ("mistral", {**SMALL, "head_dim": 8}, 333504),
    ("ministral", {**SMALL, "head_dim": 8}, 333504),
    ("ministral3", {**SMALL, "head_dim": 8}, 333504),
    ("qwen2", {**SMALL, "head_dim": 8}, 333984),
    ("qwen3", {**SMALL, "head_dim": 8}, 333584),
    ("olmo", {**SMALL, "head_dim": 8}, 332800),
    ("olmo2", {**SMALL, "head_dim": 8}, 333904),
    ("olmo3", {**SMALL, "head_dim": 8}, 333904),
    ("exaone4", {**SMALL, "head_dim": 8}, 333584),
    ("gemma", {**SMALL, "head_dim": 8}, 269504),
    ("gemma2", {**SMALL, "head_dim": 8}, 270144),
    ("vaultgemma", {**SMALL, "head_dim": 8}, 269504),
    ("gemma3_text", {**SMALL, "head_dim": 8}, 270224),
    ("glm", {**SMALL, "head_dim": 8}, 333984),
    ("glm4", {**SMALL, "head_dim": 8}, 334624),
    ("phi3", {**SMALL, "head_dim": 8}, 333504),
    ("starcoder2", {**SMALL, "head_dim": 8}, 220928),
    ("cohere", {**SMALL, "head_dim": 8}, 269184),
    ("cohere2", {**SMALL, "head_dim": 8}, 269184),
    ("stablelm", {**SMALL, "head_dim": 8}, 334208),
    ("nemotron", {**SMALL, "head_dim": 8}, 283008),
    ("granite", {**SMALL, "head_dim": 8}, 333504),
    ("smollm3", {**SMALL, "head_dim": 8}, 269504),
    ("seed_oss", {**SMALL, "head_dim": 8}, 333984),
    ("helium", {**SMALL, "head_dim": 8}, 333504),
    ("arcee", {**SMALL, "head_dim": 8}, 282304),
    ("apertus", {**SMALL, "head_dim": 8}, 282394),
    ("ernie4_5", {**SMALL, "head_dim": 8}, 269504),
    ("hunyuan_v1_dense", {**SMALL, "head_dim": 8}, 333584),
    ("internlm3", {**SMALL, "head_dim": 8}, 333504),
    ("cwm", {**SMALL, "head_dim": 8}, 333504),
    (
        "llama",
        {**SMALL, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 16},
        323904,
    ),
    ("qwen2", {**SMALL, "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2}, 333984),
    ("qwen3", {**SMALL, "attention_bias": True, "head_dim": 16}, 386144),
    ("stablelm", {**SMALL, "use_qkv_bias": True}, 334688),
    ("stablelm", {**SMALL, "qk_layernorm": True}, 334608),
    ("cohere", {**SMALL, "use_qk_norm": True}, 269584),
    ("cohere", {**SMALL, "attention_bias": True}, 269984),
    ("starcoder2", {**SMALL, "use_bias": False}, 219008),
    ("glm", {**SMALL, "attention_bias": False, "head_dim": 8}, 333504),
    ("phi3", {**SMALL, "tie_word_embeddings": True}, 269504),
    ("nemotron", {**SMALL, "attention_bias": True, "mlp_bias": True}, 284928),
    ("ernie4_5", {**SMALL, "use_bias": True}, 1047424),
    (
        "exaone4",
        {
            **SMALL,
            "layer_types": [
                "sliding_attention",
                "sliding_attention",
                "sliding_attention",
                "full_attention",
                "full_attention",
            ],
        },
        333584,
    ),
    ("internlm3", {**SMALL, "qkv_bias": True, "bias": True}, 1111424),
    ("seed_oss", {**SMALL, "attention_bias": True, "attention_out_bias": True}, 1109504),
    ("smollm3", {**SMALL, "tie_word_embeddings": False}, 333504),
    ("olmo2", {**SMALL, "attention_bias": True}, 334704),
    ("granite", {**SMALL, "attention_bias": True, "mlp_bias": True}, 336224),
    ("mixtral", {**SMALL, "num_experts_per_tok": 2, "num_local_experts": 6}, 1103424),
    ("phimoe", {**SMALL, "num_experts_per_tok": 2, "num_local_experts": 6}, 1104128),
    ("minimax_m2", {**SMALL, "num_experts_per_tok": 2, "num_local_experts": 6}, 1877824),
    (
        "phimoe",
        {**SMALL, "num_experts_per_tok": 2, "num_local_experts": 6, "attention_bias": True, "lm_head_bias": True},
        1105928,
    ),
    ("olmoe", {**SMALL, "num_experts_per_tok": 2, "num_experts": 6}, 1103824),
    ("flex_olmo", {**SMALL, "num_experts_per_tok": 2, "num_experts": 6}, 1103824),
    (
        "qwen2_moe",
        {
            **SMALL,
            "num_experts_per_tok": 2,
            "num_experts": 6,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 48,
            "decoder_sparse_step": 2,
        },
        347168,
    ),
    (
        "qwen2_moe",
        {
            **SMALL,
            "num_experts_per_tok": 2,
            "num_experts": 6,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 48,
            "mlp_only_layers": [1],
        },
        360352,
    ),
    (
        "qwen3_moe",
        {
            **SMALL,
            "num_experts_per_tok": 2,
            "num_experts": 6,
            "moe_intermediate_size": 24,
            "head_dim": 16,
            "mlp_only_layers": [0],
        },
        374112,
    ),
    ("granitemoe", {**SMALL, "num_experts_per_tok": 2, "num_local_experts": 6}, 1103424),
    (
        "granitemoeshared",
        {**SMALL, "num_experts_per_tok": 2, "num_local_experts": 6, "shared_intermediate_size": 32},
        1134144,
    ),
    (
        "glm4_moe",
        {
            **SMALL,
            "num_experts_per_tok": 2,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "moe_intermediate_size": 20,
            "first_k_dense_replace": 1,
            "head_dim": 16,
            "attention_bias": True,
            "use_qk_norm": True,
            "num_nextn_predict_layers": 0,
        },
        403232,
    ),
    (
        "glm4_moe",
        {
            **SMALL,
            "num_experts_per_tok": 2,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "moe_intermediate_size": 20,
            "first_k_dense_replace": 2,
            "head_dim": 8,
            "num_nextn_predict_layers": 0,
        },
        346560,
    ),
    (
        "solar_open",
        {
            **SMALL,
            "num_experts_per_tok": 2,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "moe_intermediate_size": 20,
            "head_dim": 16,
        },
        406464,
    ),
    (
        "dots1",
        {
            **SMALL,
            "num_experts_per_tok": 2,
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "moe_intermediate_size": 20,
            "first_k_dense_replace": 1,
            "head_dim": 16,
            "n_group": 1,
            "topk_group": 1,
        },
        417632,
    ),
    (
        "ernie4_5_moe",
        {
            **SMALL,
            "moe_num_experts": 8,
            "moe_k": 2,
            "moe_intermediate_size": 20,
            "moe_num_shared_experts": 2,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": 3,
            "moe_layer_interval": 1,
        },
        294104,
    ),
    ("hunyuan_v1_moe", {**SMALL, "num_experts": 4, "moe_topk": 2, "head_dim": 8}, 949264),
    ("gpt_oss", {**SMALL, "num_experts_per_tok": 2, "num_local_experts": 4, "head_dim": 8}, 804124),
    ("deepseek_v2", LATENT, 417240),
    ("deepseek_v3", LATENT, 417240),
    (
        "deepseek_v2",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 5,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "q_lora_rank": None,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 12,
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "moe_intermediate_size": 20,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 2,
            "n_group": 1,
            "topk_group": 1,
        },
        447840,
    ),
    ("deepseek_v3", {**LATENT, "attention_bias": True}, 417880),
    ("deepseek_v32", {**LATENT, "index_n_heads": 4, "index_head_dim": 16, "index_topk": 8}, 431480),
    ("glm_moe_dsa", {**LATENT, "index_n_heads": 4, "index_head_dim": 16, "index_topk": 8}, 431480),
    (
        "glm4_moe_lite",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 5,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "q_lora_rank": 24,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 12,
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "moe_intermediate_size": 20,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse", "sparse"],
        },
        425432,
    ),
    (
        "minicpm3",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 5,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "q_lora_rank": 24,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 12,
        },
        328664,
    ),
    (
        "youtu",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 5,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "q_lora_rank": 24,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 12,
        },
        328664,
    ),
    ("gpt2", GPT, 222272),
    ("gpt2", {**GPT, "n_inner": 100}, 161900),
    ("gpt_bigcode", GPT, 200432),
    ("gpt_bigcode", {**GPT, "multi_query": False}, 222272),
    ("gptj", {**GPT, "rotary_dim": 4}, 277928),
    ("codegen", {**GPT, "rotary_dim": 4}, 277928),
    (
        "gpt_neo",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "num_layers": 4,
            "num_heads": 8,
            "attention_types": [[["global", "local"], 2]],
            "max_position_embeddings": 128,
        },
        271488,
    ),
    (
        "gpt_neox",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
        },
        228544,
    ),
    (
        "gpt_neox",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
            "attention_bias": False,
            "tie_word_embeddings": True,
        },
        163776,
    ),
    (
        "opt",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "ffn_dim": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 32,
            "do_layer_norm_before": False,
        },
        144832,
    ),
    (
        "opt",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "ffn_dim": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 64,
        },
        172864,
    ),
    ("bloom", {"vocab_size": 1000, "hidden_size": 64, "n_layer": 3, "n_head": 8}, 214208),
    (
        "falcon",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
        },
        193920,
    ),
    (
        "falcon",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
            "multi_query": True,
            "parallel_attn": True,
        },
        190464,
    ),
    (
        "falcon",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
            "multi_query": False,
            "parallel_attn": False,
            "bias": True,
            "alibi": True,
        },
        214080,
    ),
    (
        "falcon",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
        },
        193536,
    ),
    ("mpt", {"vocab_size": 1000, "d_model": 64, "n_layers": 3, "n_heads": 8, "max_seq_len": 128}, 211904),
    ("phi", SMALL, 285288),
    (
        "phi",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 5,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "max_position_embeddings": 512,
            "qk_layernorm": True,
        },
        316648,
    ),
    (
        "llama4_text",
        {
            **SMALL,
            "num_experts_per_tok": 2,
            "num_local_experts": 4,
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 200,
            "head_dim": 8,
        },
        602816,
    ),
    (
        "afmoe",
        {
            **SMALL,
            "num_experts_per_tok": 2,
            "num_experts": 4,
            "moe_intermediate_size": 20,
            "num_shared_experts": 1,
            "num_dense_layers": 2,
            "head_dim": 8,
        },
        320924,
    ),
    (
        "gemma3n_text",
        {
            "vocab_size": 1000,
            "vocab_size_per_layer_input": 900,
            "hidden_size": 64,
            "hidden_size_per_layer_input": 8,
            "intermediate_size": [100, 100, 100, 100, 100, 100, 100, 100, 100, 100],
            "num_hidden_layers": 10,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_kv_shared_layers": 5,
            "laurel_rank": 4,
            "altup_num_inputs": 3,
            "layer_types": [
                "sliding_attention",
                "sliding_attention",
                "sliding_attention",
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "sliding_attention",
                "sliding_attention",
                "sliding_attention",
                "full_attention",
            ],
            "activation_sparsity_pattern": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        },
        423656,
    ),
    (
        "gemma4_text",
        {
            "vocab_size": 1000,
            "vocab_size_per_layer_input": 900,
            "hidden_size": 64,
            "hidden_size_per_layer_input": 8,
            "intermediate_size": 100,
            "num_hidden_layers": 12,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "global_head_dim": 16,
        },
        489384,
    ),
    (
        "gemma4_text",
        {
            "vocab_size": 1000,
            "vocab_size_per_layer_input": 900,
            "hidden_size": 64,
            "hidden_size_per_layer_input": 8,
            "intermediate_size": 100,
            "num_hidden_layers": 12,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "global_head_dim": 16,
            "num_kv_shared_layers": 6,
            "use_double_wide_mlp": True,
        },
        590192,
    ),
    (
        "gemma4_text",
        {
            "vocab_size": 1000,
            "vocab_size_per_layer_input": 900,
            "hidden_size": 64,
            "hidden_size_per_layer_input": 0,
            "intermediate_size": 100,
            "num_hidden_layers": 12,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "global_head_dim": 16,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 20,
        },
        568144,
    ),
    (
        "mamba",
        {"vocab_size": 1000, "hidden_size": 64, "state_size": 8, "num_hidden_layers": 3, "conv_kernel": 4, "expand": 2},
        152960,
    ),
    (
        "mamba",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "state_size": 8,
            "num_hidden_layers": 3,
            "use_bias": True,
            "tie_word_embeddings": False,
        },
        217920,
    ),
    (
        "falcon_mamba",
        {"vocab_size": 1000, "hidden_size": 64, "state_size": 8, "num_hidden_layers": 3, "conv_kernel": 4, "expand": 2},
        152960,
    ),
    (
        "mamba2",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "state_size": 8,
            "num_hidden_layers": 3,
            "num_heads": 16,
            "head_dim": 8,
            "n_groups": 2,
        },
        214128,
    ),
    (
        "jamba",
        {
            **SMALL,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "mamba_d_state": 4,
            "mamba_dt_rank": 8,
            "attn_layer_period": 3,
            "attn_layer_offset": 1,
            "use_mamba_kernels": False,
        },
        574832,
    ),
    (
        "bamba",
        {
            **SMALL,
            "attn_layer_indices": [1, 3],
            "mamba_n_heads": 16,
            "mamba_d_head": "auto",
            "mamba_n_groups": 2,
            "mamba_d_state": 8,
        },
        388656,
    ),
    (
        "granitemoehybrid",
        {
            **SMALL,
            "layer_types": ["mamba", "attention", "mamba", "mamba", "attention"],
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 32,
            "mamba_n_heads": 16,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
        },
        878144,
    ),
    (
        "granitemoehybrid",
        {
            **SMALL,
            "layer_types": ["mamba", "attention", "mamba", "mamba", "attention"],
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 32,
            "mamba_n_heads": 16,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "tie_word_embeddings": True,
        },
        198464,
    ),
    (
        "falcon_h1",
        {
            **SMALL,
            "mamba_d_ssm": 96,
            "mamba_n_heads": 12,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "head_dim": 8,
        },
        437604,
    ),
    (
        "falcon_h1",
        {
            **SMALL,
            "mamba_d_ssm": 96,
            "mamba_n_heads": 12,
            "mamba_d_head": 8,
            "mamba_rms_norm": True,
            "mamba_d_state": 8,
            "projectors_bias": True,
        },
        438404,
    ),
    (
        "nemotron_h",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 100,
            "hybrid_override_pattern": "M-M*E",
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "mamba_num_heads": 16,
            "mamba_head_dim": 8,
            "n_groups": 2,
            "ssm_state_size": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "moe_shared_expert_intermediate_size": 24,
        },
        224288,
    ),
    (
        "nemotron_h",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 100,
            "layers_block_type": ["mamba", "moe", "attention", "mlp"],
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "mamba_num_heads": 16,
            "mamba_head_dim": 8,
            "n_groups": 2,
            "ssm_state_size": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "moe_shared_expert_intermediate_size": 24,
            "moe_latent_size": 32,
        },
        194576,
    ),
    (
        "qwen3_next",
        {
            **SMALL,
            "head_dim": 16,
            "linear_key_head_dim": 4,
            "linear_value_head_dim": 6,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "shared_expert_intermediate_size": 24,
        },
        284120,
    ),
    (
        "qwen3_5_text",
        {
            **SMALL,
            "head_dim": 16,
            "linear_key_head_dim": 4,
            "linear_value_head_dim": 6,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
        336280,
    ),
    (
        "qwen3_5_moe_text",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "num_hidden_layers": 5,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "head_dim": 16,
            "linear_key_head_dim": 4,
            "linear_value_head_dim": 6,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "shared_expert_intermediate_size": 24,
        },
        284120,
    ),
    ("minimax", {**SMALL, "num_experts_per_tok": 2, "num_local_experts": 4, "head_dim": 8}, 816192),
    ("lfm2", {**SMALL, "full_attn_idxs": [1, 3]}, 380704),
    (
        "lfm2",
        {
            **SMALL,
            "layer_types": ["conv", "full_attention", "conv", "conv", "full_attention"],
            "conv_L_cache": 4,
            "conv_bias": True,
            "block_auto_adjust_ff_dim": False,
        },
        289696,
    ),
    (
        "lfm2_moe",
        {
            **SMALL,
            "layer_types": ["conv", "full_attention", "conv", "conv", "full_attention"],
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "num_dense_layers": 1,
        },
        228128,
    ),
    (
        "kimi_linear",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 5,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 12,
            "moe_intermediate_size": 20,
            "n_group": 1,
            "topk_group": 1,
            "num_experts": 8,
            "num_experts_per_token": 2,
            "num_shared_experts": 1,
            "linear_head_dim": 8,
            "linear_num_heads": 4,
        },
        369552,
    ),
    ("hunyuan_v1_dense", {**SMALL, "use_qk_norm": True, "head_dim": 8}, 333584),
    (
        "mamba2",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "state_size": 8,
            "num_hidden_layers": 3,
            "num_heads": 16,
            "head_dim": 8,
            "n_groups": 2,
            "use_bias": True,
        },
        215232,
    ),
    (
        "bamba",
        {
            **SMALL,
            "attn_layer_indices": [1, 3],
            "mamba_n_heads": 16,
            "mamba_d_head": "auto",
            "mamba_n_groups": 2,
            "mamba_d_state": 8,
            "mamba_proj_bias": True,
            "mlp_bias": True,
        },
        391680,
    ),
    (
        "deepseek_v4",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "head_dim": 16,
            "qk_rope_head_dim": 4,
            "q_lora_rank": 24,
            "o_groups": 2,
            "o_lora_rank": 12,
            "index_n_heads": 4,
            "index_head_dim": 8,
            "index_topk": 8,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "sliding_window": 16,
            "compress_ratios": [0, 4, 128, 4, 0],
        },
        310685,
    ),
]

PUBLISHED = [
    # safetensors totals of the model hub, as its pages show them
    (
        "llama",
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
        },
        8030261248,
    ),
    (
        "qwen3",
        {
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
        },
        8190735360,
    ),
    (
        "mixtral",
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 32000,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        46702792704,
    ),
    (
        "deepseek",
        {
            "hidden_size": 2048,
            "intermediate_size": 10944,
            "moe_intermediate_size": 1408,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "vocab_size": 102400,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "num_experts_per_tok": 6,
            "first_k_dense_replace": 1,
            "moe_layer_freq": 1,
        },
        16375728128,
    ),
    (
        "gemma2",
        {
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "vocab_size": 256000,
        },
        2614341888,
    ),
    # THUDM/ChatGLM3: total printed by its own loader
    (
        "chatglm",
        {
            "hidden_size": 4096,
            "ffn_hidden_size": 13696,
            "num_layers": 28,
            "num_attention_heads": 32,
            "kv_channels": 128,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "add_qkv_bias": True,
            "padded_vocab_size": 65024,
        },
        6243584000,
    ),
]


@pytest.mark.parametrize(
    ("family", "config", "total"), CASES, ids=[f"{index}-{case[0]}" for index, case in enumerate(CASES)]
)
def test_total_is_exact(family, config, total):
    """The total equals what transformers builds from the same config."""
    architecture = read_config({**config, "model_type": family}, name=family)

    assert total == architecture.parameters


@pytest.mark.parametrize(("family", "config", "total"), PUBLISHED, ids=[case[0] for case in PUBLISHED])
def test_total_is_published(family, config, total):
    """The total equals the published one."""
    assert total == read_config({**config, "model_type": family}).parameters


def read(family, **keys):
    """Return the small model of a family."""
    return read_config({**SMALL, **keys, "model_type": family})


def attentions(architecture):
    """Return attention operators with their blocks."""
    return [(block, op) for _, block, op in architecture.operators() if isinstance(op, Attention)]


def test_layers_that_are_equal_share_a_block():
    """Five equal layers are one block that repeats, between embedding and head."""
    assert [block.repeat for block in read("llama").main.blocks] == [1, 5, 1]


def test_windows_follow_the_layers():
    """Gemma 3 looks back a window in five layers of six; Qwen2 only where it is told to."""
    gemma = read("gemma3_text", num_hidden_layers=12, sliding_window=64, head_dim=8)
    qwen = read("qwen2", use_sliding_window=True, sliding_window=64, max_window_layers=2)

    assert {(op.kind, op.window): block.repeat for block, op in attentions(gemma)} == {
        ("window", 64): 10,
        ("full", 0): 2,
    }
    assert {(op.kind, op.window): block.repeat for block, op in attentions(qwen)} == {("full", 0): 2, ("window", 64): 3}
    assert {"full"} == {op.kind for _, op in attentions(read("qwen2", sliding_window=64, use_sliding_window=False))}


def test_a_window_as_long_as_the_context_is_full():
    """Phi-3's window of 262144 in a context of 131072 keeps everything."""
    assert {"full"} == {op.kind for _, op in attentions(read("phi3", sliding_window=1024))}


def test_latent_attention_caches_the_latent():
    """DeepSeek keeps 512 + 64 values per token and layer: 70,272 bytes in 61 layers (levers of the DeepSeek-V3 report)."""
    config = {
        **LATENT,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "num_hidden_layers": 61,
        "model_type": "deepseek_v3",
    }

    assert read_config(config).kv_elements_per_token == 70272 / 2


def test_grouped_queries_cache_keys_and_values():
    """Llama-3.1-8B keeps 131,072 bytes per token (arXiv 2305.13245: 2 n_kv d_h)."""
    assert read_config({**PUBLISHED[0][1], "model_type": "llama"}).kv_elements_per_token == 131072 / 2


def test_prediction_layers_are_a_draft():
    """GLM-4.5's prediction layer is in the checkpoint and not in the served model."""
    keys = {"n_routed_experts": 8, "n_shared_experts": 1, "moe_intermediate_size": 20, "num_experts_per_tok": 2}
    without, with_draft = (read("glm4_moe", **keys, num_nextn_predict_layers=count) for count in (0, 1))

    assert without.parameters == with_draft.parameters < with_draft.checkpoint_parameters
    assert [tower.kind for tower in with_draft.towers] == ["decoder", "draft"]


def test_only_visited_experts_are_active():
    """A Mixtral token visits two of eight experts: 12.9 B of 46.7 B (model card)."""
    active = read_config({**PUBLISHED[2][1], "model_type": "mixtral"}).active_parameters

    assert active == 12_879_925_248


def test_recurrent_layers_keep_a_state_of_fixed_size():
    """A Mamba layer keeps inner x state values and no KV."""
    architecture = read_config(
        {"model_type": "mamba", "hidden_size": 64, "state_size": 8, "num_hidden_layers": 3, "vocab_size": 1000}
    )
    (state,) = [op for _, _, op in architecture.operators() if isinstance(op, Recurrence)]

    assert (state.state_elements, state.conv_elements) == (128 * 8, 128 * 3)
    assert architecture.kv_elements_per_token == 0


def test_layers_that_read_older_keys_keep_none():
    """Gemma 4's last layers read the cache of earlier ones."""
    keys = {"hidden_size_per_layer_input": 0, "head_dim": 8, "global_head_dim": 16, "num_hidden_layers": 12}
    alone, shared = (read("gemma4_text", **keys, num_kv_shared_layers=count) for count in (0, 6))

    assert shared.kv_elements_per_token * 2 == alone.kv_elements_per_token


def test_heads_are_the_units_of_tensor_parallelism():
    """Queries and output split by heads, keys and values by their own, fused ones too."""
    for family, queries, keys in (("llama", "q_proj", "k_proj"), ("phi3", "qkv_proj.q", "qkv_proj.k")):
        units = {op.name: op.shard_units for _, _, op in read(family).operators() if isinstance(op, Linear)}

        assert (units[f"self_attn.{queries}"], units[f"self_attn.{keys}"], units["self_attn.o_proj"]) == (8, 2, 8)


def test_the_head_works_on_the_last_token():
    """Engines compute logits of one token per sequence; a tied head costs no storage."""
    head = read("llama", tie_word_embeddings=True).main.blocks[-1].operators[-1]

    assert (head.name, head.source, head.shard, head.tied) == ("lm_head", "sequence", "vocab", True)
