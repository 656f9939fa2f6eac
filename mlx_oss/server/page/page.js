// The chat page: conversations are kept here, in the browser; the server answers, and turns Markdown into HTML.
//
// A conversation is {id, title, created, updated, revision, model, instructions, effort, off, turns}; `off` names tools
// that are turned off. A turn is {id, question, answers, shown}, an answer {parts, reason, usage, sources, problem}, and
// a part {kind, text, ...} as the server takes it. What models, tools and users wrote becomes text of the document; only
// the server's HTML is parsed, which has no scripts in it.

const $ = (id) => document.getElementById(id);
const count = (value) => Math.round(value).toLocaleString("en");
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const newId = () => crypto.getRandomValues(new Uint32Array(4)).join("-"); // randomUUID is for secure addresses only

/**
 * Makes an element.
 * @param {string} tag its name and classes, such as "div.code.wide"
 * @param {object} [properties] properties; `on` has listeners, `aria` and `data` attributes
 * @param {...(Node|string)} children
 */
function make(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const { on = {}, aria = {}, data = {}, ...rest } = properties;
  const element = Object.assign(document.createElement(name), rest);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, listener] of Object.entries(on)) element.addEventListener(key, listener);
  for (const [key, value] of Object.entries(aria)) element.setAttribute(`aria-${key}`, value);
  Object.assign(element.dataset, data);
  element.append(...children);
  return element;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

const iconButton = (name, label, click, kind = "") =>
  make(`button.icon.little${kind}`, { type: "button", title: label, aria: { label }, on: { click } }, icon(name));
const textButton = (label, click, kind = "link") => make(`button.${kind}`, { type: "button", on: { click } }, label);

/** Tells users of screen readers something; what was said before stays for a while. */
function announce(text) {
  $("said").append(make("p", {}, text));
  while ($("said").childElementCount > 6) $("said").firstChild.remove();
}

let toastTimer;
/** Shows a short message, perhaps with something to do about it. */
function toast(text, action = null) {
  clearTimeout(toastTimer);
  const box = make("div", {}, text);
  if (action) box.append(textButton(action.label, () => { $("toast").replaceChildren(); action.run(); }, "undo"));
  $("toast").replaceChildren(box);
  toastTimer = setTimeout(() => $("toast").replaceChildren(), action ? 10_000 : 5_000);
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // old browsers, and addresses that are not secure
    const field = make("textarea.unseen", { value: text });
    button.after(field);
    field.select();
    const isCopied = document.execCommand("copy");
    field.remove();
    button.focus();
    if (!isCopied) return toast("The browser does not let this page copy: select the text and copy it.");
  }
  if (!button.classList.contains("copy")) return toast("Copied");
  announce("Copied");
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1_500);
}

// ---- What the browser keeps -----------------------------------------------------------------------------------------

const settings = {
  get: (name, usual) => {
    try { return JSON.parse(localStorage.getItem(`mlx-oss-${name}`)) ?? usual; } catch { return usual; }
  },
  set: (name, value) => {
    try { localStorage.setItem(`mlx-oss-${name}`, JSON.stringify(value)); } catch { /* it holds for this visit */ }
  },
};

/** Conversations, in an IndexedDB: their heads, which the list needs, apart from their turns. */
class Store {
  /** Opens it. Without a database, conversations live until the page is closed. */
  static async open() {
    const store = new Store();
    store.memory = new Map();
    store.channel = new BroadcastChannel("mlx-oss");
    try {
      const request = indexedDB.open("mlx-oss", 1);
      request.onupgradeneeded = () => ["heads", "turns"].forEach((name) => request.result.createObjectStore(name));
      store.database = await result(request);
      store.database.onversionchange = () => store.database.close();
    } catch {
      store.database = null;
    }
    return store;
  }

  async heads() {
    const kept = this.database ? await result(this.database.transaction("heads").objectStore("heads").getAll()) : [];
    const unkept = [...this.memory.values()].map(headOf);
    return [...kept.filter((head) => !this.memory.has(head.id)), ...unkept].sort((a, b) => b.updated - a.updated);
  }

  /** A conversation, or undefined. */
  async get(id) {
    if (this.memory.has(id)) return structuredClone(this.memory.get(id));
    if (!this.database) return undefined;
    const transaction = this.database.transaction(["heads", "turns"]);
    const [head, turns] = await Promise.all(
      ["heads", "turns"].map((name) => result(transaction.objectStore(name).get(id))));
    return head && turns && { ...head, turns };
  }

  /**
   * Writes a conversation. If another tab has written it since this one read it, both versions are kept.
   * @returns {Promise<string>} "kept", "forked" (it has a new id now), or why it is kept in memory only
   */
  async put(conversation, quiet = false) {
    let outcome = "kept";
    const revision = conversation.revision;
    conversation.revision += 1;
    try {
      if (!this.database) throw new Error("This browser keeps nothing for this page.");
      const transaction = this.database.transaction(["heads", "turns"], "readwrite");
      const heads = transaction.objectStore("heads");
      const before = await result(heads.get(conversation.id));
      if (before && before.revision !== revision) {
        Object.assign(conversation, { id: newId(), title: `${conversation.title} (2)`, revision: 1 });
        outcome = "forked";
      }
      heads.put(headOf(conversation), conversation.id);
      transaction.objectStore("turns").put(conversation.turns, conversation.id);
      await finished(transaction);
      this.memory.delete(conversation.id);
    } catch (error) {
      conversation.revision = revision;
      this.memory.set(conversation.id, structuredClone(conversation));
      outcome = error.name === "QuotaExceededError" ? "The browser's storage is full." : error.message;
    }
    if (!quiet) this.channel.postMessage(conversation.id);
    return outcome;
  }

  async remove(id) {
    this.memory.delete(id);
    if (this.database) {
      const transaction = this.database.transaction(["heads", "turns"], "readwrite");
      ["heads", "turns"].forEach((name) => transaction.objectStore(name).delete(id));
      await finished(transaction);
    }
    this.channel.postMessage(id);
  }
}

const headOf = ({ turns, ...head }) => head;
const result = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});
const finished = (transaction) => new Promise((resolve, reject) => {
  transaction.oncomplete = resolve;
  transaction.onabort = transaction.onerror = () => reject(transaction.error);
});

// ---- The server -----------------------------------------------------------------------------------------------------

/** What the server cannot or will not do; `message` is a sentence for the reader. */
class Refusal extends Error {
  constructor(message, status, wait = 0) {
    super(message);
    Object.assign(this, { status, wait });
  }
}

/** Asks the server. Asks the reader for the key if the server wants one. Raises Refusal, or TypeError if it is away. */
async function ask(path, body, signal) {
  for (;;) {
    const given = key, headers = { "Content-Type": "application/json" };
    if (given) headers.Authorization = `Bearer ${given}`;
    const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    const response = await fetch(path, { ...options, headers, signal, cache: "no-store" });
    if (response.ok) return response;
    if (response.status === 401 && await askForKey(given)) continue;
    const told = await response.json().catch(() => ({}));
    const wait = Number(response.headers.get("Retry-After")) || 0;
    const message = told?.error?.message ?? `The server answers with the status ${response.status}.`;
    throw new Refusal(message, response.status, wait);
  }
}

const askJson = async (path, body, signal) => (await ask(path, body, signal)).json();

/** The events of a stream of the server. It ends with `done` or `error`, or the connection was lost. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
  }
}

let key = settings.get("key", ""), keyQuestion = null;
/** Asks for the key; the same question if several requests need it. False if the reader gives none. */
async function askForKey(rejected) {
  if (key !== rejected) return true;
  keyQuestion ??= openDialog("key");
  const answer = await keyQuestion;
  keyQuestion = null;
  if (answer !== "save") return false;
  key = $("key-text").value.trim();
  settings.set("key", key);
  return true;
}

const htmlOf = new Map(); // what the server made of texts in this visit

/** Asks for the HTML of texts that are not known yet; those that the server does not give stay unknown. */
async function renderAll(texts) {
  const unknown = [...new Set(texts)].filter((text) => text && !htmlOf.has(text));
  while (unknown.length) {
    let size = 0, most = 0;
    while (most < unknown.length && most < 100 && (size += unknown[most].length) < 200_000) most += 1;
    const batch = unknown.splice(0, Math.max(most, 1));
    try {
      const { html } = await askJson("/page/render", { texts: batch });
      batch.forEach((text, place) => htmlOf.set(text, html[place]));
    } catch {
      return; // they are shown as they were written
    }
  }
}

// ---- Conversations as data ------------------------------------------------------------------------------------------

const shownAnswer = (turn) => turn.answers[turn.shown];
/** What the server has to know of the turns before a question. The reasoning of answered ones is not read again. */
const partsBefore = (turns) => turns.flatMap(({ question, answers, shown }) => {
  const parts = answers[shown]?.parts ?? [];
  const isAnswered = parts.some((part) => part.kind === "answer");
  return [{ kind: "question", text: question }, ...parts.filter((part) => part.text || part.kind === "call")
    .filter((part) => !(isAnswered && part.kind === "reasoning"))
    .map(({ kind, text, id, to, channel, result: told }) => ({ kind, text, id, to, channel, result: told }))];
});

const isProse = (part) => part.kind === "answer" || part.kind === "preamble";
const nameOf = (call) => call.to.replace(/^functions\./, "");
const proseOf = (turns) => turns.flatMap((turn) => shownAnswer(turn)?.parts ?? []).filter(isProse)
  .map((part) => part.text);

function titleOf(question) {
  const line = question.trim().split("\n")[0].replace(/\s+/g, " ");
  if (line.length <= 60) return line || "New chat";
  return `${line.slice(0, 58).replace(/\s+\S*$/, "")} …`;
}

/** A conversation as Markdown. */
function toMarkdown(conversation) {
  const fenced = (text, language = "") => {
    const fence = "`".repeat(Math.max(3, ...(text.match(/`+/g) ?? []).map((run) => run.length + 1)));
    return `${fence}${language}\n${text.replace(/\n$/, "")}\n${fence}`;
  };
  const pieces = [`# ${conversation.title}`];
  if (conversation.instructions) pieces.push(`## Instructions`, conversation.instructions);
  for (const turn of conversation.turns) {
    pieces.push("## Question", turn.question, "## Answer");
    for (const part of shownAnswer(turn)?.parts ?? []) {
      if (part.kind === "reasoning") pieces.push(`<details><summary>Reasoning</summary>\n\n${part.text}\n\n</details>`);
      else if (part.kind === "call")
        pieces.push(`Call of \`${nameOf(part)}\`:`, fenced(part.text, part.to === "python" ? "python" : "json"),
          "Result:", fenced(part.result ?? "none"));
      else pieces.push(part.text);
    }
  }
  return `${pieces.join("\n\n")}\n`;
}

// ---- The parts of an answer on the page -----------------------------------------------------------------------------

const template = document.createElement("template");

/** Makes the children of a node like those of another one, and keeps what is equal: selections and focus stay. */
function morph(node, fresh) {
  const old = [...node.childNodes], wanted = [...fresh.childNodes];
  wanted.forEach((child, place) => {
    const here = old[place];
    if (!here) node.append(child);
    else if (here.isEqualNode(child)) return;
    else if (here.nodeType === Node.TEXT_NODE && child.nodeType === Node.TEXT_NODE) {
      if (child.data.startsWith(here.data)) here.appendData(child.data.slice(here.length));
      else here.data = child.data;
    } else if (here.cloneNode().isEqualNode(child.cloneNode())) morph(here, child);
    else here.replaceWith(child);
  });
  old.slice(wanted.length).forEach((child) => child.remove());
}

/** An answer or a preamble, as the server's HTML. */
class Prose {
  constructor(part) {
    this.part = part;
    this.blocks = [];
    this.element = make(`div.prose.${part.kind}`);
    if (htmlOf.has(part.text)) this.show(0, htmlOf.get(part.text));
    else if (part.text) this.element.append(make("p.plain-text", {}, part.text));
  }

  show(index, html) {
    template.innerHTML = html;
    this.blocks[index] = html;
    while (this.element.childElementCount <= index) this.element.append(make("div"));
    morph(this.element.children[index], template.content);
  }

  end() {
    if (this.blocks.length) htmlOf.set(this.part.text, this.blocks.join(""));
  }
}

/** Reasoning, folded. */
class Reasoning {
  constructor(part) {
    this.part = part;
    this.name = make("span.name");
    this.body = make("div.reasoning", {}, part.text);
    this.element = make("details.fold", {}, make("summary", {}, this.name), this.body);
    this.started = performance.now();
    this.tell();
  }

  add(text) {
    this.part.text += text;
    this.body.append(text);
    if (this.body.childNodes.length > 200) this.body.normalize();
  }

  tell() {
    const { seconds } = this.part;
    this.element.classList.toggle("running", seconds === undefined);
    this.name.textContent = seconds === undefined ? "Reasoning …"
      : seconds < 1 ? "Reasoned briefly" : `Reasoned for ${count(seconds)} s`;
  }

  end() {
    this.part.seconds ??= Math.round((performance.now() - this.started) / 1_000);
    this.tell();
  }
}

/** A call of a tool, with the question whether it may run, and its result. */
class Call {
  constructor(part) {
    this.part = part;
    this.state = make("span");
    this.element = make("details.fold.call", {},
      make("summary", {}, make("code", {}, nameOf(part)), this.state));
    if (part.shown) this.element.append(make("h3", {}, "Call"), make("pre", { tabIndex: 0 }, part.shown));
  }

  /** Asks whether the call may run. */
  ask(decide) {
    const name = nameOf(this.part);
    const answer = (run, always) => {
      this.question.remove();
      this.element.classList.remove("asks");
      this.element.open = false;
      this.state.textContent = run ? "is running …" : "";
      $("question").focus();
      decide(run, always);
    };
    const text = `May ${name} run?`;
    this.question = make("div.ask", { role: "group", aria: { label: text } }, make("p", {}, text),
      textButton("Don’t run", () => answer(false, false), "plain"),
      textButton("Always run", () => answer(true, true), "plain"),
      textButton("Run", () => answer(true, false), "main"));
    this.element.classList.add("asks");
    this.element.open = true;
    this.state.textContent = "waits for you";
    this.element.append(this.question);
    // The focus stays: an Enter that was meant for something else must not run anything.
    announce(`The model wants to run ${name}. Run and Don’t run are before the field for your question.`);
  }

  end() {
    const { result: told, error } = this.part;
    this.question?.remove();
    this.element.classList.remove("asks");
    this.state.textContent = told === undefined ? "was stopped" : !error ? "ran"
      : error.startsWith("the user refused") ? "was not run" : "failed";
    if (told === undefined) return;
    this.element.append(make("h3", {}, "Result"), make("pre", { tabIndex: 0 }, told.slice(0, 20_000) || "(nothing)"));
  }
}

const viewOf = (part) => new (isProse(part) ? Prose : part.kind === "call" ? Call : Reasoning)(part);

const REASONS = {
  length: "Cut off: there is no room for a longer answer.",
  no_answer: "The model stopped without an answer.",
  repetition: "Cut off: the model repeated itself.",
  tool_calls: "The model stopped at a call that was not run.",
  cancelled: "Stopped.",
  unfinished: "The answer was interrupted.",
  lost: "The connection was lost while the answer was written.",
};
const problemOf = (answer) => answer ? answer.problem ?? REASONS[answer.reason] : "This question has no answer yet.";

function sourcesOf({ sources = [] }) {
  const items = sources.map(({ source, title, number }) => {
    const properties = { href: source, target: "_blank", rel: "noopener noreferrer nofollow" };
    const name = title || source;
    return make("li", {}, `${number} · `, /^https?:/.test(source) ? make("a", properties, name) : name);
  });
  return items.length ? make("ul.sources", { aria: { label: "Sources" } }, ...items) : "";
}

// ---- Answers that are being written ---------------------------------------------------------------------------------

const running = new Map(); // by the id of their conversation

/** One answer, from the question to its end. It goes on while the reader looks at another conversation. */
class Run {
  constructor(conversation, turn) {
    Object.assign(this, { conversation, turn, views: [], said: 0, aborter: new AbortController() });
    this.answer = { parts: [], reason: "unfinished" };
    turn.shown = turn.answers.push(this.answer) - 1;
    this.state = make("div.state");
    this.body = make("div", {}, this.state);
    this.wait("");
  }

  async start() {
    const { conversation, turn, answer, aborter: { signal } } = this;
    running.set(conversation.id, this);
    save(conversation);
    const keeping = setInterval(() => save(conversation, true), 1_000);
    const { id, model, instructions, effort } = conversation;
    const parts = [...partsBefore(conversation.turns.slice(0, -1)), { kind: "question", text: turn.question }];
    const asked = { conversation: id, parts, model, instructions, effort, tools: toolsOf(conversation) };
    try {
      for await (const event of eventsOf(await this.response(asked))) this.take(event);
      if (answer.reason === "unfinished") throw new TypeError("the stream has no end");
    } catch (error) {
      if (signal.aborted) answer.reason = "cancelled";
      else if (error instanceof Refusal) Object.assign(answer, { reason: "error", problem: error.message });
      else {
        answer.reason = "lost";
        if (!answer.parts.length) answer.problem = "The server cannot be reached.";
        connection.lost();
      }
    }
    clearInterval(keeping);
    this.end();
  }

  /** The server's response; waits while it has too much to do. */
  async response(asked) {
    for (let tries = 0; ; tries += 1) {
      try {
        return await ask("/page/answer", asked, this.aborter.signal);
      } catch (error) {
        if (!(error instanceof Refusal && error.wait) || tries === 20) throw error;
        for (let left = error.wait; left > 0; left -= 1) {
          this.wait(`The server is busy: trying again in ${left} s`);
          await pause(1_000);
          this.aborter.signal.throwIfAborted();
        }
        this.wait("");
      }
    }
  }

  /** Ends the answer; what was written is kept. The server notices that nobody reads any more. */
  stop() {
    this.aborter.abort();
  }

  wait(text) {
    this.state.replaceChildren(make("span.dots", { aria: { hidden: "true" } }, make("i"), make("i"), make("i")), text);
  }

  /** The view of the last part if it is of this kind, else one of a new part. */
  view(kind, data = {}) {
    const last = this.views.at(-1);
    if (last?.part.kind === kind && kind !== "call") return last;
    if (last instanceof Reasoning) last.end();
    const part = { kind, text: "", ...data };
    this.answer.parts.push(part);
    const view = viewOf(part);
    this.views.push(view);
    this.state.before(view.element);
    this.state.replaceChildren();
    return view;
  }

  take(event) {
    if (event.rate) this.rate = event.rate;
    switch (event.type) {
      case "begin":
        this.wait("");
        this.hasBegun = true;
        break;
      case "wait":
        if (!this.hasBegun) this.wait("The model is being loaded, or answers others first");
        break;
      case "reading":
        this.wait(`Reading ${count(event.done)} of ${count(event.total)} tokens`);
        break;
      case "reasoning":
        this.view("reasoning").add(event.text);
        break;
      case "text": {
        const view = this.view(event.kind);
        view.part.text += event.text;
        for (const { index, html, done } of event.blocks) {
          view.show(index, html);
          if (done) this.say(view.element.children[index]);
        }
        break;
      }
      case "call":
        this.call(event);
        break;
      case "result": {
        const view = this.views.find(({ part }) => part.id === event.id);
        Object.assign(view.part, { result: event.text, error: event.error });
        view.end();
        this.wait("");
        break;
      }
      case "note":
        this.state.before(make("div.notice", {}, event.text));
        break;
      case "done":
        Object.assign(this.answer, { reason: event.reason, usage: event.usage, sources: event.sources });
        this.conversation.context = event.context;
        break;
      case "error":
        Object.assign(this.answer, { reason: "error", problem: event.message });
        break;
    }
    if (current === this.conversation) showStats();
  }

  call({ id, to, channel, text, shown, confirm }) {
    const view = this.view("call", { id, to, channel, text, shown });
    view.state.textContent = "is running …";
    if (!confirm) return;
    const decide = (run) => askJson("/page/confirm", { key: confirm, run }).catch((error) => toast(error.message));
    if (approved.has(this.conversation.id + to)) decide(true);
    else view.ask((run, isAlways) => {
      if (isAlways) approved.add(this.conversation.id + to);
      decide(run);
    });
  }

  /** Lets screen readers say a block when it is whole, up to a length that one can listen to. */
  say(block) {
    if (current !== this.conversation || this.said > 1_500) return;
    const code = block.querySelector("pre code");
    const text = code ? `Code, ${code.textContent.split("\n").length - 1} lines.` : block.textContent.trim();
    this.said += text.length;
    announce(this.said > 1_500 ? `${text.slice(0, 600)} The answer goes on.` : text);
  }

  end() {
    const { conversation, answer } = this;
    for (const view of this.views) if (view.part.result === undefined) view.end();
    this.state.remove();
    running.delete(conversation.id);
    save(conversation);
    if (current === conversation) {
      if (this.body.isConnected) thread.complete(this.body.parentElement, this.turn);
      announce(problemOf(answer) ?? "The answer is complete.");
    }
    showAll();
  }
}

const approved = new Set(); // tools of conversations that need not ask again, until the page is closed

// ---- The thread -----------------------------------------------------------------------------------------------------

const SHOWN = 40; // turns; earlier ones are shown when the reader asks for them

/** The conversation on the page. */
const thread = {
  first: 0, // index of the first turn that is shown

  show(conversation) {
    const { turns } = conversation;
    this.first = Math.max(0, turns.length - SHOWN);
    $("thread").replaceChildren(...this.earlier(), ...turns.slice(this.first).map((turn) => this.turn(turn)));
    if (!turns.length) $("thread").append(this.welcome());
    this.follow(true);
  },

  welcome() {
    const { models = [], notes = {} } = server.state ?? {};
    const model = models.includes(current.model) ? current.model : models[0], note = notes[model];
    return make("div.empty", {}, icon("mark"),
      make("h2", {}, model ? `${model} is ready` : "mlx-oss"),
      make("p", {}, note || "It runs on the computer that serves this page, not in a cloud."));
  },

  earlier() {
    if (!this.first) return [];
    return [textButton(`Show ${Math.min(SHOWN, this.first)} earlier questions`, async (event) => {
      const button = event.currentTarget, from = Math.max(0, this.first - SHOWN);
      button.disabled = true;
      await renderAll(proseOf(current.turns.slice(from, this.first)));
      if (!button.isConnected) return; // the reader has gone on
      const { scrollHeight, scrollTop } = $("scroller");
      const turns = current.turns.slice(from, this.first).map((turn) => this.turn(turn));
      this.first = from;
      $("thread").firstChild.remove();
      $("thread").prepend(...this.earlier(), ...turns);
      $("scroller").scrollTop = scrollTop + $("scroller").scrollHeight - scrollHeight;
      turns[0]?.querySelector("button")?.focus({ preventScroll: true });
    }, "pill.earlier")];
  },

  element: (turn) => $("thread").querySelector(`[data-turn="${turn.id}"]`),

  turn(turn) {
    return make("section.turn", { aria: { label: titleOf(turn.question) }, data: { turn: turn.id } },
      this.question(turn), this.answer(turn));
  },

  question(turn) {
    const copying = iconButton("copy", "Copy the question", (event) => copy(turn.question, event.currentTarget));
    const editing = iconButton("edit", "Edit the question", () => this.edit(turn, box), ".edit");
    const box = make("div.question", {}, make("h2.unseen", {}, "Question"), make("div.bubble", {}, turn.question),
      make("div.actions", {}, copying, editing));
    return box;
  },

  answer(turn) {
    const run = running.get(current.id);
    const box = make("div.answer", {}, make("h2.unseen", {}, "Answer"));
    if (run?.turn === turn) {
      box.append(run.body);
      return box;
    }
    const views = (shownAnswer(turn)?.parts ?? []).map(viewOf);
    views.forEach((view) => view.end());
    box.append(make("div", {}, ...views.map((view) => view.element)));
    this.complete(box, turn);
    return box;
  },

  /** Adds what stands below an answer that is not being written. */
  complete(box, turn) {
    const answer = shownAnswer(turn), isLast = turn === current.turns.at(-1), problem = problemOf(answer);
    const actions = make("div.actions");
    if (answer) {
      const text = answer.parts.filter((part) => part.kind === "answer").map((part) => part.text).join("\n\n");
      if (text) actions.append(iconButton("copy", "Copy the answer", (event) => copy(text, event.currentTarget)));
      if (isLast) actions.append(iconButton("retry", "Answer again", () => retry(turn)));
      actions.append(iconButton("fork", "Continue from here in a new chat", () => fork(turn)));
      if (turn.answers.length > 1) actions.append(...this.versions(turn));
      if (answer.usage) actions.append(make("span.cost", {}, costOf(answer.usage)));
      box.append(sourcesOf(answer));
    }
    if (problem) {
      const kind = !answer || REASONS[answer.reason] && !answer.problem ? "" : ".bad";
      box.append(make(`div.notice${kind}`, {}, make("span", {}, problem), textButton("Try again", () => retry(turn))));
    }
    box.append(actions);
  },

  versions(turn) {
    const go = (step) => {
      turn.shown += step;
      save(current);
      const box = this.answer(turn);
      this.element(turn).querySelector(".answer").replaceWith(box);
      box.querySelector(step < 0 ? ".back:enabled, .on-again" : ".on-again:enabled, .back")?.focus();
      announce(`Answer ${turn.shown + 1} of ${turn.answers.length}`);
    };
    const isLast = turn === current.turns.at(-1);
    const back = iconButton("left", "Earlier answer", () => go(-1), ".back");
    const next = iconButton("right", "Later answer", () => go(1), ".on-again");
    back.disabled = !isLast || turn.shown === 0;
    next.disabled = !isLast || turn.shown === turn.answers.length - 1;
    return [back, make("span.which", {}, `${turn.shown + 1} / ${turn.answers.length}`), next];
  },

  edit(turn, box) {
    const field = make("textarea", { value: turn.question, rows: 1, aria: { label: "The question" } });
    const close = () => {
      const fresh = this.question(turn);
      box.replaceWith(fresh);
      return fresh;
    };
    const cancel = () => close().querySelector(".edit").focus();
    const send = () => {
      if (!field.value.trim()) return;
      close();
      edit(turn, field.value);
    };
    const keydown = (event) => {
      if (event.key === "Escape") { event.stopPropagation(); cancel(); }
      if (isSend(event)) { event.preventDefault(); send(); }
    };
    field.addEventListener("keydown", keydown);
    field.addEventListener("input", () => fit(field));
    box.classList.add("editing");
    box.replaceChildren(make("div.editor", {}, field,
      make("div.buttons", {}, textButton("Cancel", cancel, "plain"), textButton("Send", send, "main"))));
    fit(field);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  },

  /** Puts a new turn at the end. */
  add(turn) {
    $("thread").querySelector(".empty")?.remove();
    const before = $("thread").querySelector(".turn:last-child .answer .actions");
    before?.querySelector("[aria-label='Answer again']")?.remove();
    before?.querySelectorAll(".back, .on-again").forEach((button) => { button.disabled = true; });
    $("thread").append(this.turn(turn));
    this.follow(true);
  },

  isFollowing: true,

  /** Goes to the end, and stays there while the answer grows. */
  follow(now = false) {
    if (now) this.isFollowing = true;
    if (this.isFollowing) $("scroller").scrollTop = $("scroller").scrollHeight;
    $("to-end").hidden = this.isFollowing;
  },
};

const speedOf = (speed) => `${speed.toLocaleString("en", { maximumFractionDigits: 1 })} tokens/s`;
const costOf = ({ tokens_per_second: speed, generated_tokens: tokens }) =>
  [...(speed ? [speedOf(speed)] : []), `${count(tokens)} tokens`].join(" · ");

// ---- What the reader does -------------------------------------------------------------------------------------------

const server = { state: null };
let store, current;

function newConversation() {
  const { off = [], model = null, ...usual } = settings.get("usual", {});
  const effort = usual.effort ?? server.state?.effort ?? "medium";
  const instructions = usual.instructions || server.state?.instructions || "";
  const now = Date.now();
  return { id: newId(), title: "New chat", created: now, updated: now, revision: 0, turns: [],
    effort, off, instructions, model };
}

/** Changes options of the conversation, and of new ones. */
function change(options) {
  Object.assign(current, options);
  settings.set("usual", { ...settings.get("usual", {}), ...options });
  save(current);
}

const toolsOf = ({ off }) => (server.state?.tools ?? []).map((tool) => tool.name).filter((name) => !off.includes(name));

let saving = Promise.resolve(), isWarned = false;
/** Keeps a conversation as it is now, after the changes before. Other tabs show it, unless this is `quiet`. */
function save(conversation, quiet = false) {
  if (!conversation.turns.length) return saving;
  const copied = structuredClone(conversation);
  saving = saving.then(async () => {
    const { id } = conversation;
    const outcome = await store.put(Object.assign(copied, { id, revision: conversation.revision }), quiet);
    conversation.revision = copied.revision;
    if (outcome === "forked") {
      Object.assign(conversation, { id: copied.id, title: copied.title });
      if (running.get(id)?.conversation === conversation) running.set(copied.id, running.get(id));
      running.delete(id);
      if (current === conversation) history.replaceState(null, "", `#c/${copied.id}`);
      toast("This conversation was changed in another tab: yours is kept as a copy.");
    } else if (outcome !== "kept" && !isWarned) {
      isWarned = true;
      toast(`${outcome} This conversation is lost when the page is closed: export it, or delete others.`);
    }
    if (!quiet) await showList();
  });
  return saving;
}

async function open(id) {
  const conversation = running.get(id)?.conversation ?? (id ? await store.get(id) : null);
  current = conversation ?? newConversation();
  if (id && !conversation) history.replaceState(null, "", "#");
  await renderAll(proseOf(current.turns.slice(-SHOWN)));
  if (current !== conversation && conversation) return; // the reader has gone on
  thread.show(current);
  showAll();
}

const goTo = (id) => { location.hash = id ? `c/${id}` : ""; };
const idInAddress = () => location.hash.match(/^#c\/([\w-]+)$/)?.[1] ?? null;

function newChat() {
  if (idInAddress()) goTo("");
  else open(null);
  if (isNarrow()) showSidebar(false);
  $("question").focus();
}

function send(question) {
  const turn = { id: newId(), question, answers: [], shown: 0 };
  if (!current.turns.length) {
    current.title = titleOf(question);
    history.pushState(null, "", `#c/${current.id}`);
  }
  current.turns.push(turn);
  current.updated = Date.now();
  answer(turn);
}

/** Lets the model answer the last turn. */
function answer(turn) {
  const run = new Run(current, turn);
  run.start();
  const shown = thread.element(turn);
  if (shown) shown.querySelector(".answer").replaceWith(thread.answer(turn));
  else thread.add(turn);
  thread.follow(true);
  showAll();
  announce("The question was sent.");
}

function retry(turn) {
  if (running.has(current.id)) return;
  if (turn !== current.turns.at(-1)) return edit(turn, turn.question);
  const last = shownAnswer(turn);
  if (last && !last.parts.length) turn.answers.pop(); // there is nothing to keep of it
  answer(turn);
  $("question").focus();
}

/** Asks again with another text. Later turns are taken away, which can be undone. */
function edit(turn, question) {
  if (running.has(current.id)) return toast("Stop the answer first.");
  const place = current.turns.indexOf(turn), later = current.turns.length - place - 1;
  const conversation = current, before = structuredClone(current.turns);
  current.turns = current.turns.slice(0, place);
  [...$("thread").querySelectorAll(".turn")].slice(place - thread.first).forEach((element) => element.remove());
  if (place === 0 && current.title === titleOf(turn.question)) current.title = titleOf(question);
  send(question);
  $("question").focus();
  toast(later ? `${count(later)} later ${later > 1 ? "questions were" : "question was"} taken away.` : "Asked again.", {
    label: "Undo",
    run: async () => {
      running.get(conversation.id)?.stop();
      while (running.has(conversation.id)) await pause(50);
      conversation.turns = before;
      await save(conversation);
      if (current === conversation) open(conversation.id);
    },
  });
}

/** A new conversation with the turns up to this one. */
async function fork(turn) {
  const copied = structuredClone(current);
  copied.turns = copied.turns.slice(0, current.turns.indexOf(turn) + 1);
  Object.assign(copied, { id: newId(), revision: 0, updated: Date.now(),
    title: `${current.title.replace(/ \(fork\)$/, "")} (fork)` });
  await save(copied);
  goTo(copied.id);
  toast("This is a copy; the other conversation stays as it is.");
  $("question").focus();
}

async function remove(id) {
  if (running.has(id)) return toast("Stop the answer first.");
  const conversation = await store.get(id);
  await store.remove(id);
  if (current.id === id) newChat();
  await showList();
  toast("The conversation was deleted.", {
    label: "Undo",
    run: async () => { await store.put(Object.assign(conversation, { revision: 0 })); await showList(); goTo(id); },
  });
  ($("conversations").querySelector("a") ?? $("new-chat")).focus();
}

function exportMarkdown() {
  const address = URL.createObjectURL(new Blob([toMarkdown(current)], { type: "text/markdown" }));
  const name = current.title.replace(/[^\p{L}\p{N} ._-]+/gu, "").trim().slice(0, 60) || "conversation";
  make("a", { href: address, download: `${name}.md` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

// ---- What stands around the thread ----------------------------------------------------------------------------------

function showAll() {
  const run = running.get(current.id);
  if (document.activeElement !== $("title")) $("title").value = current.title;
  $("title").disabled = !current.turns.length;
  $("heading").textContent = current.title;
  document.title = current.turns.length ? `${current.title} – mlx-oss` : "mlx-oss";
  $("export").disabled = !current.turns.length;
  $("open-instructions").classList.toggle("on", Boolean(current.instructions));
  $("send").classList.toggle("stop", Boolean(run));
  $("send").setAttribute("aria-label", run ? "Stop the answer" : "Send");
  $("send").title = run ? "Stop (Esc)" : "Send (Enter)";
  $("send").replaceChildren(icon(run ? "stop" : "send"));
  $("send").disabled = !run && !$("question").value.trim();
  showOptions();
  showStats();
  showList();
}

const EFFORTS = { none: "No reasoning", low: "Brief reasoning", medium: "Medium reasoning", high: "Long reasoning" };

/** What can be chosen, as the server offers it. */
function showOptions() {
  const { efforts = ["medium"], tools = [], models = [] } = server.state ?? {};
  const choose = (select, values, words, chosen) => {
    if (select.dataset.values !== values.join()) // else it may be open just now
      select.replaceChildren(...values.map((value) => make("option", { value }, words[value] ?? value)));
    select.dataset.values = values.join();
    select.value = values.includes(chosen) ? chosen : values[0];
  };
  choose($("effort"), efforts, EFFORTS, current.effort);
  choose($("model"), models, {}, current.model);
  $("model").hidden = !models.length;
  $("model").disabled = models.length < 2;
  $("tools").hidden = !tools.length;
  $("tool-count").textContent = `· ${toolsOf(current).length || "none"}`;
  if ($("tools").open) return;
  $("tool-list").replaceChildren($("tool-list").firstElementChild, ...tools.map(({ name, about, asks }) => {
    const box = make("input", { type: "checkbox", checked: !current.off.includes(name), on: { change: () => {
      change({ off: [...current.off.filter((other) => other !== name), ...(box.checked ? [] : [name])] });
      $("tool-count").textContent = `· ${toolsOf(current).length || "none"}`;
    } } });
    const more = [about, asks ? "asks before each call" : ""].filter(Boolean).join("; ");
    return make("label.check", {}, box, make("span", {}, name, make("small", {}, more)));
  }));
}

function showStats() {
  const run = running.get(current.id), { context } = current;
  const speed = run?.rate ?? current.turns.map((turn) => shownAnswer(turn)?.usage?.tokens_per_second).findLast(Boolean);
  const share = context ? (100 * context.used) / context.limit : 0;
  $("stats").textContent = [
    speed ? speedOf(speed) : "",
    context ? `${share > 0 && share < 1 ? "<1" : count(share)} % of the context` : "",
  ].filter(Boolean).join(" · ");
  $("stats").title = context ? `${count(context.used)} of ${count(context.limit)} tokens` : "";
}

async function showList() {
  const heads = await store.heads(), wanted = $("search").value.trim().toLowerCase();
  const midnight = new Date().setHours(0, 0, 0, 0), day = 86_400_000;
  const age = ({ updated }) => updated >= midnight ? "Today" : updated >= midnight - day ? "Yesterday"
    : updated >= midnight - 7 * day ? "Last seven days" : "Earlier";
  const groups = new Map();
  for (const head of heads.filter(({ title }) => title.toLowerCase().includes(wanted)))
    groups.set(age(head), [...groups.get(age(head)) ?? [], head]);
  const focused = document.activeElement?.closest("#conversations li")?.dataset.id;
  $("conversations").replaceChildren(...[...groups].flatMap(([name, members]) => [make("h2", {}, name),
    make("ul", {}, ...members.map(({ id, title }) => {
      const link = make("a", { href: `#c/${id}`, title }, title);
      if (id === current.id) link.setAttribute("aria-current", "page");
      const item = make("li", { data: { id } }, link, iconButton("delete", `Delete “${title}”`, () => remove(id)));
      item.classList.toggle("current", id === current.id);
      item.classList.toggle("busy", running.has(id));
      return item;
    }))]));
  if (focused) $("conversations").querySelector(`[data-id="${focused}"] a`)?.focus();
}

const isNarrow = () => matchMedia("(max-width: 800px)").matches;

function showSidebar(isOpen) {
  document.body.classList.toggle("no-sidebar", !isOpen);
  $("menu").setAttribute("aria-expanded", String(isOpen));
  const covers = isOpen && isNarrow();
  $("scrim").hidden = !covers;
  $("page").inert = covers;
  if (covers) $("new-chat").focus();
}

/** Opens a dialog; resolves with the value of the button that closed it. */
function openDialog(id) {
  $(id).returnValue = "";
  $(id).showModal();
  return new Promise((resolve) => {
    $(id).addEventListener("close", () => resolve($(id).returnValue), { once: true });
  });
}

async function editInstructions() {
  const { instructions: usual } = settings.get("usual", {});
  $("instructions-text").value = current.instructions;
  $("instructions-always").checked = Boolean(usual);
  if (await openDialog("instructions") !== "save") return;
  current.instructions = $("instructions-text").value.trim();
  const instructions = $("instructions-always").checked ? current.instructions : "";
  settings.set("usual", { ...settings.get("usual", {}), instructions });
  save(current);
  showAll();
}

/** Whether the server is there. */
const connection = {
  isAway: false,
  async refresh() {
    const isFirst = !server.state;
    server.state = await askJson("/page/state");
    if (current.turns.length) return showOptions();
    if (isFirst) current = newConversation();
    thread.show(current);
    showAll();
  },
  async lost() {
    if (this.isAway) return;
    this.isAway = true;
    for (let wait = 1_000; this.isAway; wait = Math.min(wait * 1.5, 10_000)) {
      try {
        await this.refresh();
        this.isAway = false;
        $("banner").hidden = true;
        if (current.turns.length && !running.has(current.id)) open(current.id); // texts may not have been rendered
        return;
      } catch (error) {
        const isRefused = error instanceof Refusal;
        const text = isRefused ? error.message : "The server cannot be reached. It may have been stopped.";
        if ($("banner").hidden) $("banner").replaceChildren(text);
        $("banner").hidden = false;
      }
      await pause(wait);
    }
  },
};

const isSend = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;

function fit(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

function submit() {
  const question = $("question").value;
  if (running.has(current.id) || !question.trim()) return;
  $("question").value = "";
  draft();
  send(question.trim());
}

function draft() {
  fit($("question"));
  $("send").disabled = !running.has(current.id) && !$("question").value.trim();
  try { sessionStorage.setItem("mlx-oss-draft", $("question").value); } catch { /* it is lost on a reload */ }
}

function listen() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const run = running.get(current.id);
    if (run) run.stop();
    else submit();
    $("question").focus();
  });
  $("question").addEventListener("input", draft);
  $("question").addEventListener("keydown", (event) => {
    if (isSend(event)) { event.preventDefault(); submit(); }
    if (event.key === "ArrowUp" && !$("question").value && current.turns.length) {
      event.preventDefault();
      [...$("thread").querySelectorAll(".question .edit")].at(-1)?.click();
    }
  });
  $("new-chat").addEventListener("click", newChat);
  $("search").addEventListener("input", showList);
  $("menu").addEventListener("click", () => showSidebar(document.body.classList.contains("no-sidebar")));
  $("scrim").addEventListener("click", () => showSidebar(false));
  $("conversations").addEventListener("click", (event) => {
    if (event.target.closest("a") && isNarrow()) { showSidebar(false); $("question").focus(); }
  });
  $("title").addEventListener("change", () => {
    current.title = $("title").value.trim() || titleOf(current.turns[0].question);
    save(current);
    showAll();
  });
  $("title").addEventListener("keydown", (event) => { if (isSend(event)) $("question").focus(); });
  $("effort").addEventListener("change", () => change({ effort: $("effort").value }));
  $("model").addEventListener("change", () => {
    change({ model: $("model").value });
    if (!current.turns.length) thread.show(current);
  });
  $("open-instructions").addEventListener("click", editInstructions);
  $("open-help").addEventListener("click", () => openDialog("help"));
  $("export").addEventListener("click", exportMarkdown);
  $("to-end").addEventListener("click", () => { thread.follow(true); $("question").focus(); });
  document.querySelectorAll("dialog button[value=cancel]").forEach((button) =>
    button.addEventListener("click", () => button.closest("dialog").close("cancel")));
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.(".code-head .copy");
    if (button) copy(button.closest(".code").querySelector("code").textContent, button);
    if (!event.target.closest?.("#tools")) $("tools").open = false;
  });
  document.addEventListener("keydown", keydown);
  let top = 0;
  $("scroller").addEventListener("scroll", () => {
    const { scrollHeight, scrollTop, clientHeight } = $("scroller");
    if (scrollHeight - scrollTop - clientHeight < 50) thread.isFollowing = true;
    else if (scrollTop < top) thread.isFollowing = false; // the reader has gone up; the text only grows down
    top = scrollTop;
    $("to-end").hidden = thread.isFollowing;
  }, { passive: true });
  const growing = new ResizeObserver(() => thread.follow());
  [$("thread"), $("scroller")].forEach((element) => growing.observe(element));
  addEventListener("hashchange", () => { if (idInAddress() !== current.id) open(idInAddress()); });
  matchMedia("(max-width: 800px)").addEventListener("change", () => showSidebar(!isNarrow()));
  store.channel.addEventListener("message", async ({ data: id }) => {
    await showList();
    if (id !== current.id || running.has(id) || $("thread").querySelector(".editor") || !await store.get(id)) return;
    const { scrollTop } = $("scroller"), wasFollowing = thread.isFollowing;
    await open(id);
    if (!wasFollowing) $("scroller").scrollTop = scrollTop;
  });
}

function keydown(event) {
  const control = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
  if (event.key === "Escape" && !event.defaultPrevented && !document.querySelector("dialog[open]")) {
    if ($("tools").open) { $("tools").open = false; $("tools").querySelector("summary").focus(); }
    else if (!$("scrim").hidden) { showSidebar(false); $("menu").focus(); }
    else if (event.target !== $("search")) running.get(current.id)?.stop();
  } else if (control && event.shiftKey && key === "o") { event.preventDefault(); newChat(); }
  else if (control && event.shiftKey && key === "s") {
    event.preventDefault();
    showSidebar(document.body.classList.contains("no-sidebar"));
  } else if (control && event.key === "/") { event.preventDefault(); openDialog("help"); }
}

async function begin() {
  if (/Mac|iPhone|iPad/.test(navigator.platform))
    document.querySelectorAll("kbd.mod").forEach((key) => { key.textContent = "⌘"; });
  store = await Store.open();
  current = newConversation();
  listen();
  showSidebar(!isNarrow());
  try { $("question").value = sessionStorage.getItem("mlx-oss-draft") ?? ""; } catch { /* none is kept */ }
  await connection.refresh().catch(() => { connection.lost(); });
  await open(idInAddress());
  draft();
  $("question").focus();
}

begin();
