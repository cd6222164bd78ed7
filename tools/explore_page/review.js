// One file after another, the most doubtful first; each key does one thing.
import { announce, ask, attempt, bars, element, get, hear, newestOnly, say } from "./common.js";

let queue = [], at = 0, labels = [];
const current = () => queue[at];

const refresh = newestOnly(async signal => {
  const found = await ask("review", { order: get("order").value }, undefined, signal);
  const kept = current()?.id;
  queue = found.rows;
  at = Math.max(0, queue.findIndex(row => row.id === kept));
  labels = found.genres;
  get("known-genres").replaceChildren(...labels.map(value => element("option", { value })));
  get("review-count").textContent = `${found.total} files to review, ${found.num_corrections} corrections`;
  get("undo").disabled = !found.can_undo;
  draw();
});

function draw() {
  const row = current();
  get("card").hidden = !row;
  get("review-empty").hidden = Boolean(row);
  if (!row) return;
  get("review-name").textContent = row.name;
  get("review-facts").textContent = [row.truth && `folder: ${row.truth}`, row.verdict].filter(Boolean).join("; ");
  bars(get("review-scores"), row.top);
  get("genre").value = "";
}

async function save(genre) {
  const row = current();
  if (!row || !genre) return;
  await ask("correct", {}, JSON.stringify({ id: row.id, genre }));
  await next(`${row.name}: ${genre}`);
}

async function next(text) {
  queue.splice(at, 1);
  at = at < queue.length ? at : 0;
  draw();
  await refresh();
  say(text);
}

const actions = {
  a: () => save(current()?.genre),
  c: () => get("genre").focus(),
  s: async () => {
    await ask("skip", {}, JSON.stringify({ id: current().id }));
    await next(`${current().name}: skipped`);
  },
  u: async () => {
    const { name } = await ask("undo", {}, "");
    say(`${name}: correction undone`);
    await refresh();
    at = Math.max(0, queue.findIndex(row => row.name === name));
    draw();
  },
  p: () => current() && announce("play", current()),
};
for (let i = 0; i < 5; i++) actions[i + 1] = () => save(current()?.top[i]?.[0]);
const run = key => attempt(actions[key]);

for (const [id, key] of [["accept", "a"], ["to-genre", "c"], ["skip", "s"], ["undo", "u"], ["play", "p"]]) {
  get(id).addEventListener("click", () => run(key));
}
document.addEventListener("keydown", event => {
  const isTyping = event.target.matches("input, select, textarea");
  if (event.key === "Escape" && event.target === get("genre")) return get("card").focus();
  if (get("review").hidden || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (!Object.hasOwn(actions, key)) return;
  event.preventDefault();
  run(key);
});
get("correct").addEventListener("submit", event => {
  event.preventDefault();
  attempt(() => save(get("genre").value.trim())).then(() => get("card").focus());
});
get("order").addEventListener("change", () => { at = 0; queue = []; refresh(); });
hear("changed", refresh);
hear("shown", name => name === "review" && refresh());
