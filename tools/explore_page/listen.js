// Waveform, scattering and scores of one recording, in step with the player.
import { announce, ask, bars, clock, get, hear, newestOnly, say, similar } from "./common.js";

const SHOWN = 8, BARS = 5;
const player = get("player"), views = get("views");
let facts = null, best = [];

// Dark blue to yellow, told apart without red-green vision.
const shade = x => [255 * Math.min(1, 1.1 * x ** 1.2), 30 + 205 * x, 80 + 60 * Math.sin(Math.PI * x)];

function paint(canvas, columns, rows, value) {
  const small = new OffscreenCanvas(columns, rows), context = small.getContext("2d");
  const image = context.createImageData(columns, rows);
  for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) {
    image.data.set([...shade(value(x, y)), 255], 4 * (y * columns + x));
  }
  context.putImageData(image, 0, 0);
  const target = canvas.getContext("2d");
  target.imageSmoothingEnabled = false;
  target.drawImage(small, 0, 0, canvas.width, canvas.height);
  return target;
}

function drawWave() {
  const canvas = get("wave"), context = canvas.getContext("2d"), middle = canvas.height / 2;
  const loudest = Math.max(...facts.envelope, 1e-9), step = canvas.width / facts.envelope.length;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = getComputedStyle(document.body).getPropertyValue("--accent");
  facts.envelope.forEach((value, i) => {
    const half = Math.max(.5, middle * value / loudest);
    context.fillRect(i * step, middle - half, Math.max(step, 1), 2 * half);
  });
}

/** The scores at a time: those of the last frame before it. */
function scoresAt(secs) {
  const next = facts.times_secs.findIndex(time => time > secs);
  return facts.scores[(next < 0 ? facts.times_secs.length : Math.max(next, 1)) - 1] ?? facts.mean_scores;
}

function drawGenres() {
  const canvas = get("genres"), height = canvas.height / best.length;
  const columns = Array.from({ length: 500 }, (_, x) => scoresAt(x / 500 * facts.secs));
  const highest = Math.max(1e-9, ...columns.flatMap(scores => best.map(label => scores[label])));
  const context = paint(canvas, 500, best.length, (x, y) => columns[x][best[y]] / highest);
  context.font = `${Math.min(14, height - 2)}px system-ui`;
  best.forEach((label, y) => {
    context.lineWidth = 3;
    context.strokeStyle = "rgba(0,0,0,.7)";
    context.strokeText(facts.labels[label], 6, (y + .75) * height);
    context.fillStyle = "#fff";
    context.fillText(facts.labels[label], 6, (y + .75) * height);
  });
}

const ordered = scores => [...scores.keys()].sort((a, b) => scores[b] - scores[a]);
const list = (id, scores) => bars(get(id), ordered(scores).slice(0, BARS).map(i => [facts.labels[i], scores[i]]));

function follow() {
  if (!facts || player.dataset.id !== String(facts.id)) return;
  const secs = player.currentTime;
  get("cursor").style.left = `${100 * Math.min(1, secs / facts.secs)}%`;
  views.ariaValueNow = Math.round(secs);
  views.ariaValueText = clock(secs);
  get("when").textContent = `At ${clock(secs)}`;
  list("now", scoresAt(secs));
}

function draw() {
  if (!facts || get("listen").hidden) return;
  for (const id of ["wave", "scales", "genres"]) get(id).width = get(id).clientWidth;
  drawWave();
  const bands = facts.scaleogram, hz = facts.bands_hz.map(Math.round);
  get("bands").textContent = `First-order scattering: ${hz[0]} Hz at the top to ${hz[hz.length - 1]} Hz`;
  paint(get("scales"), bands[0].length, bands.length, (x, y) => bands[y][x] / 255);
  drawGenres();
}

function seek(secs) {
  player.currentTime = Math.min(Math.max(secs, 0), facts.secs);
}

const open = newestOnly(async (signal, row) => {
  facts = null;
  announce("open", "listen");
  announce("load", row);
  get("listen-result").hidden = true;
  get("listen-empty").hidden = true;
  say(`${row.name}: analysing …`);
  try {
    facts = await ask("analysis", { id: row.id }, undefined, signal);
  } catch (error) {
    if (error.name !== "AbortError") get("listen-empty").hidden = false;
    throw error;
  }
  say("");
  best = ordered(facts.mean_scores).slice(0, SHOWN);
  get("listen-result").hidden = false;
  get("listen-name").textContent = row.name;
  get("listen-note").textContent = [clock(facts.secs), facts.note].filter(Boolean).join("; ");
  views.ariaValueMax = Math.round(facts.secs);
  draw();
  list("whole", facts.mean_scores);
  similar(get("listen-similar"), facts.similar);
  follow();
});

views.addEventListener("click", event => {
  const box = views.getBoundingClientRect();
  seek((event.clientX - box.left) / box.width * facts.secs);
});
views.addEventListener("keydown", event => {
  const now = player.currentTime;
  const to = { ArrowLeft: now - 5, ArrowRight: now + 5, ArrowDown: now - 5, ArrowUp: now + 5, PageUp: now + 30, PageDown: now - 30, Home: 0, End: facts.secs }[event.key];
  if (event.key === " ") player.paused ? player.play().catch(() => {}) : player.pause();  // a pause ends a play
  else if (to !== undefined) seek(to);
  else return;
  event.preventDefault();
});
for (const kind of ["timeupdate", "seeked", "loadedmetadata"]) player.addEventListener(kind, follow);
(function animate() { if (!player.paused) follow(); requestAnimationFrame(animate); })();
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
hear("shown", draw);
hear("listen", open);
