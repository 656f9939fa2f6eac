"""Token by token, below the chat: ids in, ids out. Shows the alternative where the model was unsure.

python examples/generate.py "Name three colours." [--model FOLDER]
"""

import argparse
import sys
import time

import mlx_oss
from mlx_oss.harmony import Message, SystemContent, render_conversation

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("question")
parser.add_argument("--model", help="name or folder of a model; default: nano, the bundled demonstration model")
args = parser.parse_args()

try:
    model, tokenizer = mlx_oss.load(args.model)
except mlx_oss.MlxOssError as error:
    sys.exit(f"error: {error}")
messages = [Message("system", SystemContent(reasoning_effort="low")), Message("user", args.question)]
prompt = render_conversation(messages, next_role="assistant")

options = mlx_oss.SamplingOptions(temperature=0, top_logprobs=2)
decoder = tokenizer.stream_decoder()
started, count = time.perf_counter(), 0
request = mlx_oss.Request(prompt, options, stop_ids=tokenizer.stop_ids, max_tokens=200)
for step in model.submit(request):
    count += 1
    (_, first), *others = step.top_logprobs
    unsure = f"  [or {tokenizer.decode([others[0][0]])!r}]" if others and first - others[0][1] < 1 else ""
    print(decoder.feed(step.token) + unsure, end="", flush=True)
print(f"\n{count} tokens, {count / (time.perf_counter() - started):.1f} a second, the prompt's {len(prompt)} included")
