// The page: takes a file, has it decoded, and shows the scores that the worker finds.

import { RATE_HZ, mono } from "./recording.js";

const SHOWN = 10; // labels, before all are asked for
const COLUMNS = 300; // points of a chart
const FACTS = { // of the model card, in this order
  intended_use: "Use", limits: "Limits", known_weaknesses: "Known weaknesses", sources: "Trained on",
  teacher: "Teacher", licence_of_the_data: "Licence of the training data", labels: "Labels",
};

const get = id => document.getElementById(id);
const percent = score => `${Math.round(100 * score)} %`;
const clock = secs => `${Math.floor(secs / 60)}:${String(Math.floor(secs % 60)).padStart(2, "0")}`;

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
let facts, newest = 0, isReady = false;
let wanted, shown; // the recording that the worker computes, and the one on the page

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function say(text, isError = false) {
  get("message").textContent = text;
  get("message").classList.toggle("error", isError);
}

function showProgress(done, total) {
  get("progress").hidden = done === null;
  if (total) Object.assign(get("progress"), { max: total, value: done });
  else get("progress").removeAttribute("value");
}

// --- The model

function showFacts(found) {
  facts = found;
  const items = Object.keys(FACTS).filter(key => facts[key]).flatMap(key => {
    const value = facts[key];
    const isList = Array.isArray(value) && key !== "labels";
    const text = key === "labels" ? `${value.length}: ${value.join(", ")}` : String(value);
    const list = () => element("ul", {}, ...value.map(x => element("li", { textContent: x })));
    return [element("dt", { textContent: FACTS[key] }), element("dd", {}, isList ? list() : text)];
  });
  get("model").querySelector("summary").textContent = `The model: ${facts.name}, ${facts.labels.length} labels`;
  get("facts").replaceChildren(...items);
  get("model").hidden = false;
  get("filter").hidden = facts.labels.every(label => label in facts.genres);
}

// --- A recording

async function decode(file) {
  const bytes = await file.arrayBuffer();
  if (!bytes.byteLength) throw new Error("the file is empty");
  try {
    // A context converts what it decodes to its own sample rate.
    return mono(await new OfflineAudioContext(1, 1, RATE_HZ).decodeAudioData(bytes));
  } catch {
    throw new Error("not audio, or a format that this browser cannot decode; convert it to MP3, FLAC or WAV");
  }
}

async function analyse(file) {
  const number = ++newest;
  get("result").hidden = true;
  get("player").pause();
  showProgress(0);
  say(`${file.name}: decoding …`);
  try {
    const samples = await decode(file);
    if (number !== newest) return;
    wanted = { name: file.name, file, secs: samples.length / RATE_HZ };
    if (isReady) say(`${file.name}: analysing …`);
    worker.postMessage({ number, samples }, [samples.buffer]);
  } catch (error) {
    if (number === newest) fail(`${file.name}: ${error.message}`);
  }
}

function fail(text) {
  showProgress(null);
  say(text, true);
}

// --- Results

/** Returns up to three genres and their scores as text; a genre may have several labels. */
function genresInWords() {
  const best = {};
  for (const [label, genre] of Object.entries(facts.genres)) {
    best[genre] = Math.max(best[genre] ?? 0, shown.scores[facts.labels.indexOf(label)]);
  }
  const order = Object.keys(best).sort((a, b) => best[b] - best[a]);
  return order.slice(0, 3).map(genre => `${genre} ${percent(best[genre])}`).join(", ");
}

/** Returns the means of one label's scores in columns of equal time. */
function columns(label) {
  const { times, overTime, secs } = shown;
  const count = Math.min(COLUMNS, times.length);
  const sums = new Float64Array(count), counts = new Uint32Array(count);
  times.forEach((time, i) => {
    const column = Math.min(count - 1, Math.floor(time / secs * count));
    sums[column] += overTime[i][label];
    counts[column]++;
  });
  return Array.from(sums, (sum, i) => counts[i] ? sum / counts[i] : 0);
}

function chart(label) {
  const values = columns(label), high = values.indexOf(Math.max(...values));
  const steps = values.map((x, i) => `L${i} ${1 - x} L${i + 1} ${1 - x}`).join(" ");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${values.length} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const from = percent(Math.min(...values)), to = percent(values[high]);
  const when = clock(high / values.length * shown.secs);
  svg.setAttribute("aria-label", `${from} to ${to}, highest at ${when}`);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", `M0 1 ${steps} L${values.length} 1 Z`);
  svg.append(path);
  return element("div", {}, svg);
}

function row(label) {
  const score = shown.scores[label];
  const bar = element("span", { className: "bar" });
  bar.style.setProperty("--share", score);
  const made = element("tr", {},
    element("th", { scope: "row", textContent: facts.labels[label] }),
    element("td", { className: "score" }, bar, element("data", { value: score, textContent: percent(score) })),
    element("td", { className: "now" }),
    element("td", { className: "chart" }, chart(label)));
  made.dataset.label = label;
  return made;
}

function showLabels(isAll = false) {
  const listed = get("genres").checked ? shown.order.filter(x => facts.labels[x] in facts.genres) : shown.order;
  get("labels").tBodies[0].replaceChildren(...listed.slice(0, isAll ? listed.length : SHOWN).map(row));
  get("all").hidden = listed.length <= SHOWN;
  get("all").textContent = isAll ? `Show the ${SHOWN} highest` : `Show all ${listed.length}`;
  get("all").onclick = () => showLabels(!isAll);
  showTime();
}

/** Shows the scores at the time that the slider is at. */
function showTime() {
  const secs = Number(get("time").value);
  const next = shown.times.findIndex(time => time > secs);
  const at = Math.max(0, (next < 0 ? shown.times.length : next) - 1);
  get("labels").style.setProperty("--at", Math.min(1, secs / shown.secs));
  get("clock").textContent = clock(secs);
  const texts = [];
  for (const row of get("labels").tBodies[0].rows) {
    const text = percent(shown.overTime[at][row.dataset.label]);
    row.querySelector(".now").textContent = text;
    if (texts.length < 3) texts.push(`${row.querySelector("th").textContent} ${text}`);
  }
  get("time").setAttribute("aria-valuetext", `${clock(secs)}: ${texts.join(", ")}`);
}

function show(result) {
  showProgress(null);
  if (!result.hasSound) return fail(`${wanted.name}: there is no sound in it`);
  shown = { ...wanted, ...result };
  const { scores, familiarity } = shown;
  shown.order = [...facts.labels.keys()].sort((a, b) => scores[b] - scores[a]);
  URL.revokeObjectURL(get("player").src);
  get("player").src = URL.createObjectURL(shown.file);
  get("name").textContent = shown.name;
  const isStrange = familiarity !== null && familiarity < facts.unfamiliar;
  get("note").textContent = isStrange ? "It is unlike the training music: its scores mean little." : "";
  Object.assign(get("time"), { max: Math.floor(shown.secs), value: 0 });
  get("result").hidden = false;
  showLabels();
  say(`${clock(shown.secs)} analysed in ${(shown.ms / 1000).toFixed(1)} s: ${genresInWords()}`);
}

/** Saves a table: a row of the whole song, and one for each time. */
function save() {
  const quoted = text => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const line = (first, values) => [first, ...Array.from(values, x => x.toFixed(6))].join(",");
  const rows = shown.times.map((time, i) => line(time.toFixed(3), shown.overTime[i]));
  const lines = [["secs", ...facts.labels.map(quoted)].join(","), line("all", shown.scores), ...rows];
  const url = URL.createObjectURL(new Blob([lines.join("\n"), "\n"], { type: "text/csv" }));
  element("a", { href: url, download: `${shown.name}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// --- Events

const answers = {
  facts: ({ facts }) => showFacts(facts),
  loading: ({ done, total }) => {
    if (!newest) say(`Loading the model: ${(done / 1e6).toFixed(0)} MB`);
    showProgress(done, total);
  },
  ready: () => {
    isReady = true;
    document.body.dataset.ready = "";
    if (!newest) { showProgress(null); say("The model is loaded. Drop a song."); }
  },
  broken: ({ reason }) => fail(`The model cannot be loaded: ${reason}`),
  progress: ({ done, total, left }) => {
    showProgress(done, total);
    const rest = left === null ? "" : `, ${Math.max(1, Math.round(left / 1000))} s left`;
    say(`${wanted.name}: analysing, ${percent(done / total)}${rest}`);
  },
  result: show,
  failed: ({ reason }) => fail(`${wanted.name}: ${reason}`),
};
worker.onmessage = ({ data }) => {
  if (data.number === undefined || data.number === newest) answers[data.kind](data);
};
worker.onerror = event => fail(`This browser cannot run the model: ${event.message ?? "update it"}`);

for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, event => {
    event.preventDefault();
    get("drop").classList.toggle("over", kind === "dragover");
  });
}
document.addEventListener("drop", ({ dataTransfer }) => {
  if (dataTransfer.files.length) analyse(dataTransfer.files[0]);
});
get("file").addEventListener("change", ({ target }) => target.files.length && analyse(target.files[0]));
get("time").addEventListener("input", ({ target }) => {
  get("player").currentTime = target.value;
  showTime();
});
get("player").addEventListener("timeupdate", ({ target }) => {
  get("time").value = target.currentTime;
  showTime();
});
get("labels").addEventListener("click", event => {
  const box = event.target.closest(".chart div")?.getBoundingClientRect();
  if (!box) return;
  get("time").value = (event.clientX - box.left) / box.width * shown.secs;
  get("time").dispatchEvent(new Event("input"));
});
get("genres").addEventListener("change", () => showLabels());
get("save").addEventListener("click", save);
say("Loading the model …");
