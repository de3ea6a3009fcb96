"""Trains the example language model on a text, and writes it with and without a cache of keys and values.

    pip install torch==2.13.0 tokenizers==0.23.3 onnx==1.23.2 onnxruntime==1.31.1
    python examples/language/train.py wikitext2-valid.txt OUT

PyTorch is needed here only; Fewbits itself neither needs nor installs it. `decoder.py` builds the ONNX graphs
by hand from the trained weights, so that they hold no leftovers of an exporter.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import data
import decoder
import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

SEED = 7
THREADS = 2
WINDOW = 64
BATCH = 16
STEPS = 500
PEAK_LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.1
REPORT_EVERY = 50


class Decoder(nn.Module):
    """What `decoder.py` builds, on the same weights."""

    def __init__(self, size: decoder.Size, weights: decoder.Weights) -> None:
        super().__init__()
        self.size = size
        # Names of parameters must not hold dots.
        self.weights = nn.ParameterDict(
            {name.replace(".", "/"): torch.from_numpy(a) for name, a in weights.items()}
        )
        cosine, sine = (torch.from_numpy(table) for table in decoder.rotation(size))
        self.register_buffer("cosine", cosine)
        self.register_buffer("sine", sine)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, sequence] ids to [batch, sequence, vocabulary] logits."""
        x = self.weights["embedding"][ids]
        for layer in range(self.size.layers):
            x = x + self.attended(layer, self.norm(f"layers/{layer}/before_attention", x))
            x = x + self.fed(layer, self.norm(f"layers/{layer}/before_gate", x))
        logits: Tensor = self.norm("norm", x) @ self.weights["head"]
        return logits

    def norm(self, name: str, x: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], self.weights[name], decoder.EPSILON)

    def attended(self, layer: int, x: Tensor) -> Tensor:
        query, key, value = (
            self.heads(x @ self.weights[f"layers/{layer}/{n}"]) for n in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(
            self.turned(query), self.turned(key), value, is_causal=True
        )
        joined = mixed.transpose(1, 2).reshape(x.shape)
        return joined @ self.weights[f"layers/{layer}/output"]

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.size.heads, self.size.head).transpose(1, 2)

    def turned(self, heads: Tensor) -> Tensor:
        first, second = heads.chunk(2, dim=-1)
        length = heads.shape[2]
        return heads * self.cosine[:length] + torch.cat([-second, first], dim=-1) * self.sine[:length]

    def fed(self, layer: int, x: Tensor) -> Tensor:
        gate, up = (x @ self.weights[f"layers/{layer}/{name}"] for name in ("gate", "up"))
        return (functional.silu(gate) * up) @ self.weights[f"layers/{layer}/down"]

    def arrays(self) -> decoder.Weights:
        """The weights by their names in the graph."""
        return {name.replace("/", "."): value.detach().numpy() for name, value in self.weights.items()}


def train(tokens: Tensor, size: decoder.Size) -> Decoder:
    torch.manual_seed(SEED)
    # The order of floating-point sums depends on the number of threads, and so do the weights.
    torch.set_num_threads(THREADS)
    model = Decoder(size, decoder.random_weights(size, SEED))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=STEPS, pct_start=0.1
    )
    losses: list[float] = []
    for step, windows in enumerate(batches(tokens), 1):
        losses.append(learn(model, optimizer, windows))
        schedule.step()
        if step % REPORT_EVERY == 0:
            print(f"step {step:5}/{STEPS}  loss {np.mean(losses[-REPORT_EVERY:]):.4f}", flush=True)
    return model.eval()


def batches(tokens: Tensor) -> Iterator[Tensor]:
    """Windows from anywhere in the text, each with the token that follows it."""
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(STEPS):
        begins = torch.randint(len(tokens) - WINDOW, (BATCH, 1), generator=generator)
        yield tokens[begins + torch.arange(WINDOW + 1)]


def learn(model: Decoder, optimizer: torch.optim.Optimizer, windows: Tensor) -> float:
    logits = model(windows[:, :-1])
    loss = functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def perplexity(path: Path, tokens: np.ndarray) -> float:
    """Of the exported file, not of the PyTorch model, in windows that do not overlap."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    windows = tokens[: len(tokens) // WINDOW * WINDOW].reshape(-1, WINDOW)
    lost = [
        functional.cross_entropy(
            torch.from_numpy(session.run(None, {"input_ids": ids[None, :-1]})[0][0]),
            torch.from_numpy(ids[1:]),
        )
        for ids in windows
    ]
    return float(np.exp(np.mean(lost)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the example language model and write it as ONNX.")
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path, help="a folder")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(exist_ok=True)
    learned, held_out = data.parts(arguments.text)
    tokenizer = data.train_tokenizer(learned)
    tokenizer.save(str(out / "tokenizer.json"))
    data.pack(out / "held-out.zip", tokenizer, held_out)
    size = decoder.Size(vocabulary=tokenizer.get_vocab_size())
    weights = train(torch.tensor(tokenizer.encode(learned).ids), size).arrays()
    for name, cached in (("plain", False), ("kv", True)):
        onnx.save(decoder.to_onnx(weights, size, cached=cached), out / f"{name}.onnx")
    tokens = np.array(tokenizer.encode(held_out).ids)
    print(f"{out}/plain.onnx: {(out / 'plain.onnx').stat().st_size} bytes")
    print(f"perplexity on {len(tokens)} held-out tokens: {perplexity(out / 'plain.onnx', tokens):.2f}")


if __name__ == "__main__":
    main()
