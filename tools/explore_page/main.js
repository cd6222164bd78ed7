// Tabs, the player at the bottom, and what the server is doing.
import { announce, ask, attempt, clock, element, get, hear, say } from "./common.js";
import "./label.js";
import "./listen.js";
import "./review.js";
import "./train.js";
import "./map.js";

const tabs = [...document.querySelectorAll("[role=tab]")];
const player = get("player");

function show(name) {
  for (const tab of tabs) {
    const isShown = tab.id === `tab-${name}`;
    tab.ariaSelected = String(isShown);
    tab.tabIndex = isShown ? 0 : -1;
    get(tab.getAttribute("aria-controls")).hidden = !isShown;
  }
  history.replaceState(null, "", `#${name}`);
  say("");
  announce("shown", name);
}

for (const tab of tabs) tab.addEventListener("click", () => show(tab.getAttribute("aria-controls")));
document.querySelector("[role=tablist]").addEventListener("keydown", event => {
  const at = tabs.indexOf(event.target), last = tabs.length - 1;
  const next = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at ? at - 1 : last, Home: 0, End: last }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  tabs[next].focus();
  tabs[next].click();
});
hear("open", name => { show(name); get(name).focus({ preventScroll: true }); });

// A format that the browser cannot play is asked for again as WAV.
function load(row) {
  if (player.dataset.id === String(row.id)) return;
  player.dataset.id = row.id;
  get("playing").textContent = row.name;
  player.src = `api/audio?id=${row.id}`;
}
player.addEventListener("error", () => {
  if (player.dataset.id && !player.src.includes("wav")) {
    const isWanted = player.dataset.wanted === player.dataset.id;
    player.src = `api/audio?id=${player.dataset.id}&wav=1`;
    if (isWanted) player.play().catch(() => {});
  } else if (player.dataset.id) say(`${get("playing").textContent}: cannot be played; was it moved?`, true);
});
hear("load", load);
hear("play", row => {
  const isSame = player.dataset.id === String(row.id);
  if (isSame && !player.paused) return player.pause();
  load(row);
  player.dataset.wanted = row.id;
  player.play().catch(() => {});  // the error event says why
});

function showJob({ job }) {
  get("job").hidden = !job;
  if (!job) return;
  const left = job.secs_left === null ? "" : `, ${clock(job.secs_left)} left`;
  get("job-text").textContent = `${job.text}${job.total ? ` ${job.done} of ${job.total}${left}` : ""} …`;
  const bar = get("job-progress");
  job.total ? bar.setAttribute("value", job.done / job.total) : bar.removeAttribute("value");
  get("job-cancel").disabled = job.is_cancelled;
}
get("job-cancel").addEventListener("click", () => attempt(() => ask("cancel", {}, "")));

let revision = null, message = "";
async function watch() {
  let pause = 2000;
  try {
    const state = await ask("state");
    const { model, collection } = state;
    get("about").textContent = `Model ${model.name}: ${model.labels.length} ${model.is_tagger ? "tags (for genres, correct some files and train)" : `genres (${[...model.labels].sort().join(", ")})`}. `
      + `Collection: ${collection.num_labelled} labelled files, ${collection.num_corrections} corrections`
      + (collection.folder ? ` (${collection.folder})` : "");
    showJob(state);
    announce("state", state);
    if (message !== (message = state.message)) say(message, true);
    if (state.revision !== revision) announce("changed", state);
    revision = state.revision;
    if (state.is_busy) pause = 400;
  } catch (error) { say(error.message, true); }
  setTimeout(watch, pause);
}

show(tabs.map(tab => tab.getAttribute("aria-controls")).find(name => `#${name}` === location.hash) ?? "label");
watch();
