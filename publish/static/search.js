// Search the sections of the book: `findSections(question)` ranks them by BM25, and the search page
// shows them with what they say. `search_sections.js` has them, `minisearch.js` the ranking; all
// three are scripts, since a page that is opened from a folder may load nothing else.
"use strict";

// Who asks with one of these words is answered by the others as well.
const SYNONYMS = [
  "evaluation evaluate validation val val_loss val_accuracy test inference serve predict",
  "gpu gpus device devices replica multi distributed",
  "derivative gradient backward backprop backpropagation",
  "array ndarray list",
  "normalization norm bn batchnorm batchnormalization",
  "standardization standardize z-score",
  "wrong bad worse worst poor",
  "batch_size small pairs tiny",
  "synchronized sync syncbn syncbatchnorm syncbatchnormalization",
  "freeze frozen trainable",
  "convert migrate port",
  "relu activation",
  "export onnx tflite",
  "gamma γ",
  "beta β",
  "epsilon ε eps",
  "滑动平均 移动平均 指数加权平均",
  "批归一化 批量归一化 批标准化",
  "评估 验证",
  "设备 显卡 gpu",
  "同步 synchronized",
].map((group) => group.split(" "));

const EMPTY = new Set(
  `a an and are as at be but by can do does for from given has have how i if in into is it its me
  much my no not of on one or should so than that the then there this to was what when where which
  who why with you your`.split(/\s+/),
);

const HAN = /\p{Script=Han}/u;

// A decimal is one word; of a name with underscores also each part; of Chinese each pair of
// characters, since no space parts its words.
const wordsOf = (text) => {
  const runs = /\d+(?:\.\d+)+|\p{Script=Han}+|[\p{Letter}\p{Number}_]+/gu;
  return (text.toLowerCase().normalize("NFKC").match(runs) ?? []).flatMap((run) => {
    if (!HAN.test(run)) return run.includes("_") ? [run, ...run.split("_")] : [run];
    if (run.length === 1) return [run];
    return Array.from({ length: run.length - 1 }, (_, i) => run.slice(i, i + 2));
  });
};

// Forms of a word count as one: normalize and normalization, average and averages.
const SAME = new Map([
  ["axes", "axis"],
  ["norm", "normalization"],
  ["norms", "normalization"],
]);

const stem = (form) => {
  const word = SAME.get(form) ?? form;
  if (EMPTY.has(word) || word === "") return null;
  if (!/^[a-z]{4,}$/.test(word)) return word;
  return word
    .replace(/ies$/, "y")
    .replace(/iz(?:ations?|ed|es|ing|ers?)$/, "iz")
    .replace(/(?<![su])s$/, "")
    .replace(/(?:ing|ed|e)$/, "");
};

const BOOST = { title: 3, keys: 4, chapter: 0.5, text: 1, printed: 1 };

const index = new MiniSearch({
  fields: Object.keys(BOOST),
  storeFields: ["page", "id", "title", "chapter", "text", "weight"],
  idField: "number",
  tokenize: wordsOf,
  processTerm: stem,
});
index.addAll(searchSections.map((section, number) => ({ ...section, number })));

const synonymsOf = (question) => {
  const low = question.toLowerCase();
  const asked = new Set(wordsOf(question));
  const isAsked = (word) =>
    asked.has(word) || (/_|\p{Script=Han}/u.test(word) && low.includes(word.replace("_", " ")));
  return SYNONYMS.filter((group) => group.some(isAsked))
    .flat()
    .filter((word) => !low.includes(word))
    .join(" ");
};

const findSections = (question) => {
  const low = question.toLowerCase().trim();
  const half = Object.fromEntries(Object.entries(BOOST).map(([field, boost]) => [field, boost / 2]));
  const exact = { boost: half, prefix: false, fuzzy: false };
  const queries = [question, { ...exact, queries: [synonymsOf(question)] }];
  return index.search({ combineWith: "OR", queries }, {
    boost: BOOST,
    prefix: (word) => word.length > 3,
    fuzzy: (word) => (word.length > 5 ? 0.15 : false),
    weights: { fuzzy: 0.2, prefix: 0.4 },
    bm25: { k: 1.2, b: 0.6, d: 0.5 },
    // An entry of the glossary is what each of its names looks for: "gamma (γ, scale) · γ（缩放系数）".
    // A message that is pasted looks for the section that has it word for word.
    boostDocument: (_, __, { title, text, weight }) => {
      const isNamed = title.toLowerCase().split(/ ?[·,，()（）] ?/).includes(low);
      const isQuoted = low.length > 15 && text.toLowerCase().includes(low);
      return weight * (isNamed ? 4 : 1) * (isQuoted ? 2 : 1);
    },
  });
};

// The part of a text that has most of the words in it, with these marked.
const excerptOf = (text, terms) => {
  const found = [...text.matchAll(/\p{Script=Han}|[\p{Letter}\p{Number}_.]+/gu)].filter(
    ({ 0: word, index: at }) =>
      terms.has(stem(word.toLowerCase().replace(/\.$/, ""))) ||
      terms.has(text.slice(at, at + 2)) ||
      terms.has(text.slice(at - 1, at + 1)),
  );
  const length = HAN.test(text) ? 90 : 220;
  const inReach = (start) => found.filter(({ index: at }) => at >= start && at < start + length).length;
  const starts = found.map(({ index: at }) => at);
  const best = starts.reduce((most, start) => (inReach(start) > inReach(most) ? start : most), starts[0] ?? 0);
  const from = best < 40 ? 0 : text.indexOf(" ", best - 40) + 1 || best;
  const quote = document.createElement("p");
  let at = Math.min(from, best);
  const cut = HAN.test(text) ? at + length : text.indexOf(" ", at + length);
  const end = cut < 0 ? text.length : Math.min(text.length, cut);
  quote.append(at > 0 ? "… " : "");
  for (const { 0: word, index: start } of found.filter((it) => it.index >= at && it.index < end)) {
    const mark = document.createElement("mark");
    mark.textContent = word;
    quote.append(text.slice(at, start), mark);
    at = start + word.length;
  }
  quote.append(text.slice(at, Math.max(at, end)), end < text.length ? " …" : "");
  return quote;
};

const showResults = (place, question) => {
  const results = findSections(question).slice(0, 20);
  const { found, nothing } = place.dataset;
  const status = document.createElement("p");
  status.setAttribute("role", "status");
  status.textContent = results.length ? found.replace("{number}", results.length) : nothing;
  const list = document.createElement("ol");
  for (const { page, id, title, chapter, text, terms } of results) {
    const link = document.createElement("a");
    link.href = `${place.dataset.root}${page}.html${id ? "#" + id : ""}`;
    link.textContent = chapter === title ? title : `${chapter} › ${title}`;
    const item = document.createElement("li");
    item.append(link, excerptOf(text, new Set(terms)));
    list.append(item);
  }
  place.replaceChildren(status, list);
};

const question = new URLSearchParams(location.search).get("q") ?? "";
if (question.trim()) {
  document.querySelector(".bd-search-container input[name=q]").value = question;
  showResults(document.querySelector("#search-results"), question);
}
