"""A network learns to write sonnets, one character after another. It is an rnn, lstm, gru or transformer.

    python examples/04_character_language_model.py [--model lstm] [--temperature 0.7] [--json FILE] [--quick]

The text, 77 sonnets by Shakespeare, is in data/sonnets.txt. The last seven are held out. The loss on them is given in
bits per character: the average number of yes-or-no questions that a reader with this model needs to guess the next one.
"""

import argparse
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functional_nn as fnn

TEXT = Path(__file__).parent / "data" / "sonnets.txt"
TIME, BATCH = 64, 32
LAYERS = {"rnn": fnn.rnn, "lstm": fnn.lstm, "gru": fnn.gru}
CELLS = {"rnn": fnn.rnn_cell, "lstm": fnn.lstm_cell, "gru": fnn.gru_cell}


def windows(tokens, stride):
    """Pieces of the text, and the same pieces one character later, which the network has to predict."""
    starts = np.arange(0, len(tokens) - TIME, stride)[:, None]
    return tokens[starts + np.arange(TIME)], tokens[starts + np.arange(1, TIME + 1)]


def language_model(model, count, size):
    """A network that gives, at every step, a logit for each of ``count`` possible next characters."""
    if model == "transformer":
        blocks = fnn.repeat(fnn.models.transformer_block(4, causal=True, rotary=True, dropout=0.2), 2)
        net = fnn.chain(fnn.embedding(count, size), blocks, fnn.layer_norm(), fnn.unembedding(count))
        return fnn.shared(net, {"unembedding_0": "embedding_0"})  # input and output share the vectors of the characters
    layers = [fnn.with_hand_vjp(LAYERS[model](size, returns="sequence")) for _ in range(2)]
    dropout = fnn.dropout(0.2)
    return fnn.chain(fnn.embedding(count, size), layers[0], dropout, layers[1], dropout, fnn.dense(count))


def reader(model, net, params, state, count, size):
    """An empty memory, and a function ``read(memory, character) -> (memory, logits of the next character)``."""
    if model == "transformer":
        # The memory of a transformer is the last characters. It reads all of them again at each step.

        def read(memory, token):
            memory = jnp.append(memory[1:], token)
            return memory, net.apply(params, state, memory[None], train=False)[0][0, -1]

        return jnp.zeros(TIME, jnp.int32), read

    # The memory of a recurrent network is the states of both layers. A cell is one step of the layer, and has the same
    # parameters.
    embedding, cell, dense = fnn.embedding(count, size), CELLS[model](size), fnn.dense(count)

    def read(memory, token):
        x, _ = embedding.apply(params["embedding_0"], {}, token[None], train=False)
        after = []
        for i, before in enumerate(memory):
            hidden, _ = cell.apply(params[f"{model}_{i}"], {}, (x, before), train=False)
            after.append(hidden)
            x = hidden[0] if model == "lstm" else hidden
        return after, dense.apply(params["dense_0"], {}, x, train=False)[0][0]

    zeros = jnp.zeros((1, size))
    return [(zeros, zeros) if model == "lstm" else zeros] * 2, read


def sample(memory, read, prompt, key, length, temperature):
    """Reads the prompt; then draws a character from the logits, reads it, and so on. Both are scans in one program."""

    def write(carry, key):
        memory, logits = carry
        token = jax.random.categorical(key, logits / temperature).astype(jnp.int32)
        return read(memory, token), token

    @jax.jit
    def run(prompt, key):
        memory_after, logits = jax.lax.scan(read, memory, prompt)
        return jax.lax.scan(write, (memory_after, logits[-1]), jax.random.split(key, length))[1]

    return run(prompt, key)


def main(model, size, stride, epochs, temperature, length, seed, json_file):
    text = TEXT.read_text("ascii")
    characters = sorted(set(text))
    tokens = np.array([characters.index(c) for c in text], np.int32)
    held_out = text.index("No longer mourn for me when I am dead")
    # A smaller last batch would be another step to compile, so it is left out.
    full = (held_out - TIME) // stride // BATCH * BATCH
    train, test = [part[:full] for part in windows(tokens[:held_out], stride)], windows(tokens[held_out:], TIME)
    shares = np.bincount(tokens[:held_out], minlength=len(characters)) / held_out
    alone = -np.mean(np.log2(shares[test[1]]))

    net = language_model(model, len(characters), size)
    learning_rate = 4e-3 if model == "transformer" else 1e-2
    schedule = optax.cosine_decay_schedule(learning_rate, epochs * full // BATCH)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    @jax.jit
    def untrained(key):
        params, state = net.init(key, (TIME,))
        return fnn.cross_entropy(net.apply(params, state, test[0], train=False)[0], test[1])

    before = float(untrained(jax.random.key(seed))) / math.log(2)
    print(f"{model}, {full:,} windows of {TIME} characters; bits per character of the held-out text:")
    print(f"  {alone:.3f} from the frequencies of the characters alone, {before:.3f} untrained")

    def on_epoch(metrics, train_state):
        bits = metrics.train_loss / math.log(2), metrics.test_loss / math.log(2)
        print(
            f"  epoch {metrics.epoch}: {bits[1]:.3f} (in training {bits[0]:.3f}), {metrics.seconds:.1f} s", flush=True
        )

    data = fnn.data.Split(*train, *test)
    run = fnn.fit(
        net, fnn.cross_entropy, optimizer, data, epochs=epochs, batch_size=BATCH, seed=seed, on_epoch=on_epoch
    )
    after = run.history[-1].test_loss / math.log(2)
    print(f"{after:.3f} trained: {fnn.trees.size(run.params):,} parameters, {sum(run.seconds.values()):.1f} s")

    memory, read = reader(model, net, run.params, run.state, len(characters), size)
    drawn = sample(memory, read, tokens[held_out - TIME : held_out], jax.random.key(seed), length, temperature)
    written = "".join(characters[i] for i in drawn)
    print(f"\nwritten after the last sonnet of the training text, at temperature {temperature}:\n\n{written}")
    result = {"model": model, "frequencies": float(alone), "untrained": before, "trained": after, "sample": written}
    if json_file:
        Path(json_file).write_text(json.dumps({**result, "seconds": run.seconds}, indent=2), "utf-8")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=[*LAYERS, "transformer"], default="gru")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.7,
        help="below 1 for more likely characters, above 1 for less likely ones",
    )
    parser.add_argument("--length", type=int, default=400, help="number of characters to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--quick", action="store_true", help="a small network, six epochs")
    arguments = parser.parse_args()
    effort = (32, 48, 6) if arguments.quick else (128, 32, 12)
    main(arguments.model, *effort, arguments.temperature, arguments.length, arguments.seed, arguments.json)
