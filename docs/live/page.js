import { density, distance, guidance, guidedFlow, mixture, noises, quantiles, tilted } from "./guide.js";
import { LABELS } from "./labels.js"; // written when the site is built: docs/hooks.py

const USUAL_WEIGHT = { constant: 1, decay: 2, matched: 0.5 };
const [STD, RADIUS] = [0.1, 0.5];
const [LOW, HIGH, BIN] = [-3.5, 7.5, 0.1];
const NOISES = noises(400, 1);
const DRAWN = 150;

const range = (start, stop, step) =>
  Array.from({ length: Math.round((stop - start) / step) }, (_, i) => start + i * step);
const number = (x) => (x === null ? "–" : x.toFixed(2));
const visible = (a) => a >= LOW && a < HIGH;

const form = document.querySelector(".live");
const { method, other, schedule, weight, steps, tilt, play } = form.elements;
const { shown_weight: shownWeight, shown_steps: shownSteps } = form.elements;
const plot = form.querySelector(".live-plot");
const [flowSvg, lawSvg] = plot.querySelectorAll("svg");
const handles = [...plot.querySelectorAll(".live-handle")];

// The drawings' axes are the data's own: time or density to the right, the action upwards.
const height = (a) => `${(100 * (HIGH - a)) / (HIGH - LOW)}%`;
const box = (svg, width) => svg.setAttribute("viewBox", `0 ${-HIGH} ${width} ${HIGH - LOW}`);

function curve(svg, kind) {
  const path = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  path.classList.add(`live-${kind}`);
  const point = ([x, a], i) => `${i ? "L" : "M"}${x.toFixed(4)},${(-a).toFixed(4)}`;
  return (points) => path.setAttribute("d", points.map(point).join(""));
}

for (const a of range(Math.ceil(LOW), HIGH, 1)) {
  curve(flowSvg, "grid")([[0, a], [1, a]]);
  const tick = plot.appendChild(document.createElement("span"));
  tick.className = "live-tick";
  tick.textContent = a;
  tick.style.top = height(a);
}
const ways = {
  other: range(0, DRAWN, 1).map(() => curve(flowSvg, "other")),
  method: range(0, DRAWN, 1).map(() => curve(flowSvg, "method")),
};
const levels = [curve(flowSvg, "aim"), curve(lawSvg, "aim")];
const rays = handles.slice(0, -1).map(() => curve(flowSvg, "ray"));
const bars = { other: curve(lawSvg, "other"), method: curve(lawSvg, "method") };
const drawData = curve(lawSvg, "data");
const drawTilted = curve(lawSvg, "tilted");
box(flowSvg, 1);

for (const select of [method, other]) {
  Object.keys(guidance).forEach((name) => select.add(new Option(LABELS[name], name)));
}

function histogram(actions) {
  const counts = range(LOW, HIGH, BIN).map(() => 0);
  for (const a of actions.filter(visible)) counts[Math.floor((a - LOW) / BIN)]++;
  return counts.map((count) => count / actions.length / BIN);
}

const graph = (law) => range(LOW, HIGH, BIN / 5).map((a) => [density(law, a), a]);

function draw() {
  const places = handles.map((handle) => Number(handle.ariaValueNow));
  const [means, target] = [places.slice(0, -1), places.at(-1)];
  const options = { schedule: schedule.value, weight: Number(weight.value), steps: Number(steps.value) };
  const flow = mixture(means, STD);
  const aim = options.schedule === "matched" ? null : tilted(flow, target, options.weight);
  const run = (name) => NOISES.map((noise) => guidedFlow(flow, target, noise, { method: name, ...options }));
  const paths = { method: run(method.value), other: run(other.value) };
  if (![method.value, other.value].includes("flow")) paths.plain = run("flow");

  shownWeight.value = options.weight.toFixed(2);
  shownSteps.value = options.steps;
  handles.forEach((handle, i) => (handle.style.top = height(places[i])));
  levels.forEach((level) => level([[0, target], [100, target]]));
  rays.forEach((ray, i) => ray([[0, 0], [1, means[i]]]));

  const [data, aimed] = [graph(flow), aim && tilt.checked ? graph(aim) : []];
  let widest = Math.max(...data.map(([x]) => x));
  for (const kind in ways) {
    ways[kind].forEach((way, i) => way(paths[kind][i].map((a, k) => [k / options.steps, a])));
    const bins = histogram(paths[kind].map((path) => path.at(-1)));
    const sides = bins.flatMap((x, i) => [[x, LOW + i * BIN], [x, LOW + (i + 1) * BIN]]);
    bars[kind]([[0, LOW], ...sides, [0, HIGH]]);
    widest = Math.max(widest, ...bins);
  }
  drawData(data);
  drawTilted(aimed);
  box(lawSvg, 1.1 * widest);
  history.replaceState(null, "", `#${address(options, means, target)}`);
  report(paths, target, quantiles(flow, NOISES.length), aim && quantiles(aim, NOISES.length));
}

let announcement;

function report(paths, target, data, aim) {
  const names = { method: LABELS[method.value], other: LABELS[other.value], plain: LABELS.flow };
  const [rows, said, outside] = [[], [], []];
  for (const kind in paths) {
    const actions = paths[kind].map((path) => path.at(-1));
    const near = actions.filter((a) => Math.abs(a - target) < RADIUS).length;
    const percent = `${Math.round((100 * near) / actions.length)} %`;
    const far = actions.filter((a) => !visible(a)).length;
    const cells = [percent, number(distance(actions, data)), number(aim && distance(actions, aim))];
    rows.push(`<tr><th scope="row" class="live-${kind}">${names[kind]}</th><td>${cells.join("</td><td>")}</td></tr>`);
    said.push(`${names[kind]} ${percent}`);
    if (far) outside.push(`${names[kind]} ${far} of ${actions.length}`);
  }
  form.querySelector("tbody").innerHTML = rows.join("");
  form.querySelector(".live-note").textContent = outside.length ? `Outside the drawing: ${outside.join(", ")}.` : "";
  // Spoken once the hand rests, not at every pixel of a drag.
  clearTimeout(announcement);
  const sentence = `Within ${RADIUS} of a* = ${target}: ${said.join(", ")}.`;
  announcement = setTimeout(() => (form.querySelector(".live-status").textContent = sentence), 500);
}

let frame;

function refresh() {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(draw);
}

let motion;

/** Lets the particles run from noise to action, and shows where they are once they arrive. */
function animate(duration) {
  motion?.forEach((each) => each.cancel());
  const options = { duration, easing: "linear" };
  const now = [
    flowSvg.animate({ clipPath: ["inset(0 100% 0 0)", "inset(0)"] }, options),
    lawSvg.animate({ opacity: [0.15, 0.15, 1], offset: [0, 0.9, 1] }, options),
  ];
  now[0].addEventListener("finish", () => (play.textContent = "Play"));
  motion = now;
  play.textContent = "Pause";
}

/** A short one after a change, unless the reader asked for little motion. */
function sweep() {
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) animate(900);
}

/** What is set, as the fragment of the page's address. */
const address = (options, means, target) =>
  `method=${method.value}&other=${other.value}&schedule=${options.schedule}&weight=${options.weight}` +
  `&steps=${options.steps}&modes=${means}&target=${target}`;

/** Sets what an address holds; what it does not hold, or holds wrongly, stays. */
function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const field of [method, other, schedule]) {
    const value = given.get(field.name);
    if ([...field.options].some((option) => option.value === value)) field.value = value;
  }
  for (const field of [weight, steps]) {
    if (Number.isFinite(parseFloat(given.get(field.name)))) field.value = given.get(field.name);
  }
  const places = [...(given.get("modes") ?? "").split(","), given.get("target")].map(parseFloat);
  if (places.length !== handles.length) return;
  handles.forEach((handle, i) => Number.isFinite(places[i]) && place(handle, places[i]));
}

function place(handle, a) {
  const [low, high] = [Number(handle.ariaValueMin), Number(handle.ariaValueMax)];
  const rounded = Math.round(10 * Math.min(Math.max(a, low), high)) / 10;
  const text = (rounded || 0).toFixed(1); // no "-0.0"
  handle.ariaValueNow = text;
  if (handle.matches(".live-mode")) handle.textContent = text;
  refresh();
}

for (const handle of handles) {
  handle.addEventListener("pointerdown", ({ pointerId }) => handle.setPointerCapture(pointerId));
  handle.addEventListener("pointermove", ({ pointerId, clientY }) => {
    const { top, height } = plot.getBoundingClientRect();
    if (handle.hasPointerCapture(pointerId)) place(handle, HIGH - ((HIGH - LOW) * (clientY - top)) / height);
  });
  handle.addEventListener("keydown", (event) => {
    const now = Number(handle.ariaValueNow);
    const places = {
      ArrowUp: now + 0.1,
      ArrowRight: now + 0.1,
      ArrowDown: now - 0.1,
      ArrowLeft: now - 0.1,
      PageUp: now + 1,
      PageDown: now - 1,
      Home: Number(handle.ariaValueMin),
      End: Number(handle.ariaValueMax),
    };
    if (!(event.key in places)) return;
    event.preventDefault();
    place(handle, places[event.key]);
  });
}

function start() {
  [method.value, other.value] = ["qgf", "ood"];
  handles.forEach((handle) => place(handle, Number(handle.dataset.start)));
}

function show() {
  read();
  refresh();
  sweep();
}

form.addEventListener("input", refresh);
form.addEventListener("change", ({ target }) => {
  if (target === schedule) weight.value = USUAL_WEIGHT[schedule.value];
  if (target.matches("select")) sweep();
});
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () =>
  setTimeout(() => {
    start(); // the form's own reset comes after its event
    sweep();
  }),
);
play.addEventListener("click", () => {
  if (motion?.[0].playState === "running") {
    motion.forEach((each) => each.pause());
    play.textContent = "Play";
  } else if (motion?.[0].playState === "paused") {
    motion.forEach((each) => each.play());
    play.textContent = "Pause";
  } else animate(4000);
});
addEventListener("hashchange", show);
start();
show();
