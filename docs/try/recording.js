// Cuts recordings as genre_tl/audio/sound.py and serving/predictor.py do.

export const RATE_HZ = 16000;
const SILENCE = 2 / 2 ** 15, LOUDEST = 2 ** 31, MIN_HEAD = 64;

/** Returns the mean of the channels of an AudioBuffer. */
export function mono(buffer) {
  const mean = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const samples = buffer.getChannelData(channel);
    for (let i = 0; i < mean.length; i++) mean[i] += samples[i] / buffer.numberOfChannels;
  }
  return mean;
}

/** Returns the place of the first sound, or the length if there is none. */
export function firstSound(samples) {
  const head = samples.subarray(0, MIN_HEAD);
  const isConstant = head.length === MIN_HEAD && head.every(x => x === head[0]);
  const silent = isConstant ? head[0] : 0;
  const isSound = x => Math.abs(x) > SILENCE && Math.abs(x) <= LOUDEST && x !== silent;
  const place = samples.findIndex(isSound);
  return place < 0 ? samples.length : place;
}

/** Returns segments of `size` samples and where they begin, from the first sound on. */
export function segments(samples, size) {
  const found = [];
  for (let start = firstSound(samples); start < samples.length; start += size) {
    found.push({ start, samples: samples.subarray(start, start + size) });
  }
  return found;
}

/** Returns the means of rows, weighted; rows have equal lengths. */
export function weightedMean(rows, weights) {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const mean = new Float64Array(rows[0].length);
  rows.forEach((row, i) => row.forEach((x, j) => { mean[j] += x * weights[i] / total; }));
  return mean;
}
