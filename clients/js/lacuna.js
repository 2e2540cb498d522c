// A client of a Lacuna service: one module without dependencies, for browsers, Node, Deno and Bun.
//
//   import { Lacuna } from "./lacuna.js";
//   const lacuna = new Lacuna("http://127.0.0.1:8000");
//   const { results } = await lacuna.predict("go to the theat", { top_k: 3 });

const LONGEST_WAIT_SECONDS = 30; // for one retry, whatever Retry-After says

/** An error that the service answered: a problem document (RFC 9457). It holds no text of yours. */
export class Problem extends Error {
  /** @param {number} status @param {object} document @param {number} retryAfter seconds, or NaN */
  constructor(status, document, retryAfter) {
    super(document.detail ?? `the service answered ${status}`);
    Object.assign(this, { name: "Problem", status, retryAfter });
    this.requestId = document.request_id ?? "";
    this.errors = document.errors ?? []; // [{pointer, detail}]: which fields are wrong
  }
}

/** Asks one service. Options of questions are the fields of the HTTP contract (docs/http.md). */
export class Lacuna {
  #base;
  #options;

  /**
   * @param {string | URL} base address of the service
   * @param {{key?: string, retries?: number, fetch?: typeof fetch}} options an API key; how often a
   *   question that gets 429 or 503 is sent again, after `Retry-After`
   */
  constructor(base, { key = "", retries = 2, fetch = globalThis.fetch } = {}) {
    this.#base = String(base).replace(/\/*$/, "/");
    this.#options = { key, retries, fetch };
  }

  /** Predict the next word, or the rest of the word that the text stops in. */
  predict(text, options, call) {
    return this.#send("predict", { ...options, text }, call);
  }

  /** Fill the blanks of a text, openly or from `choices`. */
  cloze(text, options, call) {
    return this.#send("cloze", { ...options, text }, call);
  }

  /** Compute the probability of a text, perhaps after a `context`. */
  score(text, options, call) {
    return this.#send("score", { ...options, text }, call);
  }

  /** Describe the checkpoint that answers, and the limits of a request. */
  model(call) {
    return this.#send("model", undefined, call);
  }

  /**
   * @param {{signal?: AbortSignal}} call aborts the request, and the wait before the next try
   * @returns the answer, and `timing`: milliseconds by name, as `Server-Timing` has them
   */
  async #send(path, body, { signal } = {}) {
    const { key, retries, fetch } = this.#options;
    const headers = { Accept: "application/json" };
    if (body) headers["Content-Type"] = "application/json";
    if (key) headers.Authorization = `Bearer ${key}`;
    const method = body ? "POST" : "GET";
    const request = { method, headers, body: body && JSON.stringify(body), signal };
    for (let left = retries; ; left -= 1) {
      const response = await fetch(this.#base + path, { ...request, credentials: "omit" });
      if (response.ok) return { ...(await response.json()), timing: timing(response.headers) };
      const seconds = Number.parseFloat(response.headers.get("Retry-After") ?? "");
      if (left <= 0 || (response.status !== 429 && response.status !== 503)) {
        const document = await response.json().catch(() => ({}));
        throw new Problem(response.status, document, seconds);
      }
      await response.body?.cancel();
      await pause(Math.min(seconds || 1, LONGEST_WAIT_SECONDS), signal);
    }
  }
}

function timing(headers) {
  const parts = (headers.get("Server-Timing") ?? "").matchAll(/([\w-]+);dur=([\d.]+)/g);
  return Object.fromEntries(Array.from(parts, ([, name, ms]) => [name, Number(ms)]));
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => (clearTimeout(timer), reject(signal.reason));
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, 1000 * seconds);
    signal?.addEventListener("abort", stop, { once: true });
    if (signal?.aborted) stop();
  });
}
