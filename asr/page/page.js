// The page: a microphone or a file to the server's /stream, and what comes back into the transcript.

import { Transcript } from "./transcript.js";

const FILE_RATE = 16000, FILE_CHUNK = 3200; // samples a second, and in a message
const AHEAD_BYTES = 1 << 17; // of a file, handed to the browser before it has sent them
const DECODED_BYTES = 1 << 25; // of a file that the browser decodes itself; an hour of speech as MP3
const SMOOTHED = 8; // results that the shown latency is the mean of

const $ = (id) => document.getElementById(id);
const transcript = new Transcript($("transcript"));
let session = null; // the stream at work

// A stream to the server. `stopped` resolves when its last words are there, or it has failed.
class Session {
  constructor(rate, isLive) {
    this.rate = rate;
    this.isLive = isLive;
    this.sent = 0; // samples
    this.times = []; // of what was sent: [seconds of audio to its end, when]
    this.latencies = [];
    this.failed = "";
    this.stopping = this.left = false;
    const url = new URL("stream", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.started = new Promise((resolve, reject) => { this.onstarted = resolve; this.onrefused = reject; });
    this.started.catch(() => {}); // it is also told by `stopped`
    this.stopped = new Promise((resolve) => { this.onstopped = resolve; });
    this.socket.onopen = () => this.say({ type: "start", format: "pcm16", sample_rate: rate, hotwords: hotwords() });
    this.socket.onmessage = (event) => this.hear(JSON.parse(event.data));
    this.socket.onclose = (event) => this.close(event);
  }

  say(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  send(samples) { // Int16Array
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(samples);
    this.sent += samples.length;
    this.times.push([this.sent / this.rate, performance.now()]);
    $("heard").textContent = `${(this.sent / this.rate).toFixed(1)} s`;
  }

  // Resolves when the browser has sent nearly all it was given.
  async room() {
    while (this.socket.readyState === WebSocket.OPEN && this.socket.bufferedAmount > AHEAD_BYTES)
      await new Promise((resolve) => setTimeout(resolve, 20));
    return this.socket.readyState === WebSocket.OPEN;
  }

  // As asked by the user: the end of the sound, and when that has been asked before, or before it began, of it all.
  stop() {
    if (this.finish && !this.stopping) {
      this.stopping = true;
      this.finish();
    } else {
      this.left = true;
      this.socket.onmessage = null;
      this.socket.close();
      this.close({ code: 1000 }); // now: a server that is not there does not answer
    }
  }

  end() {
    this.say({ type: "end" });
  }

  hear(message) {
    if (message.type === "started") {
      transcript.begin();
      this.onstarted();
    } else if (message.type === "error") {
      this.failed = message.message;
    } else {
      transcript.add(message);
      if (message.type === "update" && this.isLive) this.measure(message.audio_s);
      tools();
    }
  }

  // From the moment the last sample that a result rests on was sent. Resampling holds back less than 10 ms.
  measure(audio_s) {
    while (this.times.length && this.times[0][0] < audio_s - 0.001) this.times.shift();
    if (!this.times.length) return;
    this.latencies.push(performance.now() - this.times[0][1]);
    this.latencies = this.latencies.slice(-SMOOTHED);
    const mean = this.latencies.reduce((a, b) => a + b) / this.latencies.length;
    $("latency").textContent = `${Math.round(mean)} ms`;
  }

  close(event) {
    if (event.code !== 1000 && !this.failed && !this.left)
      this.failed = event.reason || "The connection to the server is lost; what was not final is missing.";
    transcript.drop();
    this.onrefused(new Error(this.failed));
    this.onstopped();
  }
}

async function record() {
  if (!navigator.mediaDevices) throw new Error("The microphone needs a page over https, or on this machine itself.");
  const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false };
  const media = await navigator.mediaDevices.getUserMedia({ audio });
  const context = new AudioContext();
  try {
    await context.audioWorklet.addModule("recorder.js").catch(() => { throw new Error("The server does not answer."); });
    const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
    const own = session = new Session(context.sampleRate, true);
    await session.started;
    node.port.onmessage = ({ data }) => {
      if (session !== own) return;
      if (data === "stopped") return own.end();
      own.send(data.samples);
      level(data.level);
    };
    session.finish = () => node.port.postMessage("stop");
    media.getAudioTracks()[0].onended = session.finish; // unplugged, or taken away
    context.createMediaStreamSource(media).connect(node);
    look("Listening", true);
    await session.stopped;
  } finally {
    for (const track of media.getTracks()) track.stop();
    await context.close();
  }
}

async function play(file) {
  look("Reading the file", true);
  if (file.size > DECODED_BYTES) return upload(file); // the browser would need gigabytes for its samples
  let sound;
  try {
    sound = await new OfflineAudioContext(1, 1, FILE_RATE).decodeAudioData(await file.arrayBuffer());
  } catch {
    return upload(file); // of a kind that the server can read
  }
  session = new Session(FILE_RATE, false);
  let stopped = false;
  session.finish = () => { stopped = true; };
  await session.started;
  look("Recognising the file", true);
  for (let from = 0; from < sound.length && !stopped && await session.room(); from += FILE_CHUNK)
    session.send(pcm16(sound, from));
  session.end();
  await session.stopped;
}

function pcm16(sound, from) {
  const samples = new Int16Array(Math.min(FILE_CHUNK, sound.length - from));
  const channels = Array.from({ length: sound.numberOfChannels }, (_, c) => sound.getChannelData(c));
  for (let i = 0; i < samples.length; i++) {
    const value = channels.reduce((sum, channel) => sum + channel[from + i], 0) / channels.length;
    samples[i] = Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
  }
  return samples;
}

async function upload(file) {
  const words = hotwords().map((word) => `hotword=${encodeURIComponent(word)}`).join("&");
  const broken = new AbortController();
  session = { stop: () => broken.abort() };
  look("The server reads the file; words come at its end", true);
  let answer, found;
  try {
    answer = await fetch(`transcribe?${words}`, { method: "POST", body: file, signal: broken.signal });
    found = await answer.json();
  } catch {
    if (broken.signal.aborted) return;
    throw new Error("The connection to the server is lost, or it refused the file.");
  }
  if (!answer.ok) throw new Error(found.error);
  transcript.begin();
  transcript.add({ final: found.words, partial: [], endpoint: "", audio_s: found.duration_s });
  tools();
}

// One stream at a time, from the press of a button to its last words.
async function run(work) {
  $("error").hidden = true;
  $("latency").textContent = "–";
  look("Starting", true);
  try {
    await work();
    if (session?.failed) throw new Error(session.failed);
  } catch (error) {
    $("error").textContent = error.name === "NotAllowedError" ? "The browser was not allowed to use the microphone."
      : error.name === "NotFoundError" ? "There is no microphone." : error.message;
    $("error").hidden = session?.left === true;
  } finally {
    session = null;
    level(-60);
    look("Ready", false);
  }
}

function look(status, busy) {
  $("status").textContent = status;
  $("microphone").textContent = busy ? "Stop" : "Start microphone";
  $("microphone").classList.toggle("on", busy);
  if (busy && document.activeElement === $("choose")) $("microphone").focus(); // a disabled button takes no keys
  $("choose").disabled = $("hotwords").disabled = busy;
  tools();
}

function tools() {
  for (const id of ["copy", "text", "srt"]) $(id).disabled = transcript.empty;
  $("clear").disabled = transcript.empty || session !== null;
}

function level(db) {
  const bounded = Math.max(-60, Math.min(0, db));
  $("level").setAttribute("aria-valuenow", Math.round(bounded));
  $("level").classList.toggle("high", bounded > -6);
  $("level").firstElementChild.style.transform = `scaleX(${(bounded + 60) / 60})`;
}

function hotwords() {
  return $("hotwords").value.split(",").map((word) => word.trim()).filter(Boolean);
}

function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

$("microphone").onclick = () => {
  if ($("microphone").classList.contains("on")) session?.stop();
  else run(record);
};
$("choose").onclick = () => $("file").click();
$("file").onchange = () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) run(() => play(file));
};
$("copy").onclick = async () => {
  await navigator.clipboard.writeText(transcript.text());
  $("status").textContent = "Copied";
};
$("text").onclick = () => download("transcript.txt", transcript.text());
$("srt").onclick = () => download("transcript.srt", transcript.srt());
$("clear").onclick = () => { transcript.clear(); tools(); };
