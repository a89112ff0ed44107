#!/bin/sh
# chulengo and transformers on the same GPU, or GPUs, the same shape with random weights, one after the other; both columns at the end.
#   run.sh [LAYERS]      default 16, of Scout
# CHULENGO: the binary (default bin/chulengo, of make gpu); PYTHON: with torch and transformers; MODEL: a folder with another
# config.json; DEVICES (cuda:0,cuda:1: chulengo shares every layer, transformers deals layers out with device_map="auto"); BATCHES (1,8,32), DEPTHS (512), PROMPTS (2048,8192): what is measured; STEPS: decoded tokens (256, and 64 of transformers);
# OUT: where the reports go. transformers must hold whole batches of prompts: beyond some 4,096 × 8 tokens it has no room.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
layers=${1:-16}
chulengo=${CHULENGO:-$here/../../bin/chulengo}
python=${PYTHON:-python3}
out=${OUT:-$(mktemp -d)}
batches=${BATCHES:-1,8,32} depths=${DEPTHS:-512} prompts=${PROMPTS:-2048,8192}
decode=
for depth in $(echo "$depths" | tr , ' '); do
    for batch in $(echo "$batches" | tr , ' '); do decode="$decode${decode:+,}$batch:$depth"; done
done
if [ -n "${MODEL:-}" ]; then
    set -- --model "$MODEL" --load-format dummy
    config="--config $MODEL/config.json"
else
    set -- --shape scout
    config=
fi
"$chulengo" bench --device "${DEVICES:-cuda}" "$@" --layers "$layers" --batch "$batches" --depth "$depths" --prompt-tokens "$prompts" --steps "${STEPS:-256}" --format json >"$out/chulengo.json"
"$python" "$here/transformers_bench.py" $config --layers "$layers" --prompts "$prompts" --decode "$decode" --steps "${STEPS:-64}" --device "${TORCH_DEVICE:-${DEVICES:-cuda}}" \
    >"$out/transformers.jsonl"
"$python" - "$out" <<'PY'
import json, sys
out = sys.argv[1]
report = json.load(open(out + "/chulengo.json"))
theirs = {x["what"]: x for x in map(json.loads, open(out + "/transformers.jsonl"))}
env, v = report["environment"], theirs["versions"]
print(f"{env['device']}; {report['checkpoint']}; commit {env['commit']}, {env['date']}")
print(f"transformers {v['transformers']}, torch {v['torch']}\n")
print(f"{'':32}{'chulengo':>12}{'of bound':>10}{'transformers':>14}{'times':>8}")
for x in report["results"]:
    t = theirs.get("transformers/" + x["name"])
    if t is None:
        continue
    ms = x["median_ns"] / 1e6
    if "error" in t:
        print(f"{x['name']:32}{ms:9.2f} ms{x.get('percent', 0):8.1f} %{t['error']:>17}")
        continue
    print(f"{x['name']:32}{ms:9.2f} ms{x.get('percent', 0):8.1f} %{t['ms']:11.2f} ms{t['ms'] / ms:7.1f}x")
print()
for what, t in theirs.items():
    if what.startswith("torch."):
        print(f"{what:36}{t['ms'] * 1e3:10.1f} µs{t['tflops']:9.0f} TFLOP/s")
for x in report["results"]:
    if "/family=" in x["name"] or "/stage=" in x["name"]:
        print(f"{x['name']:44}{x['median_ns'] / 1e3:10.1f} µs {x['rate']:10.0f} {x['unit']:8}{x.get('percent', 0):6.1f} %")
PY
