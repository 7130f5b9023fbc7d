"""What the published block-diffusion models say of their shapes, with keys that change nothing.

JetLM/SDAR-1.7B-Chat, Efficient-Large-Model/Fast_dLLM_v2_7B, inclusionAI/LLaDA2.0-mini; beside each its
number of tensors, mask token and block size.
"""

PUBLISHED = {
    "sdar": (
        {
            **{"model_type": "sdar", "architectures": ["SDARForCausalLM"], "torch_dtype": "bfloat16"},
            **{
                "auto_map": {"AutoConfig": "configuration_sdar.SDARConfig"},
                "attn_implementation": "flex_attention",
            },
            **{
                "attention_bias": False,
                "attention_dropout": 0.0,
                "bos_token_id": 151643,
                "eos_token_id": 151643,
            },
            **{"debug": False, "ep_size": 1, "fuse_cross_entropy": True, "micro_forward": False},
            **{
                "block_size": 4,
                "mask_token_id": 151669,
                "head_dim": 128,
                "hidden_act": "silu",
                "hidden_size": 2048,
            },
            **{"intermediate_size": 6144, "max_position_embeddings": 32768, "max_window_layers": 28},
            **{
                "num_attention_heads": 16,
                "num_hidden_layers": 28,
                "num_key_value_heads": 8,
                "rms_norm_eps": 1e-06,
            },
            **{
                "rope_scaling": None,
                "rope_theta": 1000000,
                "sliding_window": None,
                "use_sliding_window": False,
            },
            **{"tie_word_embeddings": False, "vocab_size": 151936, "transformers_version": "4.52.4"},
        },
        (311, 151669, 4),
    ),
    "fast_dllm_v2": (
        {
            **{"model_type": "Fast_dLLM_Qwen", "architectures": ["Fast_dLLM_QwenForCausalLM"], "bd_size": 32},
            **{
                "attention_dropout": 0.0,
                "bos_token_id": 151643,
                "eos_token_id": 151645,
                "hidden_act": "silu",
            },
            **{"hidden_size": 3584, "intermediate_size": 18944, "max_position_embeddings": 32768},
            **{
                "num_attention_heads": 28,
                "num_hidden_layers": 28,
                "num_key_value_heads": 4,
                "rms_norm_eps": 1e-06,
            },
            **{
                "rope_scaling": None,
                "rope_theta": 1000000.0,
                "sliding_window": 131072,
                "max_window_layers": 28,
            },
            **{"use_sliding_window": False, "tie_word_embeddings": False, "vocab_size": 152064},
            **{"torch_dtype": "bfloat16", "use_cache": True, "transformers_version": "4.53.1"},
        },
        (339, 151665, 32),
    ),
    "llada2": (
        {
            **{"model_type": "llada2_moe", "architectures": ["LLaDA2MoeModelLM"], "dtype": "bfloat16"},
            **{"first_k_dense_replace": 1, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048},
            **{"intermediate_size": 5120, "max_position_embeddings": 32768, "moe_intermediate_size": 512},
            **{
                "moe_router_enable_expert_bias": True,
                "n_group": 8,
                "norm_head": False,
                "norm_softmax": False,
            },
            **{
                "norm_topk_prob": True,
                "num_attention_heads": 16,
                "num_experts": 256,
                "num_experts_per_tok": 8,
            },
            **{
                "num_hidden_layers": 20,
                "num_key_value_heads": 4,
                "num_shared_experts": 1,
                "pad_token_id": 156892,
            },
            **{
                "output_router_logits": False,
                "partial_rotary_factor": 0.5,
                "rms_norm_eps": 1e-06,
                "rotary_dim": 64,
            },
            **{
                "rope_scaling": None,
                "rope_theta": 600000,
                "routed_scaling_factor": 2.5,
                "router_dtype": "fp32",
            },
            **{"score_function": "sigmoid", "tie_word_embeddings": False, "topk_group": 4, "use_bias": False},
            **{"use_qk_norm": True, "use_qkv_bias": False, "use_rmsnorm": True, "vocab_size": 157184},
            **{
                "using_split_qkv_in_self_attention": False,
                "use_sliding_window": False,
                "sliding_window": 4096,
            },
        },
        (14813, 156895, 32),
    ),
}
