/* Strokes of a pen, the small picture that they make, and the area on which one draws them.

   A stroke is a list of points [x, y], where the area's width and height are 1. */

const PEN = 1.15; // the radius of the pen, in pixels of an image of 28 × 28
const DIGIT_SHARE = 20 / 28; // the size of a digit in MNIST, as a share of the image
const MOST_ENLARGED = 3; // so that a dot stays small

/** Ink from 0 to 1 in each pixel: r + ½ - d, where d is the distance of the pixel's center from the nearest stroke. */
function inkOf(strokes, height, width) {
  const ink = new Float32Array(height * width), radius = (PEN * Math.min(height, width)) / 28, reach = radius + 0.5;
  for (const stroke of strokes) {
    for (let i = 0; i < stroke.length; i++) {
      const [x0, y0] = stroke[Math.max(i - 1, 0)], [x1, y1] = stroke[i];
      if (i === 0 && stroke.length > 1) continue; // a stroke of one point is a dot
      const dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy;
      const top = Math.max(0, Math.floor(Math.min(y0, y1) - reach));
      const left = Math.max(0, Math.floor(Math.min(x0, x1) - reach));
      const bottom = Math.min(height - 1, Math.ceil(Math.max(y0, y1) + reach));
      const right = Math.min(width - 1, Math.ceil(Math.max(x0, x1) + reach));
      for (let row = top; row <= bottom; row++) {
        for (let column = left; column <= right; column++) {
          const x = column + 0.5 - x0, y = row + 0.5 - y0;
          // How far along the line, from 0 to 1, the point lies that is nearest to the pixel.
          const along = length ? Math.min(1, Math.max(0, (x * dx + y * dy) / length)) : 0;
          const value = Math.min(1, reach - Math.hypot(x - along * dx, y - along * dy)), place = row * width + column;
          if (value > ink[place]) ink[place] = value;
        }
      }
    }
  }
  return ink;
}

/** Strokes in pixels, placed as the digits of MNIST: in a box of 20 of 28 pixels, the center of mass in the middle. */
function centeredStrokes(strokes, height, width) {
  const points = strokes.flat(), radius = (PEN * Math.min(height, width)) / 28;
  const least = [0, 1].map((axis) => points.reduce((best, point) => Math.min(best, point[axis]), Infinity));
  const most = [0, 1].map((axis) => points.reduce((best, point) => Math.max(best, point[axis]), -Infinity));
  const extent = Math.max(most[0] - least[0], most[1] - least[1]);
  const room = DIGIT_SHARE * Math.min(height, width) - 2 * radius;
  const scale = extent ? Math.min(MOST_ENLARGED, room / extent) : 1, sizes = [width, height];
  const placed = (shift) => strokes.map((stroke) => stroke.map((point) => point.map((value, axis) =>
    (value - (least[axis] + most[axis]) / 2) * scale + sizes[axis] / 2 + shift[axis])));
  const ink = inkOf(placed([0, 0]), height, width);
  let sum = 0, sumX = 0, sumY = 0;
  ink.forEach((value, i) => {
    sum += value;
    sumX += value * ((i % width) + 0.5);
    sumY += value * (Math.floor(i / width) + 0.5);
  });
  if (!sum) return placed([0, 0]);
  const shift = [sizes[0] / 2 - sumX / sum, sizes[1] / 2 - sumY / sum].map((value, axis) => {
    const free = Math.max(0, (sizes[axis] - (most[axis] - least[axis]) * scale) / 2 - radius);
    return Math.min(free, Math.max(-free, value)); // no part of the digit leaves the image
  });
  return placed(shift);
}

/** The small picture, as bytes: bright strokes on black. */
function pictureOf(strokes, height, width, isCentered) {
  const inPixels = strokes.map((stroke) => stroke.map(([x, y]) => [x * width, y * height]));
  const placed = isCentered && strokes.length ? centeredStrokes(inPixels, height, width) : inPixels;
  return Uint8Array.from(inkOf(placed, height, width), (value) => Math.round(255 * value));
}

/** A smooth curve through some points (Catmull-Rom), as a stroke. */
function smoothed(points) {
  const stroke = [points[0]];
  for (let i = 0; i + 1 < points.length; i++) {
    const [a, b, c, d] = [i - 1, i, i + 1, i + 2].map((k) => points[Math.min(Math.max(k, 0), points.length - 1)]);
    for (let part = 1; part <= 6; part++) {
      const t = part / 6;
      stroke.push([0, 1].map((k) => ((2 * b[k]) + (c[k] - a[k]) * t + (2 * a[k] - 5 * b[k] + 4 * c[k] - d[k]) * t * t
        + (3 * b[k] - a[k] - 3 * c[k] + d[k]) * t ** 3) / 2));
    }
  }
  return stroke;
}

/** Points of written digits, in hundredths. */
const DIGITS = [
  [[50, 12, 32, 20, 24, 40, 24, 62, 34, 82, 52, 88, 70, 78, 77, 58, 75, 36, 66, 18, 50, 12]],
  [[56, 11, 54, 36, 50, 62, 47, 89]],
  [[26, 32, 32, 17, 50, 10, 68, 18, 70, 34, 58, 52, 40, 68, 25, 87], [25, 87, 50, 84, 78, 87]],
  [[28, 18, 48, 11, 68, 20, 66, 36, 46, 47], [46, 47, 70, 56, 73, 74, 56, 88, 28, 83]],
  [[58, 12, 42, 34, 24, 60], [24, 60, 50, 60, 80, 58], [64, 34, 61, 62, 58, 90]],
  [[72, 13, 54, 14, 36, 15], [36, 15, 33, 30, 31, 45], [31, 45, 50, 40, 70, 50, 72, 70, 56, 86, 28, 84]],
  [[64, 10, 44, 26, 30, 52, 30, 76, 46, 89, 66, 82, 70, 64, 56, 54, 38, 60, 31, 74]],
  [[24, 16, 50, 15, 76, 14], [76, 14, 62, 40, 50, 64, 42, 90]],
  [[68, 22, 50, 10, 32, 20, 34, 36, 52, 48, 70, 62, 68, 82, 50, 90, 32, 80, 34, 62, 52, 48, 66, 34, 68, 22]],
  [[68, 28, 54, 13, 35, 20, 31, 38, 44, 50, 62, 44, 69, 28, 68, 50, 64, 72, 56, 90]],
];

function writtenDigit(digit) {
  return DIGITS[digit].map((numbers) => {
    const points = [];
    for (let i = 0; i < numbers.length; i += 2) points.push([numbers[i] / 100, numbers[i + 1] / 100]);
    return smoothed(points);
  });
}

/** Makes a canvas an area on which one draws with mouse, finger, pen or keyboard.

    onChange() is called after every change of the strokes, and say(text) with what the keyboard's pen does. */
function drawingArea(canvas, [height, width], onChange, say) {
  const area = { strokes: [], isExample: false, show, replace, undo };
  const pen = { at: [0.5, 0.5], isDown: false, isShown: false };
  let drawing = null;
  canvas.style.aspectRatio = `${width} / ${height}`;

  function show() {
    const ratio = window.devicePixelRatio || 1, size = canvas.clientWidth;
    canvas.width = Math.round(size * ratio);
    canvas.height = Math.round((size * ratio * height) / width);
    const context = canvas.getContext("2d"), style = getComputedStyle(canvas);
    const unit = (Math.min(canvas.width, canvas.height) * PEN) / 28;
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = 2 * unit;
    context.strokeStyle = style.color;
    for (const stroke of area.strokes) {
      context.beginPath();
      stroke.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](x * canvas.width, y * canvas.height));
      const [x, y] = stroke[stroke.length - 1];
      context.lineTo(x * canvas.width, y * canvas.height);
      context.stroke();
    }
    if (!pen.isShown) return;
    context.beginPath();
    context.arc(pen.at[0] * canvas.width, pen.at[1] * canvas.height, unit * 1.6, 0, 2 * Math.PI);
    context.lineWidth = 2 * ratio;
    context.strokeStyle = style.outlineColor;
    context.fillStyle = style.outlineColor;
    context[pen.isDown ? "fill" : "stroke"]();
  }

  function replace(strokes, isExample = false) {
    Object.assign(area, { strokes, isExample });
    Object.assign(pen, { isDown: false });
    drawing = null;
    onChange();
  }

  function undo() {
    replace(area.isExample ? [] : area.strokes.slice(0, -1));
  }

  function begin(point) {
    if (area.isExample) Object.assign(area, { strokes: [], isExample: false });
    drawing = [point];
    area.strokes.push(drawing);
    onChange();
  }

  function pointOf(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    Object.assign(pen, { isDown: false, isShown: false });
    begin(pointOf(event));
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drawing || pen.isDown || !event.isPrimary) return;
    const events = event.getCoalescedEvents?.() ?? [];
    drawing.push(...(events.length ? events : [event]).map(pointOf));
    onChange();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!drawing || pen.isDown || !event.isPrimary) return;
    drawing.push(pointOf(event)); // browsers hold back the first small moves of a finger
    drawing = null;
    onChange();
  });
  canvas.addEventListener("pointercancel", () => { if (!pen.isDown) drawing = null; });

  const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const pixel = (value, size) => Math.min(size, Math.floor(value * size + 1e-6) + 1);
  const place = () => `row ${pixel(pen.at[1], height)}, column ${pixel(pen.at[0], width)}`;
  canvas.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if ((event.ctrlKey || event.metaKey) && event.key === "z") undo();
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (move) {
      const far = event.shiftKey ? 4 : 1, sizes = [width, height];
      pen.at = pen.at.map((value, axis) => Math.min(1, Math.max(0, value + (move[axis] * far) / sizes[axis])));
      if (pen.isDown) drawing.push(pen.at);
    } else if (event.key === " ") {
      if (event.repeat) { event.preventDefault(); return; }
      const goesDown = !pen.isDown;
      if (goesDown) begin(pen.at);
      else drawing = null;
      pen.isDown = goesDown;
      say(`Pen ${goesDown ? "down" : "up"} at ${place()}.`);
    } else if (event.key === "Delete" || event.key === "Backspace") replace([]);
    else if (event.key === "Escape") {
      pen.isDown = false;
      drawing = null;
    }
    else return;
    pen.isShown = true;
    event.preventDefault();
    onChange();
  });
  canvas.addEventListener("focus", () => { pen.isShown = canvas.matches(":focus-visible"); show(); });
  canvas.addEventListener("blur", () => {
    Object.assign(pen, { isDown: false, isShown: false });
    drawing = null;
    show();
  });
  return area;
}
