// Trains the folder of a network with onnxruntime-web, in a page or in Node.
// `ort` is the package, and `read` gives the content of a file of the folder as an ArrayBuffer.
export async function load(ort, read) {
  const text = (bytes) => JSON.parse(new TextDecoder().decode(bytes));
  const names = text(await read("names.json"));
  const content = await read("start.safetensors");
  const end = 8 + Number(new DataView(content).getBigUint64(0, true));
  const header = text(content.slice(8, end));
  const types = { F32: ["float32", Float32Array], I32: ["int32", Int32Array], BOOL: ["bool", Uint8Array] };
  const values = {};
  for (const name of names.values) {
    const [type, numbers] = types[header[name].dtype];
    const [start, stop] = header[name].data_offsets;
    values[name] = new ort.Tensor(type, new numbers(content.slice(end + start, end + stop)), header[name].shape);
  }
  const step = await ort.InferenceSession.create(await read("train.onnx"));
  const network = await ort.InferenceSession.create(await read("evaluate.onnx"));
  return { ort, names, values, step, network };
}

// One step on a batch: `images` are a Float32Array, and `labels` an Int32Array. Returns the loss and the metrics.
export async function train({ ort, names, values, step }, images, labels) {
  const input = new ort.Tensor("float32", images, names.batch.input.shape);
  const output = await step.run({ ...values, input, labels: new ort.Tensor("int32", labels, [labels.length]) });
  for (const name of names.values) values[name] = output[`new/${name}`];
  return Object.fromEntries(names.results.map((name) => [name, output[name].data[0]]));
}

// The outputs of the network for images of any number.
export async function outputs({ ort, names, values, network }, images) {
  const [, ...shape] = names.batch.input.shape;
  const count = images.length / shape.reduce((a, b) => a * b);
  const all = { ...values, input: new ort.Tensor("float32", images, [count, ...shape]) };
  const { output } = await network.run(Object.fromEntries(network.inputNames.map((name) => [name, all[name]])));
  return output.data;
}
