#!/usr/bin/env python3
"""Llama 4's text model in transformers, random weights, bf16: what chulengo's numbers stand beside. On several GPUs layers are dealt
out as device_map="auto" does it: each GPU has a run of them, and what a layer reads is moved to its GPU.

Prints JSON lines: prefill of whole prompts, greedy decoding after them, and what torch.matmul and scaled_dot_product_attention
make of the same shapes. Times are medians of wall clock around torch.cuda.synchronize().

    transformers_bench.py --layers 16 [--config config.json] [--prompts 2048,8192] [--decode 1:512,8:512,32:512] [--steps 64] [--device cuda:0,cuda:1]
"""
import argparse
import json
import statistics
import time

import torch
import transformers
from transformers import Llama4ForCausalLM, Llama4TextConfig

SCOUT = dict(hidden_size=5120, num_attention_heads=40, num_key_value_heads=8, head_dim=128, intermediate_size=8192, intermediate_size_mlp=16384,
             num_local_experts=16, num_experts_per_tok=1, interleave_moe_layer_step=1, vocab_size=202048, attention_chunk_size=8192,
             max_position_embeddings=131072, rms_norm_eps=1e-5, use_qk_norm=True, attn_temperature_tuning=True, floor_scale=8192, attn_scale=0.1,
             rope_theta=500000.0, hidden_act="silu", tie_word_embeddings=False, pad_token_id=None)


def sync():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def wall(f, rounds):
    f()
    times = []
    for _ in range(rounds):
        sync()
        begin = time.perf_counter()
        f()
        sync()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def say(**values):
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}), flush=True)


def move(value, device):
    if torch.is_tensor(value):
        return value.to(device)
    if isinstance(value, (tuple, list)):
        return type(value)(move(v, device) for v in value)
    if isinstance(value, dict):
        return {k: move(v, device) for k, v in value.items()}
    return value


def spread(config, devices):
    """The model with its layers in runs on the devices, memory uninitialised but for what is computed."""
    with torch.device("meta"):
        model = Llama4ForCausalLM(config)
    inner = model.model

    def place(module, device):
        module.to_empty(device=device)
        module.register_forward_pre_hook(lambda m, args, kwargs: (move(args, device), move(kwargs, device)), with_kwargs=True)

    place(inner.embed_tokens, devices[0])
    inner.rotary_emb = type(inner.rotary_emb)(config=config).to(devices[0])
    for i, layer in enumerate(inner.layers):
        place(layer, devices[i * len(devices) // len(inner.layers)])
    place(inner.norm, devices[-1])
    place(model.lm_head, devices[-1])
    return model


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--config")
    p.add_argument("--layers", type=int, default=16)
    p.add_argument("--prompts", default="2048,8192")
    p.add_argument("--decode", default="1:512,8:512,32:512")
    p.add_argument("--steps", type=int, default=64)
    p.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"])
    p.add_argument("--device", default="cuda")
    a = p.parse_args()
    shape = dict(SCOUT)
    if a.config:
        with open(a.config) as f:
            c = json.load(f)
        shape = {k: v for k, v in c.get("text_config", c).items() if k in SCOUT}
    torch.manual_seed(1)
    say(what="versions", torch=torch.__version__, transformers=transformers.__version__, gpu=torch.cuda.get_device_name() if a.device.startswith("cuda") else "cpu")
    devices = a.device.split(",")

    prompts = [int(n) for n in a.prompts.split(",") if n]
    if a.device.startswith("cuda"):
        for n in prompts:
            for out, k, name in ((7168, 5120, "qkv"), (5120, 5120, "o"), (16384, 5120, "gate_up"), (5120, 8192, "down")):
                x = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
                w = torch.randn(out, k, device="cuda", dtype=torch.bfloat16)
                s = wall(lambda: x @ w.T, 20)
                say(what=f"torch.matmul/{name}/rows={n}", ms=s * 1e3, tflops=2 * n * out * k / s / 1e12)
            q = torch.randn(1, 40, n, 128, device="cuda", dtype=torch.bfloat16)
            s = wall(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True), 20)
            say(what=f"torch.sdpa/rows={n}", ms=s * 1e3, tflops=4 * 40 * 128 * n * (n + 1) / 2 / s / 1e12)

    config = Llama4TextConfig(num_hidden_layers=a.layers, attn_implementation=a.attention, **shape)
    torch.set_default_dtype(torch.bfloat16)
    if len(devices) > 1:
        model = spread(config, devices).eval()
    else:
        with torch.device(a.device):
            model = Llama4ForCausalLM(config).eval()
    with torch.inference_mode():
        for name, w in model.named_parameters():
            if "norm" in name:
                w.fill_(1)
            else:
                w.normal_(0, w.shape[-1] ** -0.5)
        for n in prompts:
            def read():
                model(torch.randint(shape["vocab_size"], (1, n), device=devices[0]), use_cache=True, logits_to_keep=1)
            measure(f"transformers/prefill/tokens={n}", n, lambda: wall(read, 3))
        for case in [c for c in a.decode.split(",") if c]:
            batch, depth = map(int, case.split(":"))
            ids = torch.randint(shape["vocab_size"], (batch, depth), device=devices[0])
            measure(f"transformers/decode/batch={batch}/context={depth}", batch, lambda: decode(model, ids, a.steps))


def measure(what, tokens, seconds):
    try:
        s = seconds()
        say(what=what, ms=s * 1e3, tok_s=tokens / s)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        say(what=what, error="out of memory")


def decode(model, ids, steps):
    """Seconds of a step after the prompts ids [B, S], greedy, each fed its own last token."""
    out = model(ids, use_cache=True, logits_to_keep=1)
    cache, ids = out.past_key_values, out.logits[:, -1:].argmax(-1).to(ids.device)

    def step():
        nonlocal ids
        ids = model(ids, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1).to(ids.device)

    for _ in range(3):
        step()
    sync()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    sync()
    return (time.perf_counter() - begin) / steps


if __name__ == "__main__":
    main()
