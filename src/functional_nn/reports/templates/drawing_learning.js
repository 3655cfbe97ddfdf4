/* Learning: steps of training on the reader's drawings, and on pictures of the training data. */

const STEPS = 60; // after a few, the network reads the drawing, but forgets others; the further ones bring these back
const OWN = 3; // so many examples of a step are the reader's; with more of them, the network forgets other pictures
const MOST_DRAWINGS = 8;

/** Teaches the network of a panel. After each change of its parameters, onChange is called. */
function teacher(panel, program, onChange) {
  const { lesson } = panel;
  const parameters = panel.program.inputs.slice(1).map((place) => program.arrays[place]);
  const beginning = parameters.map((one) => one.slice());
  const input = program.arrays[panel.program.inputs[0]], output = program.arrays[panel.program.outputs[0]];
  const step = compileProgram(readProgram(lesson.program)), at = (place) => step.arrays[place];
  const values = lesson.program.inputs.slice(0, -2).map(at), [x, labels] = lesson.program.inputs.slice(-2).map(at);
  const results = lesson.program.outputs.map(at);
  const [practice, others] = [lesson.practice, lesson.others].map((given) => {
    const bytes = bytesIn(given.bytes), size = input.length;
    return given.labels.map((label, i) => ({ bytes: bytes.subarray(i * size, (i + 1) * size), label }));
  });
  const taught = [], pause = () => new Promise((resume) => { setTimeout(resume); });
  let next = 0;

  /** The probabilities of the classes of a picture. */
  function sharesOf({ bytes }) {
    bytes.forEach((byte, i) => { input[i] = byte / 255; });
    program.run();
    return softmax(output);
  }

  /** The share of the pictures of the test data that the network reads right. */
  async function accuracy() {
    let right = 0, since = performance.now();
    for (const one of others) {
      const shares = sharesOf(one);
      right += shares.indexOf(Math.max(...shares)) === one.label;
      if (performance.now() - since > 30) { await pause(); since = performance.now(); }
    }
    onChange();
    return right / others.length;
  }

  /** Trains with a drawing. After each step, tell(steps, loss) is called with the loss of the new drawing. */
  async function learn(bytes, label, tell) {
    const drawing = { bytes: Float32Array.from(bytes), label };
    taught.unshift(drawing);
    taught.splice(MOST_DRAWINGS);
    parameters.forEach((one, i) => values[i].set(one));
    values.slice(parameters.length).forEach((one) => one.fill(0)); // what Adam keeps
    for (let steps = 0; ; steps++) {
      tell(steps, -Math.log(sharesOf(drawing)[label]));
      if (steps === STEPS) return;
      for (let i = 0; i < labels.length; i++) {
        const one = i < OWN ? taught[(i + steps) % taught.length] : practice[next++ % practice.length];
        one.bytes.forEach((byte, pixel) => { x[i * input.length + pixel] = byte / 255; });
        labels[i] = one.label;
      }
      step.run();
      results.forEach((result, i) => values[i].set(result));
      parameters.forEach((one, i) => one.set(values[i]));
      onChange();
      await pause();
    }
  }

  function undo() {
    taught.length = 0;
    parameters.forEach((one, i) => one.set(beginning[i]));
    onChange();
  }

  return { learn, undo, accuracy, size: others.length };
}
