// The playground: asks on every input, and shows ghost text, suggestions and blanks.
import { Lacuna, Problem } from "./lacuna.js";

const STRINGS = {
  docs: ["API", "接口"], examples: ["Examples", "示例"],
  text: ["Text", "文本"], suggestions: ["Suggestions", "候选词"],
  letters: ["Next character", "下一个字符"], end: ["end", "结束"],
  blanks: ["Blanks", "填空"], blank: ["Blank", "空"], use: ["Use this text", "采用此文本"],
  keys: [
    "Tab accepts · → takes one word · Esc dismisses · Alt+1…5 picks · ____ is a blank",
    "Tab 接受 · → 取一个词 · Esc 隐藏 · Alt+1…5 选词 · ____ 表示填空",
  ],
  context: ["Context", "上下文"],
  history: ["History", "历史文本"], historyHint: ["Earlier text of the same writer", "同一作者先前写的文字"],
  lexicon: ["Own words", "自有词"], lexiconHint: ["Okonkwo*2, Lagos", "灵犀*2，欧阳若琳"],
  block: ["Blocked words", "屏蔽词"], blockHint: ["Never offered", "从不出现的词"],
  choices: ["Choices for blanks", "填空选项"],
  choicesHint: ["a, two, green; a line for each blank", "买，卖，看；每空一行"],
  key: ["API key", "API 密钥"], keyHint: ["Kept until this page closes", "页面关闭即清除"],
  request: ["This request", "此请求"], copy: ["Copy", "复制"], copied: ["Copied", "已复制"],
  model: ["model", "模型"], trip: ["round trip", "往返"],
  suggestion: ["Suggestion", "建议"], offline: ["The service does not answer.", "服务没有应答。"],
  locked: ["This service needs an API key.", "此服务需要 API 密钥。"],
  network: ["network", "网络"], counts: ["counts", "计数"],
  cache: ["context", "上下文"], own: ["own text", "自有文本"],
};
const LANGUAGES = ["en", "zh-Hans"];
// Label, text, and values of other fields.
const EXAMPLES = [
  [
    ["Half a word", "Last night we went to the theat"],
    ["Next word", "Thank you very much for your"],
    ["Blanks", "He opened the ____ and walked into the ____."],
    ["Choices", "I have ____ apples.", { choices: "a, two, green" }],
    ["History", "Please ask Dr. O", { history: "Dr. Okonkwo runs the office. Call Dr. Okonkwo." }],
    ["Own words", "I wrote it in Kak", { lexicon: "Kakoune, Neovim" }],
  ],
  [
    ["半个词", "今天天气很好，我们一起去公"],
    ["下一个词", "非常感谢您的"],
    ["填空", "今天天气很____，我们去____散步吧。"],
    ["选项", "他____了一本书。", { choices: "买，吃，唱" }],
    ["历史", "请把报告发给灵犀", { history: "灵犀项目下周上线。灵犀项目由小周负责。" }],
    ["自有词", "我用的输入法是小", { lexicon: "灵犀，小狼毫" }],
  ],
];
const MARKER = /[_＿]{2,}|\[mask\]|<mask>|<blank>|\{blank\}/i;
const MORE = { words: 4, letters: true }; // asked afterwards, of a service that has these fields
const SPEAK_AFTER_MS = 700; // a screen reader hears a suggestion when typing pauses
const $ = (id) => document.getElementById(id);
const [text, strip] = [$("text"), $("strip")];
const slots = Array.from({ length: 5 }, makeSlot);
// Keeps this page's cached texts apart from those of other writers.
const user = crypto.getRandomValues(new Uint32Array(4)).join("-");

let language = 0;
let offered = {}; // those of `MORE` that this service has
let asked = ""; // the question that was asked last
let asking = new AbortController();
let answer = { before: "", candidates: [] };
let cloze = null; // the answer about the blanks, with the text that it is about
let [composing, dismissed] = [false, false];
let kind = "curl";
let speech = 0;

const t = (name) => STRINGS[name]?.[language] ?? name;
const client = () => new Lacuna(new URL(".", location.href), { key: $("key").value });

function make(tag, content = "", properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...[content].flat());
  return element;
}

function percent(share) {
  return share < 0.0005 ? "0 %" : `${Number((100 * share).toPrecision(2))} %`;
}

// The question.

const split = (string) => string.split(/[,，、;；\n]/).map((word) => word.trim()).filter(Boolean);

function weighted(word) {
  const [, name, weight] = /^(.+?)\s*\*\s*([\d.]+)$/.exec(word) ?? [];
  return name ? { word: name, weight: Number(weight) } : word;
}

function question() {
  const isCloze = MARKER.test(text.value);
  const lists = $("choices").value.split("\n").map(split).filter((list) => list.length);
  const shared = {
    top_k: 5,
    history: $("history").value,
    lexicon: split($("lexicon").value).map(weighted),
    block: split($("block").value),
  };
  const own = isCloze
    ? { text: text.value, choices: lists.length > 1 ? lists : (lists[0] ?? []), fillings: 3 }
    : { text: before() };
  const given = Object.entries({ ...own, ...shared }).filter(
    ([name, value]) => name === "text" || value.length !== 0,
  );
  return { path: isCloze ? "cloze" : "predict", body: Object.fromEntries(given) };
}

async function ask() {
  paint();
  if (composing) return;
  const { path, body } = question();
  const now = JSON.stringify([path, body, $("key").value]);
  if (now === asked) return; // a moved caret, or a field that changes nothing
  asked = now;
  asking.abort();
  const { signal } = (asking = new AbortController());
  const began = performance.now();
  try {
    const coming = client()[path](body.text, { ...body, user }, { signal });
    showRequest();
    const found = await coming;
    if (signal.aborted) return;
    const [result] = found.results;
    cloze = path === "cloze" ? { text: body.text, ...result } : null;
    answer = { before: body.text, candidates: [], ...(cloze ? {} : result) };
    show();
    $("model").textContent = `${found.model.name} ${found.model.version}`;
    $("problem").textContent = "";
    showTiming(found.timing, performance.now() - began);
    if (!cloze && Object.keys(offered).length) await askMore(body, signal);
  } catch (error) {
    if (!signal.aborted) complain(error);
  }
}

/** Ask for a longer ghost and for letters. They take longer, so suggestions do not wait for them. */
async function askMore(body, signal) {
  const options = { ...body, ...offered, top_k: 1, user };
  const [{ candidates, letters }] = (await client().predict(body.text, options, { signal })).results;
  if (signal.aborted) return;
  answer.candidates.splice(0, candidates.length, ...candidates);
  paint();
  showLetters(letters);
}

function complain(error) {
  const isLocked = error.status === 401;
  if (isLocked) $("locked").hidden = false;
  if (!(error instanceof Problem)) console.error(error);
  const detail = error instanceof Problem ? `${error.status} · ${error.message}` : t("offline");
  $("problem").textContent = isLocked && !$("key").value ? t("locked") : detail;
  asked = ""; // the same question may be asked again
  showRequest();
}

// Suggestions.

const before = () => text.value.slice(0, text.selectionStart);

/** Return what *append* adds to the text as it is now, which may be longer than it was. */
function rest({ append }) {
  const [now, whole] = [before(), answer.before + append];
  return now.startsWith(answer.before) && whole.startsWith(now) ? whole.slice(now.length) : "";
}

function ghost() {
  const isAtEnd = text.selectionStart === text.value.length;
  if (composing || dismissed || !isAtEnd) return "";
  return answer.candidates.map(rest).find(Boolean) ?? "";
}

/** Return the first word of *string* with the space before it. */
function firstWord(string) {
  let taken = "";
  const words = new Intl.Segmenter(LANGUAGES[language], { granularity: "word" });
  for (const { segment, isWordLike } of words.segment(string)) {
    taken += segment;
    if (isWordLike) break;
  }
  return taken;
}

function insert(added) {
  text.focus();
  // The command keeps the history of undo. Nothing else does.
  if (added && !document.execCommand("insertText", false, added)) {
    text.setRangeText(added, text.selectionStart, text.selectionEnd, "end");
    text.dispatchEvent(new Event("input"));
  }
}

function paint() {
  const [typed, ghostly] = $("mirror").children;
  typed.textContent = text.value;
  // The last line is as high as any other, even if it is empty.
  ghostly.textContent = ghost() || "\u200b";
}

function chips(origins = {}) {
  const shares = Object.entries(origins).filter(([, share]) => share >= 0.005);
  shares.sort(([, one], [, other]) => other - one);
  return shares.map(([name, share]) =>
    make("span", `${t(name)} ${percent(share)}`, { className: `chip ${name}` }),
  );
}

function makeSlot(_, index) {
  const parts = ["kbd", "b", "i", "span", "small"].map((tag) => make(tag));
  const [digit, word, bar, share, origins] = parts;
  const button = make("button", parts, { type: "button", onclick: () => pick(index) });
  digit.textContent = index + 1;
  button.setAttribute("aria-keyshortcuts", `Alt+${index + 1}`);
  const item = make("li", button, { hidden: true });
  const fill = (candidate) => {
    item.hidden = !candidate;
    if (!candidate) return;
    word.textContent = candidate.word;
    share.textContent = percent(candidate.probability);
    bar.style.setProperty("--share", candidate.probability);
    origins.replaceChildren(...chips(candidate.origins));
  };
  return { item, fill };
}

function pick(index) {
  const candidate = answer.candidates[index];
  if (candidate) insert(rest(candidate.steps?.[0] ?? candidate));
}

function show() {
  slots.forEach(({ fill }, index) => fill(answer.candidates[index]));
  strip.hidden = Boolean(cloze);
  paint();
  showBlanks();
  if (cloze) showLetters();
  clearTimeout(speech);
  speech = setTimeout(() => {
    const spoken = ghost() && `${t("suggestion")}: ${answer.candidates[0].word}`;
    $("status").textContent = cloze ? cloze.filled : spoken;
  }, SPEAK_AFTER_MS);
}

function showLetters({ next = [], end } = {}) {
  const likely = next.filter(({ probability }) => probability >= 0.001).slice(0, 10);
  const keys = likely.map(({ letter, probability }) => {
    const shown = [letter === " " ? "␣" : letter, make("small", percent(probability))];
    const key = make("button", shown, { type: "button", onclick: () => insert(letter) });
    key.style.setProperty("--share", probability);
    return key;
  });
  $("letters").hidden = !keys.length;
  $("letters").replaceChildren(...keys, make("span", `${t("end")} ${percent(end)}`));
}

// Blanks.

function showBlanks() {
  $("blanks").hidden = !cloze;
  if (!cloze) return;
  const points = Array.from(cloze.text);
  let done = 0;
  const parts = [];
  for (const [index, blank] of cloze.blanks.entries()) {
    const options = blank.candidates.map(({ word, probability }) =>
      make("option", `${word} · ${percent(probability)}`, { value: word }),
    );
    const select = make("select", options, { onchange: showPicked });
    select.setAttribute("aria-label", `${t("blank")} ${index + 1}`);
    const best = cloze.fillings?.[0]?.words[index];
    if (blank.candidates.some(({ word }) => word === best)) select.value = best;
    parts.push(points.slice(done, blank.start).join(""), select);
    done = blank.end;
  }
  $("sentence").replaceChildren(...parts, points.slice(done).join(""));
  showPicked();
}

function showPicked() {
  const selects = [...$("sentence").querySelectorAll("select")];
  const rows = selects.map((select, index) => {
    const candidate = cloze.blanks[index].candidates[select.selectedIndex];
    return candidate && make("li", [make("b", candidate.word), ...chips(candidate.origins)]);
  });
  $("picked").replaceChildren(...rows.filter(Boolean));
}

function useFilled() {
  const parts = [...$("sentence").childNodes];
  const filled = parts.map((part) => part.value ?? part.textContent).join("");
  text.select();
  insert(filled);
}

// Timing and the request as code.

function showTiming({ queue = 0, inference = 0 }, trip) {
  const ms = queue + inference;
  // Without keys the service rounds up to tens of milliseconds.
  const engine = ms % 10 === 0 ? `≤ ${ms}` : ms.toFixed(1);
  $("timing").textContent = `${t("model")} ${engine} ms · ${t("trip")} ${trip.toFixed(1)} ms`;
}

function python(value) {
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const pairs = Object.entries(value).map(([name, each]) => `"${name}": ${python(each)}`);
  return `{${pairs.join(", ")}}`;
}

const WRITERS = {
  curl: (url, body, isLocked) => {
    const data = JSON.stringify(body).replaceAll("'", "'\\''");
    const key = isLocked ? ' \\\n  -H "Authorization: Bearer $LACUNA_KEY"' : "";
    return `curl -fsS '${url}' -H 'Content-Type: application/json'${key} \\\n  -d '${data}'`;
  },
  Python: (url, body, isLocked) => {
    const key = isLocked ? ', "Authorization": "Bearer " + os.environ["LACUNA_KEY"]' : "";
    return `import json${isLocked ? ", os" : ""}, urllib.request

body = ${python(body)}
headers = {"Content-Type": "application/json"${key}}
request = urllib.request.Request("${url}", json.dumps(body).encode(), headers)
print(json.load(urllib.request.urlopen(request)))`;
  },
  JavaScript: (url, { text: asked, ...options }, isLocked) => {
    const write = (value) => JSON.stringify(value).replaceAll("<", "\\u003c");
    const [base, path] = [new URL(".", url), url.pathname.split("/").at(-1)];
    const key = isLocked ? ", { key: process.env.LACUNA_KEY }" : "";
    return `import { Lacuna } from "./lacuna.js"; // ${base}lacuna.js

const lacuna = new Lacuna("${base}"${key});
console.log(await lacuna.${path}(${write(asked)}, ${write(options)}));`;
  },
};

function showRequest() {
  const { path, body } = question();
  $("code").textContent = WRITERS[kind](new URL(path, location.href), body, !$("locked").hidden);
}

async function copyRequest() {
  getSelection().selectAllChildren($("code"));
  try {
    await navigator.clipboard.writeText($("code").textContent);
  } catch { // outside localhost and TLS, or not allowed
    document.execCommand("copy");
  }
  $("copy").textContent = $("status").textContent = t("copied");
}

// The page.

function speakLanguage(chosen) {
  language = chosen;
  document.documentElement.lang = LANGUAGES[language];
  const other = LANGUAGES[1 - language];
  Object.assign($("language"), { textContent: language ? "English" : "中文", lang: other });
  for (const element of document.querySelectorAll("[data-t], [data-label], [data-hint]")) {
    const { t: content, label, hint } = element.dataset;
    if (content) element.textContent = t(content);
    if (label) element.setAttribute("aria-label", t(label));
    if (hint) element.placeholder = t(hint);
  }
  const buttons = EXAMPLES[language].map((example) =>
    make("button", example[0], { type: "button", onclick: () => load(example) }),
  );
  $("examples").replaceChildren(...buttons);
}

function load([, example, fields = {}]) {
  for (const id of ["history", "lexicon", "block", "choices"]) $(id).value = fields[id] ?? "";
  text.value = example;
  text.focus();
  text.setSelectionRange(example.length, example.length);
  dismissed = false;
  ask();
}

function onKey(event) {
  if (event.isComposing || event.keyCode === 229) return; // keys of an input method
  const { key, altKey, ctrlKey, metaKey, shiftKey } = event;
  const [, digit] = /^Digit([1-5])$/.exec(event.code) ?? [];
  const suggestion = ghost();
  if (altKey && digit && !ctrlKey && !metaKey) {
    pick(digit - 1);
  } else if (altKey || ctrlKey || metaKey || shiftKey || !suggestion || event.target !== text) {
    return;
  } else if (key === "Tab") insert(suggestion);
  else if (key === "ArrowRight") insert(firstWord(suggestion));
  else if (key === "Escape") {
    dismissed = true;
    paint();
  } else return;
  event.preventDefault();
}

function chooseKind(chosen) {
  kind = chosen;
  for (const button of $("kinds").querySelectorAll("[aria-pressed]"))
    button.setAttribute("aria-pressed", button.textContent === kind);
  $("copy").textContent = t("copy");
  showRequest();
}

function listen() {
  $("language").onclick = () => {
    const isExample = EXAMPLES[language].some(([, example]) => example === text.value);
    speakLanguage(1 - language);
    if (isExample) load(EXAMPLES[language][0]);
    else show();
  };
  $("use").onclick = useFilled;
  $("copy").onclick = copyRequest;
  document.addEventListener("keydown", onKey);
  document.addEventListener("selectionchange", () => document.activeElement === text && ask());
  document.addEventListener("input", () => {
    dismissed = false;
    ask();
  });
  for (const type of ["compositionstart", "compositionend"])
    text.addEventListener(type, () => {
      composing = type === "compositionstart";
      asking.abort();
      asked = "";
      ask();
    });
}

async function start() {
  strip.append(...slots.map(({ item }) => item));
  const kinds = Object.keys(WRITERS).map((name) =>
    make("button", name, { type: "button", ariaPressed: "false", onclick: () => chooseKind(name) }),
  );
  $("kinds").prepend(...kinds);
  speakLanguage(navigator.language.startsWith("zh") ? 1 : 0);
  listen();
  const contract = await fetch("openapi.json").then((response) => response.json(), () => ({}));
  const fields = contract.components?.schemas.PredictRequest.properties ?? {};
  offered = Object.fromEntries(Object.entries(MORE).filter(([name]) => name in fields));
  load(EXAMPLES[language][0]);
  chooseKind("curl");
}

start();
