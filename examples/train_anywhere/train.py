"""Trains the folder of a network with ONNX Runtime and NumPy alone: python train.py FOLDER IMAGES.npz EPOCHS"""

import json
import sys

import numpy as np
import onnxruntime

folder, data, epochs = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3])
with open(f"{folder}/names.json") as file:
    names = json.load(file)
with open(f"{folder}/start.safetensors", "rb") as file:
    header, numbers = json.loads(file.read(int.from_bytes(file.read(8), "little"))), file.read()
types = {"F32": np.float32, "I32": np.int32, "BOOL": np.bool_}
values = {}
for name in names["values"]:
    array = header[name]
    values[name] = np.frombuffer(numbers[slice(*array["data_offsets"])], types[array["dtype"]]).reshape(array["shape"])

step, network = (onnxruntime.InferenceSession(f"{folder}/{name}.onnx") for name in ("train", "evaluate"))
size = names["batch"]["input"]["shape"][0]
images, labels = np.float32(data["images"] / 255), np.int32(data["labels"])
for epoch in range(epochs):
    order = np.random.default_rng(epoch).permutation(len(images))
    for rows in order[: len(images) // size * size].reshape(-1, size):
        loss, *new = step.run(
            ["loss", *(f"new/{name}" for name in values)], {**values, "input": images[rows], "labels": labels[rows]}
        )
        values = dict(zip(values, new, strict=True))
    taken = {one.name: values.get(one.name, images) for one in network.get_inputs()}
    (output,) = network.run(["output"], taken)
    print(f"epoch {epoch + 1}: loss {loss:.4f}, accuracy {np.mean(output.argmax(-1) == labels):.4f}")
