/* Runs a program of functional_nn/reports/portable.py.

   compileProgram(program) gives {run, arrays}: run() fills all places from the inputs, and arrays[place] is the array
   of a place. Numbers of every type are in Float32Arrays. Each step is prepared once: its arrays are made, and the places
   that it reads are listed in an index where the order changes. So a run makes no new arrays. */

const sizeOf = (shape) => shape.reduce((product, length) => product * length, 1);

/** How far apart neighbors along each axis lie in an array of this shape, whose last axis changes fastest. */
function stridesOf(shape) {
  const strides = new Array(shape.length);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape[axis];
  }
  return strides;
}

/** For each element of an array of this shape: offset + Σ (its index along an axis) · (the axis's step). */
function indexOf(shape, steps, offset = 0) {
  const index = new Int32Array(sizeOf(shape));
  const at = new Array(shape.length).fill(0);
  let place = offset;
  for (let i = 0; i < index.length; i++) {
    index[i] = place;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      // As in counting: an axis that is at its end goes back to 0, and the axis before it moves on.
      place += steps[axis];
      if (++at[axis] < shape[axis]) break;
      place -= steps[axis] * shape[axis];
      at[axis] = 0;
    }
  }
  return index;
}

const isInOrder = (index, size) => index.length === size && index.every((place, i) => place === i);

/** The complementary error function, with a relative error below 2e-7 (Numerical Recipes, section 6.2). */
function erfc(x) {
  const z = Math.abs(x), t = 1 / (1 + z / 2);
  const powers = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587,
    -0.82215223, 0.17087277];
  const value = t * Math.exp(-z * z + powers.reduceRight((sum, power) => sum * t + power, 0));
  return x >= 0 ? value : 2 - value;
}

const UNARY = {
  abs: Math.abs, ceil: Math.ceil, floor: Math.floor, cos: Math.cos, sin: Math.sin, tan: Math.tan, exp: Math.exp,
  expm1: Math.expm1, log: Math.log, log1p: Math.log1p, sign: Math.sign, sqrt: Math.sqrt, tanh: Math.tanh, erfc,
  // Near 0 the difference 1 - erfc(x) would lose digits. There erf(x) is 2 x / √π.
  erf: (x) => (Math.abs(x) < 1e-3 ? x * 1.1283791670955126 : 1 - erfc(x)),
  exp2: (x) => 2 ** x, is_finite: (x) => +Number.isFinite(x), logistic: (x) => 1 / (1 + Math.exp(-x)), neg: (x) => -x,
  not: (x) => +!x, rsqrt: (x) => 1 / Math.sqrt(x), square: (x) => x * x,
  // Math.round rounds -2.5 to -2, and 2.5 to 3. Here both go to the even number.
  round: (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x)),
};
const BINARY = {
  add: (a, b) => a + b, sub: (a, b) => a - b, mul: (a, b) => a * b, div: (a, b) => a / b, pow: (a, b) => a ** b,
  max: (a, b) => Math.max(a, b), min: (a, b) => Math.min(a, b), eq: (a, b) => +(a === b), ne: (a, b) => +(a !== b),
  lt: (a, b) => +(a < b), le: (a, b) => +(a <= b), gt: (a, b) => +(a > b), ge: (a, b) => +(a >= b),
  and: (a, b) => +(a && b ? 1 : 0), or: (a, b) => +(a || b ? 1 : 0), shift_left: (a, b) => a * 2 ** b,
};
const TERNARY = {
  select_n: (which, a, b) => (which ? b : a),
  clamp: (least, x, most) => Math.min(Math.max(x, least), most),
};
const REDUCTIONS = {
  reduce_sum: [0, BINARY.add], reduce_prod: [1, BINARY.mul], reduce_max: [-Infinity, BINARY.max],
  reduce_min: [Infinity, BINARY.min],
};
const BITS = new DataView(new ArrayBuffer(4));

/** The float32 with the bits of an integer. */
function numberOfBits(integer) {
  BITS.setInt32(0, integer);
  return BITS.getFloat32(0);
}

/** A number rounded to fewer bits, by a product that is too large for the others (Veltkamp). */
function withBits(x, bits) {
  const large = Math.fround(Math.fround(x) * (2 ** (23 - bits) + 1));
  return large - Math.fround(large - x);
}

const CONVERSIONS = { float32: null, int32: Math.trunc, bool: (x) => +(x !== 0) };

function compileProgram(program) {
  const { shapes } = program, arrays = [];
  for (const [place, values] of program.constants) arrays[place] = values;
  const array = (place) => (arrays[place] ??= new Float32Array(sizeOf(shapes[place])));
  program.inputs.forEach(array);

  /** Copies elements of one place to another, as listed in an index. Where nothing moves, both are one array. */
  function rearranged(from, to, index) {
    if (isInOrder(index, sizeOf(shapes[from]))) {
      arrays[to] = array(from);
      return null;
    }
    const source = array(from), target = array(to);
    return () => { for (let i = 0; i < target.length; i++) target[i] = source[index[i]]; };
  }

  /** The index of an operand's elements for each element of a result; axes of length 1 and single numbers repeat. */
  function repeated(from, shape) {
    const lengths = shapes[from], strides = stridesOf(lengths);
    if (sizeOf(lengths) === 1) return new Int32Array(sizeOf(shape));
    return indexOf(shape, strides.map((stride, axis) => (lengths[axis] === 1 ? 0 : stride)));
  }

  function elementwise(compute, reads, to) {
    const target = array(to), size = target.length, [a, b, c] = reads.map(array);
    if (reads.length === 1) return () => { for (let i = 0; i < size; i++) target[i] = compute(a[i]); };
    // Two whole arrays, or one and a single number, are frequent, and need no index.
    if (reads.length === 2 && a.length === size) {
      if (b.length === size) return () => { for (let i = 0; i < size; i++) target[i] = compute(a[i], b[i]); };
      if (b.length === 1)
        return () => { const other = b[0]; for (let i = 0; i < size; i++) target[i] = compute(a[i], other); };
    }
    const [first, second, third] = reads.map((from) => repeated(from, shapes[to]));
    if (reads.length === 3)
      return () => { for (let i = 0; i < size; i++) target[i] = compute(a[first[i]], b[second[i]], c[third[i]]); };
    return () => { for (let i = 0; i < target.length; i++) target[i] = compute(a[first[i]], b[second[i]]); };
  }

  /** For each element of an operand, the element of the result that it is reduced to. */
  function reducedIndex(from, to, axes) {
    const strides = stridesOf(shapes[to]);
    // An axis that is reduced does not move the place in the result. The others have its strides, one after the other.
    return indexOf(shapes[from], shapes[from].map((_, axis) => (axes.includes(axis) ? 0 : strides.shift())));
  }

  function reduction([start, combine], from, to, axes) {
    const source = array(from), target = array(to), index = reducedIndex(from, to, axes);
    return () => {
      target.fill(start);
      for (let i = 0; i < source.length; i++) target[index[i]] = combine(target[index[i]], source[i]);
    };
  }

  function firstBest(isBetter, from, to, [axis]) {
    const source = array(from), target = array(to), index = reducedIndex(from, to, [axis]);
    const best = new Float32Array(target.length), lengths = shapes[from], stride = stridesOf(lengths)[axis];
    return () => {
      // -1: nothing was seen yet. Of equal elements, the first one stays.
      target.fill(-1);
      for (let i = 0; i < source.length; i++) {
        const place = index[i];
        if (target[place] >= 0 && !isBetter(source[i], best[place])) continue;
        best[place] = source[i];
        target[place] = Math.floor(i / stride) % lengths[axis];
      }
    };
  }

  function padded([from, fill], to, config) {
    const source = array(from), value = array(fill), lengths = shapes[to], strides = stridesOf(lengths);
    if (config.every((widths) => widths.every((width) => width === 0))) {
      arrays[to] = source;
      return null;
    }
    const target = array(to), places = [], sources = [], own = stridesOf(shapes[from]);
    for (let i = 0; i < source.length; i++) {
      const at = own.map((stride, axis) => {
        const [before, , between] = config[axis];
        return before + (Math.floor(i / stride) % shapes[from][axis]) * (between + 1);
      });
      if (at.some((place, axis) => place < 0 || place >= lengths[axis])) continue; // padding may be negative
      places.push(at.reduce((sum, place, axis) => sum + place * strides[axis], 0));
      sources.push(i);
    }
    return () => {
      target.fill(value[0]);
      for (let i = 0; i < places.length; i++) target[places[i]] = source[sources[i]];
    };
  }

  function joined(reads, to, axis) {
    const target = array(to), strides = stridesOf(shapes[to]);
    let offset = 0;
    const parts = reads.map((from) => {
      const part = { source: array(from), index: indexOf(shapes[from], strides, offset * strides[axis]) };
      offset += shapes[from][axis];
      return part;
    });
    return () => {
      for (const { source, index } of parts) for (let i = 0; i < source.length; i++) target[index[i]] = source[i];
    };
  }

  /** A function that gives the elements of a place in the order of an index. Constants are put in order once. */
  function ordered(from, index) {
    const source = array(from);
    if (isInOrder(index, source.length)) return () => source;
    const target = new Float32Array(index.length);
    const fill = () => { for (let i = 0; i < index.length; i++) target[i] = source[index[i]]; return target; };
    if (!constants.has(from)) return fill;
    fill();
    return () => target;
  }

  function product(reads, to, { contracting, batch }) {
    const [left, right] = reads.map((from, side) => {
      const lengths = shapes[from], strides = stridesOf(lengths);
      const used = [...contracting[side], ...batch[side]];
      const free = lengths.map((_, axis) => axis).filter((axis) => !used.includes(axis));
      // With the orders (batch, free, shared) and (batch, shared, free), the innermost loop runs along rows in memory.
      const order = side === 0 ? [...batch[0], ...free, ...contracting[0]] : [...batch[1], ...contracting[1], ...free];
      const index = indexOf(order.map((axis) => lengths[axis]), order.map((axis) => strides[axis]));
      return { get: ordered(from, index), free: sizeOf(free.map((axis) => lengths[axis])) };
    });
    const members = sizeOf(batch[0].map((axis) => shapes[reads[0]][axis]));
    const shared = sizeOf(contracting[0].map((axis) => shapes[reads[0]][axis]));
    const target = array(to), rows = left.free, columns = right.free;
    return () => {
      const a = left.get(), b = right.get();
      target.fill(0);
      for (let member = 0; member < members; member++) {
        for (let row = 0; row < rows; row++) {
          const result = (member * rows + row) * columns, first = (member * rows + row) * shared;
          for (let k = 0; k < shared; k++) {
            const factor = a[first + k], second = (member * shared + k) * columns;
            if (factor === 0) continue; // most pixels, and many activations, are 0
            for (let column = 0; column < columns; column++) target[result + column] += factor * b[second + column];
          }
        }
      }
    };
  }

  function convolution([image, kernel], to, parameters) {
    const two = (values, one) => (values.length === 2 ? values : [one, ...values]); // one axis is the second of two
    const [down, across] = two(parameters.strides, 1), groups = parameters.groups;
    const [[top], [left]] = two(parameters.padding, [0, 0]);
    const [spreadDown, spreadAcross] = two(parameters.image_dilation, 1);
    const [reachDown, reachAcross] = two(parameters.kernel_dilation, 1);
    /** Lengths and steps of an array with its axes in another order. A missing axis has the length 1. */
    function inOrder(place, axes) {
      const lengths = shapes[place], strides = stridesOf(lengths);
      const shape = axes.map((axis) => (axis === null ? 1 : lengths[axis]));
      return { shape, index: indexOf(shape, axes.map((axis) => (axis === null ? 0 : strides[axis]))) };
    }
    const [example, channel, ...space] = parameters.image, [maps, inputs, ...window] = parameters.kernel;
    const [resultExample, resultChannel, ...resultSpace] = parameters.result;
    const x = inOrder(image, [example, ...two(space, null), channel]);
    const w = inOrder(kernel, [...two(window, null), inputs, maps]);
    const y = inOrder(to, [resultExample, ...two(resultSpace, null), resultChannel]);
    const getX = ordered(image, x.index), getW = ordered(kernel, w.index);
    const [examples, height, width, channels] = x.shape, [tall, wide, depth, outputs] = w.shape;
    const [, rows, columns] = y.shape, target = array(to), share = outputs / groups;
    const direct = isInOrder(y.index, target.length), sums = direct ? target : new Float32Array(target.length);
    return () => {
      const pixels = getX(), weights = getW();
      sums.fill(0);
      for (let n = 0; n < examples; n++) for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) {
        const result = ((n * rows + row) * columns + column) * outputs;
        for (let i = 0; i < tall; i++) {
          // The row in the dilated image, in which rows of zeros lie between the rows of pixels.
          const spreadY = row * down - top + i * reachDown, inY = spreadY / spreadDown;
          if (inY < 0 || inY >= height || spreadY % spreadDown) continue;
          for (let j = 0; j < wide; j++) {
            const spreadX = column * across - left + j * reachAcross, inX = spreadX / spreadAcross;
            if (inX < 0 || inX >= width || spreadX % spreadAcross) continue;
            const pixel = ((n * height + inY) * width + inX) * channels;
            for (let c = 0; c < channels; c++) {
              const value = pixels[pixel + c];
              if (value === 0) continue;
              // The kernel has depth channels: those of one group. They add to the outputs of their group only.
              const group = Math.floor(c / depth), first = result + group * share;
              const weight = ((i * wide + j) * depth + (c - group * depth)) * outputs + group * share;
              for (let o = 0; o < share; o++) sums[first + o] += value * weights[weight + o];
            }
          }
        }
      }
      if (!direct) for (let i = 0; i < sums.length; i++) target[y.index[i]] = sums[i];
    };
  }

  function scan(reads, fills, { length, reverse, carried, arguments: places, steps, results }) {
    const starts = reads.map(array), inside = places.map(array), body = compileSteps(steps);
    // Looked up after the body has been prepared, since this can make two places one array.
    const after = results.map(array), targets = fills.map(array);
    const waiting = after.slice(0, carried).map((result) => new Float32Array(result.length));
    return () => {
      for (let i = 0; i < carried; i++) inside[i].set(starts[i]);
      for (let count = 0; count < length; count++) {
        const time = reverse ? length - 1 - count : count;
        for (let i = carried; i < inside.length; i++) {
          const size = inside[i].length;
          inside[i].set(starts[i].subarray(time * size, (time + 1) * size));
        }
        for (const step of body) step();
        for (let i = carried; i < after.length; i++) targets[i].set(after[i], time * after[i].length);
        // All results are put aside before any is written: two carries may change places.
        for (let i = 0; i < carried; i++) waiting[i].set(after[i]);
        for (let i = 0; i < carried; i++) inside[i].set(waiting[i]);
      }
      for (let i = 0; i < carried; i++) targets[i].set(inside[i]);
    };
  }

  function prepare([name, reads, fills, parameters]) {
    const [from] = reads, [to] = fills;
    if (name in UNARY) return elementwise(UNARY[name], reads, to);
    if (name in BINARY) return elementwise(BINARY[name], reads, to);
    if (name in TERNARY) return elementwise(TERNARY[name], reads, to);
    if (name in REDUCTIONS) return reduction(REDUCTIONS[name], from, to, parameters.axes);
    const lengths = shapes[from], strides = stridesOf(lengths);
    switch (name) {
      case "bitcast_convert_type": return elementwise(numberOfBits, reads, to);
      case "reduce_precision": return elementwise((x) => withBits(x, parameters.bits), reads, to);
      case "integer_pow": return elementwise((x) => x ** parameters.exponent, reads, to);
      case "convert_element_type": {
        const convert = CONVERSIONS[parameters.to];
        return convert ? elementwise(convert, reads, to) : rearranged(from, to, indexOf(lengths, strides));
      }
      case "reshape": case "squeeze":
        arrays[to] = array(from);
        return null;
      case "broadcast_in_dim": {
        const steps = shapes[to].map(() => 0);
        parameters.axes.forEach((axis, own) => { steps[axis] = lengths[own] === 1 ? 0 : strides[own]; });
        return rearranged(from, to, indexOf(shapes[to], steps));
      }
      case "transpose": return rearranged(from, to, indexOf(shapes[to], parameters.axes.map((axis) => strides[axis])));
      case "rev": {
        const isTurned = (axis) => parameters.axes.includes(axis);
        const last = strides.map((stride, axis) => (isTurned(axis) ? (lengths[axis] - 1) * stride : 0));
        const steps = strides.map((stride, axis) => (isTurned(axis) ? -stride : stride));
        return rearranged(from, to, indexOf(lengths, steps, last.reduce((sum, one) => sum + one, 0)));
      }
      case "slice": {
        const start = parameters.start.reduce((sum, first, axis) => sum + first * strides[axis], 0);
        const steps = strides.map((stride, axis) => stride * parameters.strides[axis]);
        return rearranged(from, to, indexOf(shapes[to], steps, start));
      }
      case "split": {
        let first = 0;
        const parts = fills.map((part) => {
          const copy = rearranged(from, part, indexOf(shapes[part], strides, first * strides[parameters.axis]));
          first += shapes[part][parameters.axis];
          return copy;
        }).filter(Boolean);
        return () => { for (const copy of parts) copy(); };
      }
      case "pad": return padded(reads, to, parameters.config);
      case "concatenate": return joined(reads, to, parameters.axis);
      case "argmax": return firstBest((a, b) => a > b, from, to, parameters.axes);
      case "argmin": return firstBest((a, b) => a < b, from, to, parameters.axes);
      case "dot_general": return product(reads, to, parameters);
      case "conv_general_dilated": return convolution(reads, to, parameters);
      case "scan": return scan(reads, fills, parameters);
      default: throw new Error(`no operation ${name}`);
    }
  }

  /** Functions that run the steps. A step on constants is run now, and one that only reshapes an array needs none. */
  function compileSteps(steps) {
    return steps.map((step) => {
      const [name, reads, fills] = step, run = prepare(step);
      if (name === "scan" || !reads.every((place) => constants.has(place))) return run;
      if (run) run();
      for (const place of fills) constants.add(place);
      return null;
    }).filter(Boolean);
  }

  const constants = new Set(program.constants.map(([place]) => place));
  const steps = compileSteps(program.steps);
  program.outputs.forEach(array);
  return { arrays, run() { for (const step of steps) step(); } };
}
