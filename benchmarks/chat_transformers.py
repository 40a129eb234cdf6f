"""Answer requests with transformers for benchmarks/chat.py: `chat_transformers.py CHECKPOINT DTYPE THREADS`.

Runs in an environment of its own with torch and transformers. It reads requests, one line of JSON each, and writes the
seconds and ids of each answer; the first line that it writes says that the model is loaded.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from transformers import InternVLForConditionalGeneration, __version__


def main(checkpoint: str, dtype: str, threads: str) -> None:
    """Load the model, and answer until the input ends."""
    torch.set_num_threads(int(threads))
    model: Any = InternVLForConditionalGeneration.from_pretrained(checkpoint, dtype=getattr(torch, dtype))
    model.generation_config.eos_token_id = None
    _say({"name": f"transformers {__version__}, torch {torch.__version__}"})
    for line in sys.stdin:
        request = json.loads(line)
        pixels = torch.from_numpy(np.load(request["pixel_values"])).to(model.dtype)
        ids = torch.tensor([request["input_ids"]])
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=pixels,
                max_new_tokens=request["new_tokens"],
                do_sample=False,
                pad_token_id=0,
            )
        seconds = time.perf_counter() - start
        _say({"seconds": seconds, "ids": out[0, ids.shape[1] :].tolist()})


def _say(content: dict[str, object]) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
