
// Published texts of answers: a question, the verdicts on all answers to it, and the texts of some of them.

// Questions of the page, whose texts are compressed.
async function unpackTexts(packed) {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(plain).json();
}

async function startTexts() {
  const { rows, budgets, columns, packed } = data("texts-data");
  const asked = byId("texts-asked");
  let questions;
  try {
    questions = await unpackTexts(packed);
  } catch (error) {
    asked.textContent = `This browser cannot unpack the answers (${error.message}); one of 2023 or later can.`;
    return;
  }
  const question = byId("texts-question");
  const shown = byId("texts-shown");
  const group = (select, label, options) => {
    const made = element("optgroup");
    made.label = label;
    made.append(...options);
    select.append(made);
  };
  columns.forEach((column, number) => {
    const own = [...questions.entries()].filter(([, asks]) => asks.column === number);
    const options = own.map(([place, { id, text }]) => {
      // Tasks begin with an instruction that all have, and many of HumanEval then with the same imports.
      const signature = id.startsWith("HumanEval/") && (text || "").split("\n").find((part) => part.startsWith("def "));
      const line = signature || (text || "").split("\n\n").find((part) => !part.includes("in a code block")) || "";
      return new Option(`${id} ${line.slice(0, 70)}${line.length > 70 ? "…" : ""}`, place);
    });
    if (options.length) group(question, column.label, options);
  });
  group(shown, "Every method at", budgets.map((budget, place) => new Option(budget, `budget/${place}`)));
  group(shown, "One method at every number of tokens per step", rows.map((row, place) => new Option(row, `row/${place}`)));
  shown.value = `budget/${budgets.length - 1}`;

  function card(title, answer) {
    const [text, right] = answer;
    const box = element("section", undefined, "side");
    box.classList.toggle("wrong", right === false);
    box.classList.toggle("unknown", right === null);
    const body = element("div", text || "(empty)", "answer");
    body.tabIndex = 0;
    body.setAttribute("role", "region");
    body.setAttribute("aria-label", `${title}: answer's text`);
    box.append(element("h3", title), element("p", right === null ? "Verdict not here" : right ? "✓ Right" : "✗ Wrong", "verdict"), body);
    return box;
  }

  function draw() {
    const asks = questions[Number(question.value)];
    const column = columns[asks.column];
    byId("texts-chosen").textContent = `${column.label}: ${column.chosen}.`;
    const without = `Question ${asks.id}. Its text is not in this page: ${column.why} Then make the report again.`;
    asked.textContent = asks.text === null ? without : asks.text;
    byId("texts-expected").textContent = asks.expected ? `Expected: ${asks.expected}` : "";
    document.querySelectorAll(".verdicts tbody tr").forEach((line, row) => {
      line.querySelectorAll("td").forEach((cell, budget) => {
        const [, right] = asks.answers[`${row}/${budget}`] || [];
        cell.textContent = right === undefined ? "–" : right === null ? "verdict not here" : right ? "✓" : "✗";
        cell.className = right === true ? "right" : right === false ? "wrong" : "";
      });
    });
    const [kind, place] = shown.value.split("/");
    const keys = kind === "row" ? budgets.map((_, budget) => `${place}/${budget}`) : rows.map((_, row) => `${row}/${place}`);
    const cards = keys.filter((key) => asks.answers[key]).map((key) => {
      const [row, budget] = key.split("/");
      return card(`${rows[row]}, ${budgets[budget]}`, asks.answers[key]);
    });
    byId("texts-sides").replaceChildren(...cards);
  }

  question.addEventListener("change", draw);
  shown.addEventListener("change", draw);
  draw();
}

startTexts();
