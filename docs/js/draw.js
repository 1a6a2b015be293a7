// The page "Draw digits": drawings become 8 x 8 pixels, and onnxruntime-web runs the exported network and its training step.

const $ = (name) => document.getElementById(`draw-${name}`);
const HERE = new URL("../draw/", import.meta.url);
const RATE = 0.01; // one step is seen in the scores, and other digits keep theirs
const SIDE = 32; // as in the digits' own making: pixels are counted in fields of 4 x 4
const FIELD = 4;
const PEN = 4.5; // of the 32

let ort, prediction, training, names, shipped, state;
let strokes = []; // lists of points [x, y], from 0 to 1
let learned = 0; // steps since the page was opened or all was forgotten
let done = false; // the drawing has been learned: the next stroke begins another one
let queue = Promise.resolve(), waiting = 0; // a session runs one thing at a time

// The drawing

function draw(context, points, width) {
  context.lineWidth = width;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  points.forEach(([x, y]) => context.lineTo(x, y));
  context.lineTo(...points.at(-1)); // a single point is a dot
  context.stroke();
}

function paint() {
  const canvas = $("canvas"), context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  for (const stroke of strokes) draw(context, stroke.map(([x, y]) => [x * canvas.width, y * canvas.height]), canvas.width / 16);
  if (document.activeElement === canvas && pen.shown) {
    context.beginPath();
    context.arc(pen.x * canvas.width, pen.y * canvas.height, canvas.width / 28, 0, 7);
    context.lineWidth = 3;
    context.strokeStyle = pen.down ? "#b00020" : "#1a56b0";
    context.stroke();
    context.strokeStyle = "#000";
  }
}

// The drawing as the network's input: scaled so that its longer side fills the frame, and averaged in 8 x 8 fields.
function pixels() {
  const small = document.createElement("canvas");
  small.width = small.height = SIDE;
  const context = small.getContext("2d", { willReadFrequently: true });
  const all = strokes.flat(), fields = SIDE / FIELD, found = new Uint8Array(fields * fields);
  if (all.length) {
    const [left, right] = [Math.min(...all.map((p) => p[0])), Math.max(...all.map((p) => p[0]))];
    const [top, bottom] = [Math.min(...all.map((p) => p[1])), Math.max(...all.map((p) => p[1]))];
    const scale = (SIDE - PEN) / Math.max(right - left, bottom - top, 0.1); // a dot stays one
    const place = ([x, y]) => [SIDE / 2 + scale * (x - (left + right) / 2), SIDE / 2 + scale * (y - (top + bottom) / 2)];
    for (const stroke of strokes) draw(context, stroke.map(place), PEN);
  }
  const { data } = context.getImageData(0, 0, SIDE, SIDE);
  const sums = new Float64Array(found.length);
  for (let y = 0; y < SIDE; y++)
    for (let x = 0; x < SIDE; x++) sums[Math.floor(y / FIELD) * fields + Math.floor(x / FIELD)] += data[4 * (y * SIDE + x) + 3];
  sums.forEach((sum, k) => { found[k] = Math.round(sum / FIELD ** 2); });
  return found;
}

function begin(point) {
  if (done) clear();
  strokes.push([point]);
  show();
}

function extend(point) {
  strokes.at(-1).push(point);
  show();
}

function clear() {
  strokes = [];
  done = false;
  for (const choice of document.querySelectorAll("#draw-labels input")) choice.checked = false;
  show();
}

// The network

function tensors(buffer) { // of a safetensors file of float32
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  delete header.__metadata__;
  return Object.fromEntries(Object.entries(header).map(([name, { shape, data_offsets: [from, to] }]) =>
    [name, new ort.Tensor("float32", new Float32Array(buffer.slice(8 + size + from, 8 + size + to)), shape)]));
}

async function load() {
  const get = async (name) => {
    const reply = await fetch(new URL(name, HERE));
    if (!reply.ok) throw new Error(`${name}: ${reply.status}`);
    return reply;
  };
  ort = await import(new URL("ort.wasm.bundle.min.mjs", HERE));
  ort.env.wasm.numThreads = 1; // more would need headers that not every server sends
  const create = async (name) => ort.InferenceSession.create(await (await get(name)).arrayBuffer());
  names = await (await get("interface.json")).json();
  prediction = await create("prediction.onnx");
  training = await create("training-step.onnx");
  shipped = state = tensors(await (await get("state.safetensors")).arrayBuffer());
}

const images = (seen) => new ort.Tensor("uint8", seen, [1, 1, SIDE / FIELD, SIDE / FIELD]);

// Scores of each block, and their mean, the network's: lists of one number a class.
async function opinions(seen) {
  const weights = names.prediction_inputs.slice(1).map((name) => [name, state[name]]);
  const { block_scores: { data, dims: [blocks, , classes] } } =
    await prediction.run({ images: images(seen), ...Object.fromEntries(weights) });
  const each = Array.from({ length: blocks }, (_, k) => Array.from(data.slice(k * classes, (k + 1) * classes)));
  return [...each, each[0].map((_, c) => each.reduce((sum, scores) => sum + scores[c], 0) / blocks)];
}

async function step(seen, label) {
  const given = {
    images: images(seen),
    labels: new ort.Tensor("int64", BigInt64Array.of(BigInt(label)), [1]),
    learning_rate: new ort.Tensor("float32", Float32Array.of(RATE), []),
  };
  const after = await training.run({ ...given, ...state });
  state = Object.fromEntries(names.state.map((name) => [name, after[`next.${name}`]]));
}

// Does a job when those before it are done. Until then the table is marked as busy.
function enqueue(job) {
  waiting += 1;
  $("opinions").ariaBusy = "true";
  queue = queue.then(job).catch((problem) => {
    console.error(problem);
    say("The network cannot run in this browser.");
  }).finally(() => {
    waiting -= 1;
    $("opinions").ariaBusy = String(waiting > 0);
  });
}

// What is shown

const best = (scores) => scores.indexOf(Math.max(...scores));
const written = (score) => score.toFixed(2).replace("-0.00", "0.00").replace("-", "−");
const say = (text) => { $("status").textContent = text; };

function cell(kind, text, row) {
  const made = document.createElement(kind);
  made.textContent = text;
  row.append(made);
  return made;
}

function table(columns) {
  const head = document.createElement("tr");
  const titles = ["digit", ...columns.slice(1).map((_, k) => `block ${k + 1}`), "network"];
  for (const title of titles) cell("th", title, head).scope = "col";
  $("head").replaceChildren(head);
  $("body").replaceChildren(...columns[0].map((_, digit) => {
    const row = document.createElement("tr");
    cell("th", digit, row).scope = "row";
    for (const scores of columns) {
      const made = cell("td", strokes.length ? written(scores[digit]) : "", row);
      if (!strokes.length) continue;
      made.style.setProperty("--share", `${(100 * Math.max(0, scores[digit])).toFixed(1)}%`);
      if (digit !== best(scores)) continue;
      made.classList.add("draw-won");
      made.setAttribute("aria-label", `${made.textContent}, the highest`);
    }
    return row;
  }));
}

function verdict(columns) {
  const [network, blocks] = [best(columns.at(-1)), columns.slice(0, -1)];
  const agree = blocks.filter((scores) => best(scores) === network).length;
  return `It looks like a ${network}: ${agree} of ${blocks.length} blocks say so.`;
}

// Paints at once; looks at the drawing when the network is free, and not for one that has changed since.
function show() {
  paint();
  const seen = pixels(), context = $("seen").getContext("2d");
  const grey = new ImageData(SIDE / FIELD, SIDE / FIELD);
  seen.forEach((value, k) => grey.data.set([255 - value, 255 - value, 255 - value, 255], 4 * k));
  context.putImageData(grey, 0, 0);
  const now = show.turn = (show.turn || 0) + 1;
  enqueue(async () => {
    if (!state || now !== show.turn) return;
    const columns = await opinions(seen);
    table(columns);
    say(strokes.length ? verdict(columns) : "Draw a digit.");
  });
}

function learn() {
  const chosen = document.querySelector("#draw-labels input:checked");
  if (!strokes.length) return say("Draw a digit first.");
  if (!chosen) return say("Choose what it is first.");
  const label = Number(chosen.value), seen = pixels();
  done = true;
  enqueue(async () => {
    const before = (await opinions(seen)).at(-1)[label];
    await step(seen, label);
    const columns = await opinions(seen);
    learned += 1;
    table(columns);
    say(`Learned as a ${label}: its score went from ${written(before)} to ${written(columns.at(-1)[label])}. `
      + `${verdict(columns)} Steps so far: ${learned}.`);
  });
}

function reset() {
  enqueue(() => { [state, learned] = [shipped, 0]; });
  show();
  enqueue(() => say(`All that was learned here is forgotten. ${$("status").textContent}`));
}

// The hands

const pen = { x: 0.5, y: 0.2, down: false, shown: false }; // moved by keys
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function at(event) {
  const box = $("canvas").getBoundingClientRect();
  return [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height];
}

$("canvas").addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button !== 0) return;
  $("canvas").setPointerCapture(event.pointerId);
  pen.shown = pen.down = false;
  begin(at(event));
});
$("canvas").addEventListener("pointermove", (event) => {
  if (event.isPrimary && $("canvas").hasPointerCapture(event.pointerId)) extend(at(event));
});
$("canvas").addEventListener("keydown", (event) => {
  if (event.key !== " " && !(event.key in ARROWS)) return;
  event.preventDefault(); // the page stays where it is
  pen.shown = true;
  if (event.key === " ") {
    pen.down = !pen.down;
    if (pen.down) begin([pen.x, pen.y]);
  } else {
    const [right, down] = ARROWS[event.key], inside = (value) => Math.min(0.95, Math.max(0.05, value));
    [pen.x, pen.y] = [inside(pen.x + right / 20), inside(pen.y + down / 20)];
    if (pen.down) extend([pen.x, pen.y]);
  }
  paint();
});
$("canvas").addEventListener("focus", () => { pen.shown = $("canvas").matches(":focus-visible"); paint(); });
$("canvas").addEventListener("blur", () => { pen.down = false; paint(); });
$("clear").addEventListener("click", clear);
$("learn").addEventListener("click", learn);
$("reset").addEventListener("click", reset);

for (let digit = 0; digit < 10; digit++) {
  const label = document.createElement("label"), choice = document.createElement("input");
  Object.assign(choice, { type: "radio", name: "draw-label", value: digit });
  label.append(choice, digit);
  $("labels").append(label);
}
enqueue(() => load().then(() => {
  $("learn").disabled = $("reset").disabled = false;
  show();
}, (problem) => {
  console.warn(problem);
  say("The network could not be loaded. In a copy of the site that was built without it, run “make draw” first.");
}));
