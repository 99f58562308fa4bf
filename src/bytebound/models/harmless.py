"""Which keys of a model config can change a shape, and which were reviewed and cannot.

A key that no family read is an error when its name speaks of shapes, unless it is in the reviewed list below.
"""

from __future__ import annotations

import re

SHAPE_WORDS = re.compile(
    r"(^|_|\b)(size|sizes|dim|dims|num|n|d|heads?|layers?|ranks?|hidden|experts?|width|widths|bias|biases|tie|tied|kernel"
    r"|channels?|intermediate|windows?|vocab|ffn|mlp|attn|attention|conv|conv1d|state|inner|embd|embeds?|embeddings?"
    r"|moe|ssm|mamba|lora|pattern|chunk|stride|pool|pooling|patch|ratio|ratios|blocks?|groups?|depth|latent|expand|expansion"
    r"|multi|shared?|sparse|norm|projection|proj|config|adapter|kv|qkv|qk|types?|mtp|nextn)($|_|\b|\d)"
)
"""Words, between underscores, of keys that may change a shape."""

_NAMES = """
_attn_implementation _attn_implementation_internal _commit_hash _flash_attn_2_enabled _from_auto _name_or_path _model_name_or_path
_remove_final_layer_norm _vllm_attn activation activation_function activation_sparsity_pattern add_bos_token
add_eos_token add_prefix_space alibi_bias_max alt_dtype altup_active_idx altup_coef_clip apply_query_key_layer_scaling
apply_residual_connection_post_layernorm apply_residual_multiplier architectures attention_bias_dropout
attention_in_multiplier attention_in_fp32 attention_logit_softcapping attention_logits_soft_cap attention_multiplier
attention_out_multiplier attention_probs_dropout_prob attention_scaling attention_softmax_in_fp32 attention_type
attention_value_scale attn_factor attn_implementation attn_logit_softcapping attn_scale attn_temperature_tuning
attn_uses_sequence_id attn_impl auto_map aux_loss_alpha aux_loss_coef batch_size beam_size bias_dropout_fusion
bos_token bos_token_id boi_token_index bad_words_ids begin_suppress_tokens cache_dtype cache_implementation
chunk_size chunk_size_feed_forward clip_qkv conv_kernel_dim cross_attention_hidden_size decoder_start_token_id
dim_model_base disable_exllama diversity_penalty do_sample dropout_layer_norm dtype early_stopping
embedding_multiplier embedding_scale encoder_no_repeat_ngram_size eos_token eos_token_id ep_size expert_capacity
expert_parallel_size exponential_decay_length_penalty extrapolation_method final_logit_softcapping finetuning_task
flash_attn flash_attention flash_rotary floor_scale fp32_residual_connection full_attn_mod fused_add_norm
fused_bias_fc fused_dense fused_dropout_add_ln fused_mlp gate_lower_bound gradient_checkpointing hc_eps
hc_sinkhorn_iters hidden_act hidden_activation hidden_dropout hidden_dropout_prob hidden_dropout_rate
hidden_size_scale id2label image_token_id image_token_index initial_context_length interpolate_factor
is_decoder is_encoder_decoder is_llama_config key_multiplier kv_cache_dtype label2id latent_moe_use_norm
layer_norm_eps layer_norm_epsilon layer_scale layernorm_epsilon layerdrop length_penalty lm_head_multiplier
logit_scale logits_scaling logits_soft_cap loss_type low_freq_factor mamba_chunk_size mamba_conv_impl
mamba_hidden_act mamba_norm_before_gate mamba_ssm_cache_dtype mamba_ssm_dtype masked_softmax_fusion
max_length max_new_tokens max_seq_length min_length min_new_tokens mixer_rms_eps mlp_type mla_use_nope mlp_hidden_act
mlp_multipliers model_max_length model_type moe_aux_loss_coeff moe_capacity_factor moe_dropout moe_eval_capacity_token_fraction
moe_jitter_eps moe_loss_weight moe_min_capacity moe_normalize_expert_weights moe_renormalize
moe_router_activation_func moe_router_scaling_factor moe_router_score_func moe_router_topk_scaling_factor
moe_token_dropping moe_token_distribution moe_train_capacity_factor mrope_section multimodal_projector_init mup_base_width
mup_attn_multiplier mup_embedding_multiplier mup_use_scaling mup_width_multiplier mup_width_scale
n_ctx norm_type n_group n_special n_token no_repeat_ngram_size no_rope_layer_interval no_rope_layers norm_after_topk
norm_eps norm_epsilon norm_reduction_force_fp32 norm_topk_prob num_assistant_tokens num_beam_groups num_beams
num_experts_group num_expert_group num_expert_groups num_limited_groups num_logits_to_keep num_return_sequences
offset_alibi original_rope original_max_position_embeddings output_attentions output_gate_type output_hidden_states
output_logits_scaling output_router_logits output_scores pad_token pad_token_id pad_vocab_size_multiple partial_rotary_factor
position_embedding_type pre_seq_len predict_special_tokens prefix prefix_lm prefix_projection prefill_chunk_size
pretraining_tp problem_type pruned_heads qk_layernorm_eps quantization_config query_pre_attn_scalar
query_pre_attn_norm_scalar rescale_every rescale_prenorm_residual residual_in_fp32 residual_multiplier
resid_pdrop return_dict return_dict_in_generate rotary rotary_dim rotary_emb_base rotary_pct rms_norm rms_norm_eps
rope_interleave rope_interleaved indexer_rope_interleave routed_scaling_factor router_aux_loss_coef
router_jitter_noise router_norm_sigma router_topk_method router_z_loss_coef sampler_seed scale_attention_softmax_in_fp32
scale_attn_by_inverse_layer_idx scale_attn_weights scale_depth scale_emb scoring_func sep_token_id seq_aux
seq_length skip_bias_add skip_bias_add_qkv slow_but_exact softmax_scale sparse_attention_aux
sparse_init_block sparse_local_block sparse_score_type ssm_in_multiplier ssm_multipliers ssm_out_multiplier
standardize summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
suppress_tokens swiglu_alpha swiglu_limit swiglu_limits swiglu_limits_shared task_specific_params temperature
tf_legacy_loss tie_encoder_decoder time_step_floor time_step_init_scheme time_step_limit time_step_max
time_step_min time_step_scale tokenizer_class tokenizer_name tokens_per_second top_k top_p topk_group topk_method
torch_dtype torchscript transformers_version transformers.js_config typical_p unk_token_id
use_associative_scan use_bfloat16 use_bidirectional_attention use_cache use_cache_quantization
use_cache_kernel use_clipped_linears use_dynamic_ntk use_flash_attn use_flash_attention use_fused_rms_norm
use_fused_rope use_gemma_norm use_grouped_topk use_kernels use_logn_attn use_mamba_kernels use_mambapy
use_moe_router_bias use_mrope use_pos_enc use_rope_scaling use_sage_attention use_scaled_rope use_seq_aux vision_soft_tokens_per_image vision_feature_layer
vision_feature_select_strategy vision_token_id vision_start_token_id vision_end_token_id video_token_id
video_token_index audio_token_id audio_token_index verbose warnings_issued head_dtype
attention_sink_size context_window_size tensor_parallel_shards max_batch_size mask_value save_pretrained
activation_situ_beta activation_situ_linear_beta z_loss_weight norm_type_eps kv_cache_scheme
factor_type attention_backend ffn_activation
layer_switch order_of_interleaved_layers use_embedding_sharing use_gated_activation use_parallel_block
use_parallel_embedding _from_model_config input_jitter_noise pre_allocate_kv_cache pad_key_length inference_runner
enable_expert_tensor_parallelism enable_expert_parallelism compression_ratio moe_capacity moe_norm_min org_vocab_size
pool_type dense_list cla_share_factor use_cla sparse_config tie_word_embeddings num_media_embeds per_layer_config
moe_min_capacity layerdrop_type normalization_function attn_logits_dtype scale_embedding sparse_pred_ignore_index
"""

_PATTERNS = r"""
.*(dropout|pdrop|drop_rate|drop_path_rate|droppath)(_p|_prob|_rate)?
.*_(token_id|token_ids|token_index|token)
.*_eps(ilon)?
.*_(coef|coeff|alpha|beta|alpha_factor|beta_factor|loss_weight)
(.*_)?init(ializer|ializing)?(_.*)?
.*_initializer_range
(.*_)?rope(_.*)?
.*_freq(_base|_factor)?
mrope.*
yarn.*
.*capacity_factor
summary_.*
use_fp8.*
.*_softcap(ping)?
.*_multipliers?
.*_act(ivation)?(_fn|_function)?
.*_in_fp32
.*_logit_soft_cap
.*_mtp_loss.*
.*_dtype
.*_(implementation|backend)
"""

HARMLESS = re.compile("|".join([*(re.escape(name) for name in _NAMES.split()), *_PATTERNS.split()]))
"""Keys reviewed: they change values, sampling, training or kernels, and no shape."""

UNUSED_IN_VISION = frozenset({"vocab_size", "max_position_embeddings", "tie_word_embeddings"})
"""Keys that image encoders inherit from a text config's class and never use."""
