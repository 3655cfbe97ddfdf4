"""A tiny GPT learns to sort the letters of a word. It writes its answers with a key-value cache.

    python examples/09_tiny_gpt.py [--json FILE] [--quick]

The text is made by a rule: a word of random letters, ">", and the same letters in order, such as "dbaf>abdf". The
network reads it character by character and predicts the next one. Only the characters after ">" count, since those
before are random. Words of the test set are not in the training set.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np
import optax

import functional_nn as fnn

LETTERS = "abcdefgh"
CHARACTERS = LETTERS + ">"
IGNORED = -1


def texts(words):
    """Each word, ">", and its letters in order, as the numbers of characters."""
    arrow = np.full((len(words), 1), CHARACTERS.index(">"))
    return np.concatenate([words, arrow, np.sort(words, axis=1)], axis=1).astype(np.int32)


def with_labels(tokens, length):
    """The network's inputs, and the next character for each. Those of the word itself are ignored."""
    labels = tokens[:, 1:].copy()
    labels[:, :length] = IGNORED
    return tokens[:, :-1], labels


def as_text(tokens):
    return "".join(CHARACTERS[token] for token in tokens)


def main(length, count, epochs, seed, json_file):
    random = np.random.default_rng(seed)
    words = np.unique(random.integers(0, len(LETTERS), (count + 500, length)), axis=0)
    words = random.permutation(words)
    train, test = texts(words[500:]), texts(words[:500])
    # A smaller last batch would be another step to compile, so it is left out.
    train = train[: len(train) // 64 * 64]

    # Two heads of keys and values serve four heads of queries, so the cache is half as large.
    time_steps = 2 * length + 1
    model = fnn.models.language_model(
        len(CHARACTERS), time_steps, features=32, depth=2, heads=4, key_value_heads=2, positions="learned"
    )
    loss = fnn.losses.cross_entropy_with(ignore_index=IGNORED)
    data = fnn.data.Split(*with_labels(train, length), *with_labels(test, length))
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, epochs * len(train) // 64))

    def on_epoch(metrics, train_state):
        print(
            f"  epoch {metrics.epoch}: loss {metrics.train_loss:.3f}, on new words {metrics.test_loss:.3f}", flush=True
        )

    # The hand-derived backward pass trains faster here than jax.grad.
    net = fnn.with_hand_vjp(model.layer)
    run = fnn.fit(net, loss, optimizer, data, epochs=epochs, batch_size=64, seed=seed, on_epoch=on_epoch)
    print(f"{fnn.trees.size(run.params):,} parameters, trained in {sum(run.seconds.values()):.1f} s")

    # The prompts are the words with ">". At temperature 0 the most likely character is written.
    prompts, answers = test[:, : length + 1], test[:, length + 1 :]
    start = time.perf_counter()
    written = np.asarray(model.generate(run.params, prompts, new_tokens=length, temperature=0))
    seconds = time.perf_counter() - start
    right = float(np.mean((written == answers).all(axis=1)))
    for prompt, answer in zip(prompts[:5], written[:5], strict=True):
        print(f"  {as_text(prompt)}{as_text(answer)}")
    print(f"{right:.1%} of {len(prompts)} new words are sorted; written in {seconds:.2f} s with compiling")

    # At a higher temperature characters are drawn by chance: the same prompt has several answers.
    prompt = np.repeat(prompts[:1], 3, axis=0)
    drawn = model.generate(run.params, prompt, jax.random.key(seed), new_tokens=length, temperature=5.0, top_k=4)
    print(f"at temperature 5: {', '.join(map(as_text, np.asarray(drawn)))}")
    if json_file:
        Path(json_file).write_text(json.dumps({"right": right, "test_loss": run.history[-1].test_loss}), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--quick", action="store_true", help="shorter and fewer words")
    arguments = parser.parse_args()
    effort = (5, 4_000, 4) if arguments.quick else (8, 20_000, 4)
    main(*effort, arguments.seed, arguments.json)
