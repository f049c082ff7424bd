// How dark each token of a response is shaded, by a number of each token.

export const FATES = { trained: "trained", masked: "left out by the correction", clipped: "clipped", nonfinite: "left out: no finite number" };
export const LEGENDS = {
  logprob: "Dark where the engine gave a token little probability.",
  ratio: "The learner's probability of a token over the engine's, when it was trained. Orange above 1, blue below; darkest from a factor of 2 on. Struck through: left out by the correction.",
  fate: "Dark: left out by the correction. Lighter: clipped. Unshaded: trained, or not yet.",
  version: "Dark: sampled by a newer version, within each response.",
  mask: "Dark: in the loss. Struck through: no loss.",
};
const LEVELS = 4;
const FATE_LEVELS = { masked: 4, nonfinite: 4, clipped: 2 };

/** A class for each token: s0 to s4, or b1 to b4 for the other side of a ratio. */
export function shading(one, kind) {
  if (kind === "fate") return one.tokens.map((_, index) => `s${FATE_LEVELS[one.fates?.[index]] ?? 0}`);
  const values = one.per_token[kind] ?? [];
  if (kind === "ratio") return one.tokens.map((_, index) => ratioClass(values[index]));
  const known = values.filter((value) => typeof value === "number");
  const low = Math.min(...known), high = Math.max(...known);
  return one.tokens.map((_, index) => {
    if (!(high > low) || typeof values[index] !== "number") return "s0";
    const share = (values[index] - low) / (high - low);
    return `s${Math.round(LEVELS * (kind === "logprob" ? 1 - share : share))}`; // marked where it is low
  });
}

function ratioClass(ratio) {
  if (typeof ratio !== "number" || ratio <= 0) return "s0";
  const level = Math.min(LEVELS, Math.round(LEVELS * Math.abs(Math.log2(ratio))));
  return `${ratio < 1 && level ? "b" : "s"}${level}`;
}
