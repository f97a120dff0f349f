// What was said: final words, which are only ever added to, and behind them the partial ones, which are replaced.

const CUE_WORDS = 12, CUE_S = 6; // of a subtitle at most

export class Transcript {
  constructor(element) {
    this.element = element;
    this.partial = document.createElement("span");
    this.partial.className = "partial";
    this.partial.setAttribute("aria-hidden", "true"); // read out when final
    this.clear();
  }

  clear() {
    this.lines = [[]]; // of final words, a line for each stretch between pauses
    this.element.replaceChildren();
    this.paragraph = null;
    this.segment = 0; // of the last word
    this.offset_s = 0; // where in the transcript the stream at work began
    this.end_s = 0;
  }

  get empty() {
    return this.lines.every((line) => line.length === 0);
  }

  // A stream begins, behind those before it.
  begin() {
    this.offset_s = this.end_s;
    this.breakLine();
  }

  add(update) {
    const atEnd = this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight < 40;
    for (const word of update.final) this.addFinal(word);
    this.end_s = Math.max(this.end_s, this.offset_s + update.audio_s);
    if (update.endpoint) this.breakLine();
    this.partial.textContent = update.partial.map((word) => word.word).join(" ");
    if (this.partial.textContent) this.open().append(this.partial);
    else this.partial.remove();
    if (atEnd) this.element.scrollTop = this.element.scrollHeight;
  }

  addFinal(word) {
    if (word.segment !== this.segment) this.breakLine(); // one update may have words of several
    this.segment = word.segment;
    const paragraph = this.open();
    this.partial.remove();
    const element = document.createElement("span");
    element.className = "final";
    element.textContent = word.word + " ";
    element.title = `${word.start_s.toFixed(2)} s, confidence ${Math.round(100 * word.confidence)} %`;
    paragraph.append(element);
    const { start_s, end_s } = word;
    this.lines.at(-1).push({ word: word.word, start_s: start_s + this.offset_s, end_s: end_s + this.offset_s });
  }

  open() {
    if (this.paragraph === null) {
      this.paragraph = document.createElement("p");
      this.element.append(this.paragraph);
    }
    return this.paragraph;
  }

  breakLine() {
    if (this.lines.at(-1).length) {
      this.lines.push([]);
      this.paragraph = null;
    }
  }

  // The connection broke: what was not final is lost.
  drop() {
    this.partial.remove();
  }

  text() {
    return this.lines.filter((line) => line.length).map((line) => line.map((w) => w.word).join(" ") + "\n").join("");
  }

  srt() {
    const cues = this.lines.flatMap(cuesOf);
    return cues.map((cue, i) =>
      `${i + 1}\n${clock(cue[0].start_s)} --> ${clock(cue.at(-1).end_s)}\n${cue.map((w) => w.word).join(" ")}\n`
    ).join("\n");
  }
}

function cuesOf(line) {
  const cues = [];
  for (const word of line) {
    const cue = cues.at(-1);
    if (cue && cue.length < CUE_WORDS && word.end_s - cue[0].start_s <= CUE_S) cue.push(word);
    else cues.push([word]);
  }
  return cues;
}

function clock(seconds) {
  const ms = Math.round(seconds * 1000);
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  return `${two(ms / 3600000)}:${two(ms / 60000 % 60)}:${two(ms / 1000 % 60)},${String(ms % 1000).padStart(3, "0")}`;
}
