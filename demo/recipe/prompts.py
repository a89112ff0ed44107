"""Prompts of the generator for `chulengo bench quality --prompts FILE`: one JSON object a line, {"kind", "prompt", "want"}.

python3 prompts.py [COUNT] [SEED]
"""
import json
import random
import sys

import dialogues as D

KINDS = [D.arithmetic, D.capital, D.element, D.define, D.translate, D.sequence, D.repeat, D.compare, D.identity, D.memory, D.tool_call]

count, seed = (int(a) for a in (sys.argv[1:] + ["550", "90210"][len(sys.argv) - 1:]))
r = random.Random(seed)
for i in range(count):
    kind = KINDS[i % len(KINDS)]
    turns = kind(r)
    text = "<|begin_of_text|>"
    for n, (question, answer) in enumerate(turns):
        text += f"<|header_start|>user<|header_end|>\n\n{question}<|eot|><|header_start|>assistant<|header_end|>\n\n"
        if n + 1 < len(turns):
            text += answer + "<|eot|>"
    print(json.dumps({"kind": kind.__name__, "prompt": text, "want": turns[-1][1]}, ensure_ascii=False))
