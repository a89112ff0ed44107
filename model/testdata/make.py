"""Makes micro-scout and micro-maverick: small random Llama 4 checkpoints in the Hugging Face layout, with reference outputs.

  python3 make.py [NAME ...]        (PyTorch, and transformers >= 5; the recorded outputs came from 2.15 and 5.23 on a CPU)

Every rule of the model fires in them: RoPE and NoPE layers, scaled and plain RoPE, QK norm on and off, chunks that no
page size divides, the temperature curve, routed, shared and dense feed-forward, grouped heads.
Weights are rounded to bf16 and saved as bf16; outputs are computed from the rounded weights in float32 without a KV cache.
"""
import math
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import Llama4Config, Llama4ForConditionalGeneration

HERE = os.path.dirname(os.path.abspath(__file__))
VISION = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, vision_output_dim=48, projector_input_dim=48,
              projector_output_dim=48, image_size=28, patch_size=14, pixel_shuffle_ratio=0.5, rope_parameters=dict(rope_type="default", rope_theta=10000.0))
SCALED = dict(rope_type="llama3", rope_theta=500000.0, factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0, original_max_position_embeddings=8192)
TOKENS = dict(bos_token_id=250, eos_token_id=[251, 252, 253], pad_token_id=254)
IMAGE = dict(vision_config=VISION, boi_token_index=240, eoi_token_index=241, image_token_index=242)
CONFIGS = {
    "micro-scout": (21, dict(text_config=dict(
        vocab_size=256, hidden_size=64, intermediate_size=40, intermediate_size_mlp=96, num_hidden_layers=4, num_attention_heads=5,
        num_key_value_heads=1, head_dim=32, num_local_experts=6, interleave_moe_layer_step=1, use_qk_norm=True, attention_chunk_size=20,
        floor_scale=16, attn_scale=0.1, max_position_embeddings=10485760, rope_parameters=SCALED, **TOKENS), **IMAGE)),
    "micro-maverick": (22, dict(text_config=dict(
        vocab_size=256, hidden_size=56, intermediate_size=24, intermediate_size_mlp=72, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=2, head_dim=24, num_local_experts=9, interleave_moe_layer_step=2, use_qk_norm=False, attention_chunk_size=27,
        floor_scale=16, attn_scale=0.1, max_position_embeddings=1048576, rope_parameters=dict(rope_type="default", rope_theta=500000.0),
        **TOKENS), **IMAGE)),
}


def fill(model, seed):
    """Random weights of sane size, rounded to bf16."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        r = torch.randn(p.shape, generator=g)
        if "norm" in name and name.endswith("weight"):
            v = 1 + 0.2 * r
        elif name.endswith("bias"):
            v = 0.1 * r
        elif "experts" in name:
            v = r / math.sqrt(p.shape[1])
        elif "router" in name:
            v = r * 2 / math.sqrt(p.shape[1])
        elif "embed_tokens" in name or "class_embedding" in name or "positional" in name:
            v = r * (1.0 if "embed" in name else 0.3)
        else:
            v = r * 1.2 / math.sqrt(p.shape[-1])
        with torch.no_grad():
            p.copy_(v.to(torch.bfloat16).to(p.dtype))


def make(name):
    seed, config = CONFIGS[name]
    cfg = Llama4Config(**config)
    cfg._attn_implementation = "eager"
    model = Llama4ForConditionalGeneration(cfg).eval()
    fill(model, seed)
    folder = os.path.join(HERE, name)
    stored = Llama4ForConditionalGeneration(cfg).to(torch.bfloat16)
    stored.load_state_dict(model.state_dict())
    stored.save_pretrained(folder, max_shard_size="250KB")
    hidden, attn, router, hooks = [], [], [], []
    for layer in model.language_model.model.layers:
        hooks.append(layer.register_forward_hook(lambda _m, _i, o: hidden.append(o[0] if isinstance(o, tuple) else o)))
        hooks.append(layer.self_attn.register_forward_hook(lambda _m, _i, o: attn.append(o[0])))
        if layer.is_moe_layer:
            hooks.append(layer.feed_forward.router.register_forward_hook(lambda _m, _i, o: router.append(o[1])))
    g = torch.Generator().manual_seed(11)
    n = 80
    ids = torch.randint(0, 240, (1, n), generator=g)
    ids[0, 0] = cfg.text_config.bos_token_id
    t = {"text.input_ids": ids[0].int()}
    with torch.no_grad():
        t["text.logits"] = model(input_ids=ids, use_cache=False).logits[0]
    if name == "micro-maverick":
        attn = []  # the repository has little room; its hidden states have the same in them
    for key, rows in (("hidden", hidden), ("attn_out", attn), ("router_logits", router)):
        for i, x in enumerate(rows):
            t[f"text.{key}.{i}"] = x.reshape(n, -1)
    for h in hooks:
        h.remove()
    seq, gaps = ids[:, :40], []
    with torch.no_grad():
        for _ in range(40):
            top = model(input_ids=seq, use_cache=False).logits[0, -1].topk(2)
            gaps.append((top.values[0] - top.values[1]).item())
            seq = torch.cat([seq, top.indices[:1][None]], 1)
    t["generate.prompt_len"] = torch.tensor([40], dtype=torch.int32)
    t["generate.tokens"], t["generate.margin"] = seq[0].int(), torch.tensor(gaps)
    pixels = torch.randn(3, 3, 28, 28, generator=g)
    with torch.no_grad():
        f = model.get_image_features(pixel_values=pixels, vision_feature_select_strategy="default", return_dict=True).last_hidden_state
        t["vision.pixel_values"], t["vision.features"], t["vision.projected"] = pixels, f, model.multi_modal_projector(f)
        k, patch = f.shape[1], cfg.image_token_index
        mixed = [250, 240] + [patch] * k + [243] + [patch] * k + [244, 245] + [patch] * k + [241] + ids[0, 1:20].tolist()
        t["multimodal.input_ids"] = torch.tensor(mixed, dtype=torch.int32)
        t["multimodal.logits"] = model(input_ids=torch.tensor([mixed]), pixel_values=pixels, use_cache=False).logits[0]
    save_file({k: v.detach().contiguous() for k, v in t.items()}, os.path.join(folder, "expected.safetensors"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or CONFIGS:
        make(name)
