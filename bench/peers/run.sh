#!/bin/sh
# chulengo and transformers on the same GPU, the same shape with random weights, one after the other; both columns at the end.
#   run.sh [LAYERS]      CHULENGO: the binary (default bin/chulengo, of make gpu); PYTHON: with torch and transformers
set -eu
here=$(cd "$(dirname "$0")" && pwd)
layers=${1:-16}
chulengo=${CHULENGO:-$here/../../bin/chulengo}
out=${OUT:-$(mktemp -d)}
"$chulengo" bench --device cuda --shape scout --layers "$layers" --batch 1,8,32 --depth 512 --prompt-tokens 2048,8192 --format json >"$out/chulengo.json"
"${PYTHON:-python3}" "$here/transformers_bench.py" --layers "$layers" >"$out/transformers.jsonl"
"${PYTHON:-python3}" - "$out" "$layers" <<'PY'
import json, sys
out, layers = sys.argv[1], sys.argv[2]
report = json.load(open(out + "/chulengo.json"))
theirs = {x["what"]: x for x in map(json.loads, open(out + "/transformers.jsonl"))}
env, v = report["environment"], theirs["versions"]
print(f"{env['device']}, Llama-4-Scout's shapes, {layers} layers, random weights; commit {env['commit']}, {env['date']}")
print(f"transformers {v['transformers']}, torch {v['torch']}\n")
print(f"{'':32}{'chulengo':>12}{'of bound':>10}{'transformers':>14}{'times':>8}")
for x in report["results"]:
    t = theirs.get("transformers/" + x["name"])
    if t is None:
        continue
    ms = x["median_ns"] / 1e6
    print(f"{x['name']:32}{ms:9.2f} ms{x.get('percent', 0):8.1f} %{t['ms']:11.2f} ms{t['ms'] / ms:7.1f}x")
print()
for what, t in theirs.items():
    if what.startswith("torch."):
        print(f"{what:32}{t['tflops']:9.0f} TFLOP/s")
for x in report["results"]:
    if "/family=" in x["name"]:
        print(f"{x['name']:44}{x['median_ns'] / 1e3:10.1f} µs {x['rate']:10.0f} {x['unit']:8}{x.get('percent', 0):6.1f} %")
PY
