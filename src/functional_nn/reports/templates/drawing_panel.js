/* The panel: the drawing area, the network that reads it, its layers and its answer. */

function startPanel(root) {
  const find = (name) => root.querySelector(`.drawing-${name}`);
  const panel = JSON.parse(find("data").textContent), [height, width, channels] = panel.imageShape;
  const program = compileProgram(readProgram(panel.program)), input = program.arrays[panel.program.inputs[0]];
  panel.parameters.forEach((text, i) => program.arrays[panel.program.inputs[i + 1]].set(numbersIn(text)));
  const output = program.arrays[panel.program.outputs[0]], isCentered = find("centered");
  const pad = find("pad"), list = find("layers"), spoken = find("spoken"), answer = find("answer");
  const small = find("input"), views = layerViews(list, panel, program.arrays);
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)");
  let picture = new Uint8Array(height * width), colors = colorsOf(root);
  let waiting = false, settling = 0, example = -1, writing = 0, isLearning = false, accuracy = null;

  small.width = width;
  small.height = height;
  find("size").textContent = panel.imageShape.join(" × ");
  isCentered.checked = panel.areDigits;
  root.classList.toggle("drawing-long", panel.classNames.some((name) => name.length > 3));
  find("example").hidden = !panel.areDigits;
  const bars = panel.classNames.map((name) => {
    const row = element("li", "drawing-class"), bar = element("span", "drawing-bar");
    const share = element("span", "drawing-share"), label = element("span", "drawing-label", name), track = element("span", "drawing-track");
    label.title = name;
    track.append(bar);
    row.append(label, track, share);
    find("classes").append(row);
    return { row, bar, share };
  });

  function update() {
    waiting = false;
    area.show();
    picture = pictureOf(area.strokes, height, width, isCentered.checked);
    const bytes = networkInput(picture, panel);
    for (let i = 0; i < input.length; i++) input[i] = bytes[i] / 255;
    program.run();
    showInput(bytes);
    showLayers();
    showAnswer();
    clearTimeout(settling);
    settling = setTimeout(settle, 500);
  }

  function schedule() {
    if (!waiting) requestAnimationFrame(update);
    waiting = true;
  }

  function showInput(bytes) {
    const context = small.getContext("2d"), pixels = context.createImageData(width, height);
    for (let i = 0; i < height * width; i++) pixels.data.set([...Array(3).fill(bytes[i * channels]), 255], 4 * i);
    context.putImageData(pixels, 0, 0);
  }

  function showLayers() {
    const room = list.clientWidth - parseFloat(getComputedStyle(list).paddingLeft);
    for (const view of views) view.paint(colors, room);
  }

  function best() {
    const shares = softmax(output), first = shares.indexOf(Math.max(...shares));
    return { shares, first, name: panel.classNames[first], percent: `${(100 * shares[first]).toFixed(1)}%` };
  }

  function showAnswer() {
    const isEmpty = !area.strokes.length, { shares, first, name, percent } = best();
    root.classList.toggle("drawing-is-empty", isEmpty);
    find("save").disabled = isEmpty; // "predict" refuses an empty picture
    find("learn").disabled = isEmpty || find("truth").value === "";
    const [word, number] = isEmpty ? ["?", "nothing drawn yet"] : [name, percent];
    answer.replaceChildren(element("strong", "", word), element("span", "", number));
    bars.forEach(({ row, bar, share }, i) => {
      row.classList.toggle("drawing-best", !isEmpty && i === first);
      row.dataset.probability = isEmpty ? "" : shares[i].toFixed(6);
      bar.style.width = isEmpty ? "0" : `${100 * shares[i]}%`;
      share.textContent = isEmpty ? "" : `${(100 * shares[i]).toFixed(1)}%`;
    });
  }

  /** Words for screen readers, when the drawing has not changed for a moment. */
  function settle() {
    const { name, percent } = best();
    for (const view of views) view.describe();
    if (area.isExample && example < 0) return; // the example at the start is no news
    const isEmpty = !area.strokes.length;
    const text = isEmpty ? "The drawing area is empty." : `Answer: ${name}, with a probability of ${percent}.`;
    if (spoken.textContent !== text) spoken.textContent = text;
  }

  /** Writes an example, stroke by stroke; at once where the reader wants no motion. */
  function writeExample() {
    example = (example + 1) % DIGITS.length;
    cancelAnimationFrame(writing);
    const strokes = writtenDigit(example), total = strokes.flat().length;
    if (isCalm.matches) return area.replace(strokes, true);
    let count = 0;
    const step = () => {
      count = Math.min(total, count + 1);
      let left = count;
      const partial = strokes.map((stroke) => {
        const part = stroke.slice(0, left);
        left = Math.max(0, left - stroke.length);
        return part;
      });
      area.replace(partial.filter((stroke) => stroke.length), true);
      if (count < total) writing = requestAnimationFrame(step);
    };
    return step();
  }

  /** Teaches the network that the drawing is of the chosen class, and says how well it then reads other pictures. */
  async function learn() {
    const truth = Number(find("truth").value), bytes = networkInput(picture, panel);
    const said = find("lesson-said"), losses = [], percent = (share) => `${(100 * share).toFixed(1)}%`;
    if (isLearning) return; // the button is not disabled meanwhile, since it would lose the focus
    isLearning = true;
    find("unlearn").disabled = true;
    said.ariaBusy = "true"; // screen readers speak the result, not each step
    said.textContent = "Reading other pictures …";
    accuracy ??= await lesson.accuracy();
    await lesson.learn(bytes, truth, (steps, loss) => {
      losses.push(loss.toFixed(2));
      said.textContent = `Step ${steps} of ${STEPS}: the loss of this drawing is ${losses[steps]}.`;
    });
    const after = await lesson.accuracy();
    isLearning = false;
    find("unlearn").disabled = false;
    showAnswer();
    said.textContent = `In ${STEPS} steps, the loss of this drawing went from ${losses[0]} to ${losses[STEPS]}. Of ` +
      `${lesson.size} test pictures, ${percent(after)} are read right. Before the first lesson, it was ${percent(accuracy)}.`;
    said.ariaBusy = "false";
  }

  function unlearn() {
    lesson.undo();
    find("truth").focus();
    find("unlearn").disabled = true;
    find("lesson-said").textContent = "All lessons are undone: this is the trained network again.";
  }

  function save() {
    const link = element("a", ""), file = new Blob([pngOf(picture, panel.imageShape)], { type: "image/png" });
    link.href = URL.createObjectURL(file);
    link.download = "drawing.png";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  const area = drawingArea(pad, panel.imageShape, schedule, (text) => { find("pen").textContent = text; });
  const lesson = panel.lesson && teacher(panel, program, schedule);
  find("lesson").hidden = !lesson;
  find("truth").append(...panel.classNames.map((name, value) => new Option(name, value)));
  find("truth").addEventListener("change", showAnswer);
  find("learn").addEventListener("click", learn);
  find("unlearn").addEventListener("click", unlearn);
  const stop = (act) => () => { cancelAnimationFrame(writing); act(); };
  find("clear").addEventListener("click", stop(() => { find("truth").value = ""; area.replace([]); }));
  find("undo").addEventListener("click", stop(() => area.undo()));
  find("example").addEventListener("click", writeExample);
  find("save").addEventListener("click", save);
  pad.addEventListener("pointerdown", () => cancelAnimationFrame(writing), { capture: true });
  pad.addEventListener("keydown", () => cancelAnimationFrame(writing), { capture: true });
  isCentered.addEventListener("change", schedule);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colors = colorsOf(root); schedule(); });
  new ResizeObserver(schedule).observe(list);
  if (panel.areDigits) area.replace(writtenDigit(3), true);
  else schedule();
}

startPanel(document.currentScript.closest(".drawing"));
