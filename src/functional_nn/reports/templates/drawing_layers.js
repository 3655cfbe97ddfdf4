/* Pictures of what the layers of the network compute. */

const LEVELS = 255; // the number of colors on each side of 0

/** Colors of numbers from -1 to 1, from the page's style: 0 in the middle, and two colors on each side of it. */
function colorsOf(element) {
  const style = getComputedStyle(element);
  const color = (name) => {
    const digits = style.getPropertyValue(`--drawing-${name}`).trim().slice(1);
    return [0, 2, 4].map((place) => parseInt(digits.slice(place, place + 2), 16));
  };
  const colors = new Uint8ClampedArray(4 * (2 * LEVELS + 1)), zero = color("zero");
  for (const [side, sign] of [["negative", -1], ["positive", 1]]) {
    const stops = [zero, color(side), color(`very-${side}`)];
    for (let level = 0; level <= LEVELS; level++) {
      const at = Math.min(1.9999, (2 * level) / LEVELS), below = Math.floor(at), share = at - below;
      const mixed = stops[below].map((value, i) => value + share * (stops[below + 1][i] - value));
      colors.set([...mixed, 255], 4 * (LEVELS + sign * level));
    }
  }
  return new Uint32Array(colors.buffer);
}

const written = (number) => {
  if (!Number.isFinite(number)) return String(number);
  const size = Math.abs(number);
  return number.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2).replace("-", "−");
};

function element(name, className, text = "") {
  return Object.assign(document.createElement(name), { className, textContent: text });
}

/** The sizes of a picture's maps on the screen, in a row of this width: columns of maps, their size, the gaps. */
function layout({ kind, size: [maps, height, width] }, room) {
  if (kind === "rows") {
    const across = Math.min(8, room / width), down = Math.min(6, Math.max(3, across));
    return { columns: 1, across, down, gap: 0 };
  }
  if (kind === "units") {
    const gap = 2;
    const fitting = (columns) => Math.floor((room + gap) / columns) - gap;
    if (maps <= 16) return { columns: maps, across: Math.min(26, fitting(maps)), down: 26, gap };
    let columns = 16;
    while (columns < 64 && 2 * columns <= maps && fitting(2 * columns) >= 9) columns *= 2;
    const across = Math.min(14, fitting(columns));
    return { columns, across, down: across, gap };
  }
  const many = maps > 64 ? 30 : maps > 32 ? 40 : 52, gap = 4;
  const wanted = { channels: many, products: maps <= 16 ? 112 : room < 420 ? 30 : 42 }[kind];
  const exact = wanted / Math.max(height, width), scale = Math.min(exact < 2 ? exact : Math.round(exact), room / width);
  const most = Math.max(1, Math.floor((room + gap) / (width * scale + gap)));
  let columns = Math.min(maps, most);
  while (columns > most / 2 && maps % columns) columns--; // rows of one length, if there is such a number
  if (maps % columns) columns = Math.min(maps, most);
  return { columns, across: scale, down: scale, gap };
}

const NOUNS = { units: "unit", channels: "channel", rows: "row", products: "unit" };

/** One picture: a canvas, a line with its range, and a readout of the number under the pointer.

    Where the picture is of products, image has the pixels. Under the units of the last layer stand labels. */
function pictureView(picture, array, image, layerName, labels) {
  const [maps, height, width] = picture.size, [mapStep, rowStep, columnStep] = picture.steps;
  const figure = element("figure", "drawing-figure"), canvas = element("canvas", "drawing-maps");
  const caption = element("figcaption", "drawing-caption"), range = element("span", "drawing-range");
  if (picture.title) caption.append(element("span", "drawing-title", picture.title));
  caption.append(range);
  figure.append(caption, canvas);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", layerName); // until describe() says more
  const small = document.createElement("canvas"), view = { figure, paint, describe };
  small.width = width;
  small.height = height * maps;
  const pixels = small.getContext("2d").createImageData(small.width, small.height);
  const words = new Uint32Array(pixels.data.buffer);
  const values = new Float32Array(maps * height * width);
  let sizes = null, least = 0, most = 0, under = null;

  const valueAt = ([map, row, column]) => values[(map * height + row) * width + column];

  function paint(colors, room) {
    let place = 0;
    least = Infinity;
    most = -Infinity;
    for (let map = 0; map < maps; map++) for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++) {
      const number = array[map * mapStep + row * rowStep + column * columnStep];
      const value = image ? number * image[row * width + column] : number;
      values[place++] = value;
      if (value < least) least = value;
      if (value > most) most = value;
    }
    const scale = LEVELS / (Math.max(-least, most) || 1);
    for (let i = 0; i < values.length; i++) {
      const level = values[i] * scale; // many products are small: the roots of their shares are shown
      words[i] = colors[LEVELS + Math.round(image ? Math.sign(level) * Math.sqrt(Math.abs(level) * LEVELS) : level)];
    }
    small.getContext("2d").putImageData(pixels, 0, 0);
    sizes = layout(picture, room);
    const { columns, across, down, gap } = sizes, ratio = window.devicePixelRatio || 1;
    const fullWidth = columns * (width * across + gap) - gap, foot = labels ? 18 : 0;
    const fullHeight = Math.ceil(maps / columns) * (height * down + gap) - gap + foot;
    canvas.width = Math.round(fullWidth * ratio);
    canvas.height = Math.round(fullHeight * ratio);
    canvas.style.width = `${fullWidth}px`;
    canvas.style.height = `${fullHeight}px`;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.scale(ratio, ratio);
    for (let map = 0; map < maps; map++) {
      const x = (map % columns) * (width * across + gap), y = Math.floor(map / columns) * (height * down + gap);
      context.drawImage(small, 0, map * height, width, height, x, y, width * across, height * down);
    }
    if (labels) {
      const fillStyle = getComputedStyle(caption).color;
      Object.assign(context, { fillStyle, font: "12px system-ui, sans-serif", textAlign: "center" });
      labels.forEach((label, i) => context.fillText(label, i * (across + gap) + across / 2, fullHeight - 4));
    }
    showRange();
  }

  function showRange() {
    const all = `${written(least)} to ${written(most)}`;
    range.textContent = under ? `${nameOf(under)}: ${written(valueAt(under))}` : all;
  }

  function nameOf([map, row, column]) {
    if (labels) return labels[map];
    if (picture.kind === "units") return `unit ${map + 1}`;
    if (picture.kind === "rows") return `row ${row + 1}, unit ${column + 1}`;
    return `${NOUNS[picture.kind]} ${map + 1}, row ${row + 1}, column ${column + 1}`;
  }

  /** The element under the pointer, or null in a gap. */
  function elementAt(event) {
    const { columns, across, down, gap } = sizes, box = canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const mapColumn = Math.floor(x / (width * across + gap)), mapRow = Math.floor(y / (height * down + gap));
    const column = Math.floor((x - mapColumn * (width * across + gap)) / across);
    const row = Math.floor((y - mapRow * (height * down + gap)) / down), map = mapRow * columns + mapColumn;
    const isInside = x >= 0 && y >= 0 && column < width && row < height && mapColumn < columns && map < maps;
    return isInside ? [map, row, column] : null;
  }

  canvas.addEventListener("pointermove", (event) => { under = elementAt(event); showRange(); });
  canvas.addEventListener("pointerdown", (event) => { under = elementAt(event); showRange(); });
  canvas.addEventListener("pointerleave", () => { under = null; showRange(); });

  /** The picture in words, for people who cannot see it. */
  function describe() {
    const number = picture.kind === "rows" ? `${height} rows of ${width} numbers`
      : picture.kind === "units" ? `${maps} units` : `${maps} ${NOUNS[picture.kind]}s of ${height} by ${width} numbers`;
    const first = values.indexOf(most), column = first % width, row = Math.floor(first / width) % height;
    const best = [Math.floor(first / (width * height)), row, column];
    const title = picture.title ? `, ${picture.title}` : "";
    canvas.setAttribute("aria-label",
      `${layerName}${title}: ${number}, from ${written(least)} to ${written(most)}; the largest is ${nameOf(best)}.`);
  }

  return view;
}

/** The list of layers: for each its name, its output shape and its pictures. */
function layerViews(list, { layers, classNames, program }, arrays) {
  const isShort = classNames.length <= 16 && classNames.every((name) => name.length <= 3);
  return layers.flatMap((layer) => {
    const item = element("li", "drawing-layer"), head = element("div", "drawing-head");
    head.append(element("h3", "drawing-name", layer.name), element("span", "drawing-shape", layer.shape));
    item.append(head);
    if (layer.note) head.append(element("span", "drawing-note", layer.note));
    const views = layer.pictures.map((picture) => {
      const image = picture.pixels === null ? null : arrays[picture.pixels];
      const labels = isShort && picture.place === program.outputs[0] ? classNames : null;
      return pictureView(picture, arrays[picture.place], image, layer.name, labels);
    });
    item.append(...views.map((view) => view.figure));
    list.append(item);
    return views;
  });
}
