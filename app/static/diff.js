// Differences between two texts by words.

/** Return the parts of both texts in order: [kind, text] with kind "same", "del" (old only) or "ins" (new only). */
export function wordDiff(old, now) {
  const [a, b] = [words(old), words(now)];
  // lengths[i][j]: longest common subsequence of a[i:] and b[j:]
  const lengths = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      lengths[i][j] = a[i] === b[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  const parts = [];
  const put = (kind, word) => {
    if (parts.at(-1)?.[0] === kind) parts.at(-1)[1].push(word);
    else parts.push([kind, [word]]);
  };
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      put("same", a[i]);
      i += 1;
      j += 1;
    } else if (i < a.length && (j === b.length || lengths[i + 1][j] >= lengths[i][j + 1])) put("del", a[i++]);
    else put("ins", b[j++]);
  }
  return parts.map(([kind, list]) => [kind, list.join(" ")]);
}

function words(text) {
  return text.split(/\s+/).filter(Boolean);
}
