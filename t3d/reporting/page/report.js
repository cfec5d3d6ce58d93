"use strict";
// Provenance dialog, hints on numbers, and the trajectory viewer. Everything shown is set as text, never as markup.

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function data(id) {
  const found = document.getElementById(id);
  return found ? JSON.parse(found.textContent) : null;
}

const byId = (id) => document.getElementById(id);

// Hints: the same text that screen readers get from the button.

let tipped = null;

function showTip(button) {
  const lines = [...button.querySelectorAll(".detail > span")].map((line) => line.textContent.replace(/^; /, ""));
  if (!lines.length) return;
  const tip = byId("tip");
  tip.replaceChildren(...lines.map((line) => element("div", line)));
  tip.hidden = false;
  tipped = button;
  const at = button.getBoundingClientRect();
  const left = Math.min(at.left, innerWidth - tip.offsetWidth - 8);
  const above = at.top - tip.offsetHeight - 6;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above > 4 ? above : at.bottom + 6}px`;
}

function hideTip() {
  byId("tip").hidden = true;
  tipped = null;
}

function startTips() {
  const cellOf = (event) => event.target.closest && event.target.closest("button.cell");
  document.addEventListener("mouseover", (event) => (cellOf(event) ? showTip(cellOf(event)) : hideTip()));
  document.addEventListener("focusin", (event) => (cellOf(event) ? showTip(cellOf(event)) : hideTip()));
  document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
  // A number that gets the focus may be scrolled into view after that.
  document.addEventListener("scroll", () => tipped && showTip(tipped), true);
}

// Provenance.

const FACTS = [
  ["recipe", "Recipe digest"],
  ["manifest", "Manifest, sha256"],
  ["git_commit", "Commit of the code"],
  ["device", "Device"],
  ["finished", "Finished"],
  ["seconds", "Seconds"],
  ["seeds", "Seeds"],
  ["command", "Command"],
];

function artefact(origin, open) {
  const made = element("details");
  made.open = open;
  made.append(element("summary", origin.artefact));
  const facts = element("dl");
  for (const [key, name] of FACTS) {
    let value = origin[key];
    if (key === "seeds" && value) value = Object.entries(value).map(([k, v]) => `${k} ${v}`).join(", ") || "none";
    const known = value !== undefined;
    facts.append(element("dt", name), element("dd", known ? String(value) : "not here", key));
  }
  made.append(facts);
  return made;
}

function chainsOf(provenance, cell, table) {
  const parts = [element("h3", cell)];
  const found = provenance.cells[cell];
  if (found.missing) return [...parts, element("p", found.missing, "warning")];
  parts.push(element("p", `The score that is here: ${found.accuracy.toFixed(1)} %. At a terminal:`));
  parts.push(element("pre", `t3d trace ${table} --cell ${cell}`));
  for (const [model, chain] of Object.entries(found.chains)) {
    parts.push(element("h4", `${model}: ${chain.length} artefacts, the score first`));
    parts.push(...chain.map((number, place) => artefact(provenance.artefacts[number], place === 0)));
  }
  return parts;
}

function startProvenance() {
  const provenance = data("provenance-data");
  const dialog = byId("provenance");
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.cell");
    if (button) {
      const cells = button.dataset.cells.split(" ");
      const row = button.closest("tr").querySelector('th[scope="row"]').textContent;
      const value = button.querySelector(".value").textContent;
      byId("provenance-title").textContent = `${row}: ${value}, from ${cells.length === 1 ? "one cell" : `${cells.length} cells`}`;
      byId("chains").replaceChildren(...cells.flatMap((cell) => chainsOf(provenance, cell, button.dataset.table)));
      hideTip();
      dialog.showModal();
      dialog.scrollTop = 0;
    } else if (event.target === dialog) {
      dialog.close();
    }
  });
}

// Trajectories.

// Tokens of an answer: {text, special, step, sure}, and the blocks they stand in. Answers end with a block, so a first
// block that the prompt begins is the one that is short.
function unpack(answers, entry, block) {
  const bytes = Uint8Array.from(atob(entry.packed), (character) => character.charCodeAt(0));
  const special = new Set(answers.special);
  const tokens = [];
  for (let at = 0; at < bytes.length; at += 4) {
    const number = bytes[at] + 256 * bytes[at + 1];
    tokens.push({
      text: answers.tokens[number],
      special: special.has(number),
      step: bytes[at + 2],
      sure: bytes[at + 3] / 255,
      counted: at / 4 < entry.length,
    });
  }
  const blocks = [];
  for (let end = tokens.length; end > 0; end -= block) blocks.unshift(tokens.slice(Math.max(0, end - block), end));
  return blocks;
}

// What is done one after the other: a step of a block. Returns [{block, step, of}].
function framesOf(blocks) {
  return blocks.flatMap((tokens, block) => {
    const steps = [...new Set(tokens.map((token) => token.step))].sort((a, b) => a - b);
    return steps.map((step, place) => ({ block, step, place: place + 1, of: steps.length }));
  });
}

function colourOf(token, of, by) {
  const share = by === "step" ? (of > 1 ? (token.step - 1) / (of - 1) : 0) : 1 - token.sure;
  return { className: by === "step" ? "by-step" : "by-confidence", percent: `${Math.round(100 * Math.min(1, share))}%` };
}

function drawToken(token, block, at, now, by, highest) {
  const done = block < at.block || (block === at.block && token.step <= at.step);
  const span = element("span", undefined, "token");
  if (!done) {
    span.classList.add("masked");
    span.setAttribute("aria-hidden", "true");
    span.textContent = "\u00a0\u00a0";
    return span;
  }
  const { className, percent } = colourOf(token, highest, by);
  span.classList.add(className);
  span.style.setProperty("--share", percent);
  if (now && block === at.block && token.step === at.step) span.classList.add("new");
  if (!token.counted) span.classList.add("after");
  span.title = `block ${block + 1}, step ${token.step}, confidence ${token.sure.toFixed(2)}`;
  if (token.special) span.classList.add("special");
  // A line break is drawn as a mark, and then breaks the line.
  span.textContent = token.special ? token.text.replace(/[<>|]/g, "") : token.text.replaceAll("\n", "↵\n");
  return span;
}

function startViewer() {
  const answers = data("answers-data");
  if (!answers) return;
  const state = { frame: 0, timer: null, colour: "step" };
  const sides = ["left", "right"].map((id) => {
    const box = byId(id);
    const find = (name) => box.querySelector(`.${name}`);
    return { model: find("model"), budget: find("budget"), verdict: find("verdict"), where: find("where"), text: find("answer"), box };
  });
  const question = byId("question");
  const scrub = byId("scrub");

  for (const [key, benchmark] of Object.entries(answers.benchmarks)) {
    const group = element("optgroup");
    group.label = benchmark.label;
    benchmark.questions.forEach((asked, number) => {
      const option = element("option", `${number + 1}. ${asked.text.slice(0, 70)}${asked.text.length > 70 ? "…" : ""}`);
      option.value = `${key}/${number}`;
      group.append(option);
    });
    question.append(group);
  }
  sides.forEach((side, which) => {
    answers.models.forEach((label, number) => side.model.append(new Option(label, number)));
    answers.budgets.forEach((budget, number) => side.budget.append(new Option(budget.name, number)));
    side.model.value = which ? answers.chosen : 0;
    side.budget.value = Math.min(1, answers.budgets.length - 1);
  });

  function load() {
    const [benchmark, number] = question.value.split("/");
    const asked = answers.benchmarks[benchmark].questions[Number(number)];
    byId("asked").textContent = asked.text;
    byId("expected").textContent = asked.expected ? `Expected: ${asked.expected}` : "";
    for (const side of sides) {
      const budget = answers.budgets[Number(side.budget.value)];
      const list = answers.answers[`${side.model.value}/${benchmark}/${budget.name}`];
      side.entry = list ? list[Number(number)] : null;
      side.blocks = side.entry ? unpack(answers, side.entry, budget.block) : [];
      side.frames = framesOf(side.blocks);
      side.highest = Math.max(1, ...side.blocks.flat().map((token) => token.step));
    }
    scrub.max = Math.max(1, ...sides.map((side) => side.frames.length));
    show(Math.min(state.frame, Number(scrub.max)));
  }

  function show(frame) {
    state.frame = Math.max(0, Math.min(frame, Number(scrub.max)));
    scrub.value = state.frame;
    byId("step").textContent = `step ${state.frame} of ${scrub.max}`;
    scrub.setAttribute("aria-valuetext", `step ${state.frame} of ${scrub.max}`);
    sides.forEach(drawSide);
    if (!state.timer) byId("status").textContent = sides.map((side) => side.where.textContent).join("; ");
  }

  function drawSide(side) {
    const done = Math.min(state.frame, side.frames.length);
    const at = done ? side.frames[done - 1] : { block: -1, step: 0 };
    const ended = side.entry && done === side.frames.length;
    side.box.classList.toggle("wrong", Boolean(side.entry) && side.entry.right === false);
    side.box.classList.toggle("unknown", !side.entry || side.entry.right === undefined);
    side.verdict.textContent = verdictOf(side.entry, side.frames.length);
    side.where.textContent = !side.entry
      ? ""
      : done
        ? `${ended ? "Finished: " : ""}step ${done} of ${side.frames.length}, block ${at.block + 1} of ${side.blocks.length}, its step ${at.place} of ${at.of}`
        : `Not begun: ${side.blocks.length} blocks`;
    side.text.replaceChildren(
      ...side.blocks.map((tokens, block) => {
        const box = element("span", undefined, "block");
        if (block === at.block && !ended) box.classList.add("current");
        const moving = state.frame <= side.frames.length;
        box.append(...tokens.map((token) => drawToken(token, block, at, moving, state.colour, side.highest)));
        return box;
      }),
    );
  }

  function verdictOf(entry, frames) {
    if (!entry) return "This answer is not in the report.";
    const steps = `${entry.length} tokens in ${frames} steps${entry.finish === "length" ? ", cut off" : ""}`;
    if (entry.right === undefined) return `Verdict not here. ${steps}.`;
    const given = entry.extracted && entry.extracted.length < 40 && !entry.right ? `, gave ${entry.extracted}` : "";
    return `${entry.right ? "✓ Right" : `✗ Wrong${given}`}. ${steps}.`;
  }

  function pause() {
    clearInterval(state.timer);
    state.timer = null;
    byId("play").textContent = "Play";
  }

  function play() {
    if (state.timer) return pause();
    if (state.frame >= Number(scrub.max)) show(0);
    byId("play").textContent = "Pause";
    state.timer = setInterval(() => {
      show(state.frame + 1);
      if (state.frame >= Number(scrub.max)) pause();
    }, 350);
  }

  function scale() {
    const byStep = state.colour === "step";
    byId("scale").replaceChildren(
      element("span", byStep ? "first step of a block " : "sure "),
      ...[0, 25, 50, 75, 100].map((percent) => {
        const key = element("span", "\u00a0", `token ${byStep ? "by-step" : "by-confidence"}`);
        key.style.setProperty("--share", `${percent}%`);
        return key;
      }),
      element("span", byStep ? " last step" : " unsure"),
    );
  }

  const goTo = (frame) => () => {
    pause();
    show(frame());
  };
  byId("play").addEventListener("click", play);
  byId("first").addEventListener("click", goTo(() => 0));
  byId("last").addEventListener("click", goTo(() => Number(scrub.max)));
  byId("back").addEventListener("click", goTo(() => state.frame - 1));
  byId("forward").addEventListener("click", goTo(() => state.frame + 1));
  scrub.addEventListener("input", goTo(() => Number(scrub.value)));
  for (const choice of [question, ...sides.flatMap((side) => [side.model, side.budget])]) {
    choice.addEventListener("change", load);
  }
  for (const radio of document.querySelectorAll('input[name="colour"]')) {
    radio.addEventListener("change", () => {
      state.colour = radio.value;
      scale();
      show(state.frame);
    });
  }
  // Where teacher and student differ there is something to see: the first question that the student alone answers right.
  function differs(number, budget) {
    const [left, right] = sides.map((side) => {
      const list = answers.answers[`${side.model.value}/${number.split("/")[0]}/${answers.budgets[budget].name}`];
      return list ? list[Number(number.split("/")[1])] : null;
    });
    return left && right && left.right === false && right.right === true;
  }
  const every = [...question.options].map((option) => option.value);
  const first = Number(sides[0].budget.value);
  const budgets = [first, ...answers.budgets.keys()].filter((budget, place, all) => all.indexOf(budget) === place);
  const found = budgets.flatMap((budget) => every.filter((number) => differs(number, budget)).map((number) => [number, budget]));
  if (found.length) {
    question.value = found[0][0];
    for (const side of sides) side.budget.value = found[0][1];
  }
  scale();
  load();
  show(1);
  // On paper whole answers say more than empty blocks.
  addEventListener("beforeprint", goTo(() => Number(scrub.max)));
}

// What is wider than the page says so.
function startHints() {
  for (const box of document.querySelectorAll(".scroll")) {
    const hint = element("p", "Scroll it sideways to see all of it →", "hint");
    box.after(hint);
    const look = () => (hint.hidden = box.scrollWidth <= box.clientWidth);
    new ResizeObserver(look).observe(box);
    look();
  }
}

// Figures are embedded once: the download is the image itself.
for (const link of document.querySelectorAll("a.save")) {
  link.href = link.closest("figure").querySelector("img").src;
}
// A browser may remember that the box was cleared.
const showIntervals = () => document.body.classList.toggle("with-intervals", byId("intervals").checked);
byId("intervals").addEventListener("change", showIntervals);
showIntervals();
startHints();
startTips();
startProvenance();
startViewer();
