// Runs in the audio thread: samples of the microphone to PCM16 in pieces of 40 ms, each with its level.

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.size = Math.round(sampleRate * 0.04);
    this.start();
    this.stopped = false;
    this.port.onmessage = () => {
      this.send();
      this.port.postMessage("stopped");
      this.stopped = true;
    };
  }

  start() {
    this.samples = new Int16Array(this.size);
    this.filled = 0;
    this.power = 0;
  }

  send() {
    if (this.filled === 0) return;
    const samples = this.samples.slice(0, this.filled);
    const level = 10 * Math.log10(this.power / this.filled + 1e-10); // dB of full scale
    this.port.postMessage({ samples, level }, [samples.buffer]);
    this.start();
  }

  process(inputs) {
    const channels = inputs[0];
    if (this.stopped) return false;
    if (channels.length === 0) return true;
    for (let i = 0; i < channels[0].length; i++) {
      let value = 0;
      for (const channel of channels) value += channel[i] / channels.length;
      this.power += value * value;
      this.samples[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
      if (this.filled === this.size) this.send();
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
