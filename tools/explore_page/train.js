// A folder of genre folders and the corrections make a new version of the model.
import { ask, attempt, element, get, hear, percent } from "./common.js";

/** A table whose first column names the lines; `shade` gives a cell's share, 0 to 1. */
function table(label, head, lines, shade) {
  const row = (values, tag, scope) => element("tr", {}, ...values.map((value, i) => {
    const cell = element(i ? tag : "th", { scope: i ? scope : "row", className: i ? "number" : "" }, String(value));
    if (shade && i && tag === "td") cell.style.setProperty("--share", shade(value, values));
    return cell;
  }));
  const made = element("table", { className: shade ? "confusion" : "compact" },
    element("thead", {}, row(head, "th", "col")), element("tbody", {}, ...lines.map(line => row(line, "td"))));
  const box = element("div", { className: "scroll", tabIndex: 0 }, made);
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", label);
  return box;
}

async function look() {
  get("start-training").disabled = true;
  get("found").replaceChildren();
  let found;
  try {
    found = await ask("found", { folder: get("train-folder").value.trim() });
  } catch (error) {
    get("found-text").textContent = error.message;
    return;
  }
  get("found-text").textContent = found.text;
  get("found").replaceChildren(
    element("h2", {}, "What is trained on"),
    table("What is trained on", ["Genre", "Files", "Accepted or corrected"], found.genres),
    ...found.skipped.length ? [element("details", {}, element("summary", {}, `${found.skipped.length} files are left out`),
      element("ul", {}, ...found.skipped.map(([path, reason]) => element("li", {}, `${path}: ${reason}`))))] : []);
  get("start-training").disabled = false;
}

function side(title, found) {
  if (!found) return element("div", {}, element("h3", {}, title), element("p", {}, "Not measured: each genre needs two files or artist folders."));
  const [low, high] = found.interval;
  return element("div", {}, element("h3", {}, `${title}: ${percent(found.accuracy)} of ${found.num_files} files right`),
    element("p", { className: "soft" }, `95 % interval ${percent(low)} to ${percent(high)}`),
    table(`${title}: a line for each genre, a column for what it was called`, ["", ...found.labels],
      found.confusion.map((row, i) => [found.labels[i], ...row.map(count => count || "")]),
      (count, [, ...all]) => count / Math.max(1, all.reduce((sum, each) => sum + Number(each), 0))));
}

function showResult({ training }) {
  if (!training) return;
  get("trained").replaceChildren(
    element("h2", {}, `Version ${training.version} is used now`),
    element("p", {}, training.text),
    element("div", { className: "columns" }, side("Before", training.before), side("After", training.after)));
}

get("look").addEventListener("submit", event => {
  event.preventDefault();
  attempt(look);
});
get("train-folder").addEventListener("input", () => { get("start-training").disabled = true; });
get("start-training").addEventListener("click", () => attempt(async () => {
  await ask("train", {}, JSON.stringify({ folder: get("train-folder").value.trim() }));
  get("start-training").disabled = true;
}));
hear("changed", showResult);
hear("shown", name => name === "train" && attempt(look));
let isFirst = true;
hear("state", ({ collection, training }) => {
  if (!isFirst || collection.is_looking) return;
  isFirst = false;
  get("train-folder").value ||= training?.folder || collection.genre_folder;
  if (!get("train").hidden) attempt(look);
});
