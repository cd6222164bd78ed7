// Computes the scores of recordings with ONNX Runtime, so that the page stays responsive.

import * as ort from "./ort/ort.wasm.bundle.min.mjs";
import { RATE_HZ, segments, weightedMean } from "./recording.js";

const NO_TIME = -1; // of scores over time, beyond the end of a recording

let newest = 0; // number of the recording that is wanted

/** Returns the bytes of a file, and tells the page how many have come. */
async function download(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  const total = Number(answer.headers.get("Content-Length"));
  const parts = [];
  let done = 0;
  for (const reader = answer.body.getReader(); ;) {
    const { value } = await reader.read();
    if (!value) break;
    parts.push(value);
    done += value.length;
    postMessage({ kind: "loading", done, total });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function load() {
  const facts = await (await fetch("model/facts.json")).json();
  postMessage({ kind: "facts", facts });
  // It uses threads by itself where a server isolates the page from other origins.
  const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
  const session = await ort.InferenceSession.create(await download("model/model.onnx"), options);
  postMessage({ kind: "ready" });
  return { facts, session };
}

const loaded = load();
loaded.catch(error => postMessage({ kind: "broken", reason: error.message }));

/** Returns scores, weight, familiarity, times and scores over time of a segment. */
async function answer(session, segment, padding) {
  const given = {
    waveform: new ort.Tensor("float32", segment.samples, [1, segment.samples.length]),
    starts: new ort.Tensor("int64", [0n], [1]),
    padding: new ort.Tensor("float32", [padding], [1]),
  };
  const found = await session.run(given);
  const times = found.times.data.filter(secs => secs !== NO_TIME);
  const width = found.scores.dims[1];
  return {
    scores: found.scores.data,
    frames: found.valid_frames.data[0],
    familiarity: found.familiarity?.data[0] ?? null,
    times: Array.from(times, secs => secs + segment.start / RATE_HZ),
    overTime: Array.from(times, (_, i) => found.scores_over_time.data.subarray(i * width, (i + 1) * width)),
  };
}

/** Returns the scores of a recording, or null if another one is wanted. */
async function analyse(number, samples) {
  const { facts, session } = await loaded;
  const parts = segments(samples, facts.frontend.segment_samples);
  // No sample of this value is sound; zero, if it is not a number, as no sound is.
  const padding = samples[0] || 0;
  const answers = [];
  const begun = performance.now();
  for (const [done, segment] of parts.entries()) {
    const left = done ? (performance.now() - begun) / done * (parts.length - done) : null;
    postMessage({ kind: "progress", number, done, total: parts.length, left });
    await new Promise(resolve => setTimeout(resolve)); // for messages of the page
    if (number !== newest) return null;
    answers.push(await answer(session, segment, padding));
  }
  const sounding = answers.filter(one => one.frames > 0);
  if (!sounding.length) return { hasSound: false };
  const weights = sounding.map(one => one.frames);
  const known = sounding.map(one => [one.familiarity]);
  return {
    hasSound: true,
    scores: weightedMean(sounding.map(one => one.scores), weights),
    familiarity: known[0][0] === null ? null : weightedMean(known, weights)[0],
    times: sounding.flatMap(one => one.times),
    overTime: sounding.flatMap(one => one.overTime),
    ms: performance.now() - begun,
  };
}

onmessage = async ({ data: { number, samples } }) => {
  newest = number;
  try {
    const result = await analyse(number, samples);
    if (result) postMessage({ kind: "result", number, ...result });
  } catch (error) {
    postMessage({ kind: "failed", number, reason: error.message });
  }
};
