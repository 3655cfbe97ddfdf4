// What the scripts of all figures begin with.
"use strict";
const root = document.currentScript.closest(".touchable"); // the element of the figure
const one = (selector) => root.querySelector(selector);
const all = (selector) => [...root.querySelectorAll(selector)];
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const write = (value, digits = 3) => {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const text = size < 1e-12 ? "0" : size < 0.001 || size >= 1e5 ? value.toExponential(2) : String(+value.toFixed(digits));
  return text.replace(/-/g, "−");
};
const inFormula = (value) => {
  const text = write(value, Math.abs(value) < 0.1 ? 4 : 3);
  return value < 0 ? `(${text})` : text;
};
const element = (name, attributes = {}, parent = null, text = null) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  if (parent) parent.append(made);
  return made;
};
const spoken = one("[aria-live]");
let speaking = 0;
const say = (text) => { // a screen reader hears only the last of many quick changes
  clearTimeout(speaking);
  speaking = setTimeout(() => { spoken.textContent = text; }, 500);
};
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const texts = new ResizeObserver((changes) => {
  for (const { target: svg } of changes) {
    const box = svg.viewBox.baseVal;
    if (box && svg.clientWidth) svg.style.setProperty("--unit", Math.max(1, box.width / svg.clientWidth).toFixed(3));
  }
});
for (const svg of all("svg[viewBox]")) texts.observe(svg);
const full = one(".full"), chinese = document.documentElement.lang.startsWith("zh");
if (chinese) full.lang = "zh-CN";
const fit = () => { // the largest zoom, for a projector, at which nothing has to be scrolled; a narrow figure may be lower
  const on = document.fullscreenElement === root;
  full.textContent = on ? (chinese ? "退出全屏" : "Leave full screen") : chinese ? "全屏" : "Full screen";
  root.style.zoom = "";
  if (!on) return;
  const height = (width, zoom) => {
    root.style.zoom = zoom;
    root.style.setProperty("--full-width", `${width}rem`);
    return innerWidth / zoom < 16 * width ? Infinity : root.scrollHeight - root.clientHeight;
  };
  const widths = [60, 52, 45];
  for (let zoom = 300; zoom > 100; zoom -= 5) if (widths.some((width) => height(width, zoom / 100) <= 0)) return;
  const heights = widths.map((width) => height(width, 1));
  height(widths[heights.indexOf(Math.min(...heights))], 1); // the lowest, if some of it has to be scrolled
};
fit();
full.hidden = !document.fullscreenEnabled;
full.addEventListener("click", () => { if (document.fullscreenElement === root) document.exitFullscreen(); else root.requestFullscreen(); });
document.addEventListener("fullscreenchange", fit);
addEventListener("resize", fit);
root.addEventListener("keydown", (event) => { if (event.key === "Escape" && document.fullscreenElement === root) document.exitFullscreen(); });
