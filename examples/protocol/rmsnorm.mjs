// rmsnorm as a program, in JavaScript (docs/protocol.md).
//
//   python -m diffuzz search --target rmsnorm --candidate 'run: node rmsnorm.mjs'
import { readSync, writeSync } from "node:fs";

function read(length) {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const count = readSync(0, bytes, at, length - at, null);
    if (count === 0) process.exit(0); // the end: diffuzz has no more requests
    at += count;
  }
  return bytes;
}

function write(header, body = new Uint8Array(0)) {
  const text = new TextEncoder().encode(JSON.stringify(header));
  const prefix = new DataView(new ArrayBuffer(16));
  [..."DFZ1"].forEach((letter, i) => prefix.setUint8(i, letter.charCodeAt(0)));
  prefix.setUint32(4, text.length, true);
  prefix.setBigUint64(8, BigInt(body.length), true);
  for (const part of [new Uint8Array(prefix.buffer), text, body]) {
    for (let at = 0; at < part.length; ) at += writeSync(1, part, at);
  }
}

function run(request, body) {
  const [input] = request.inputs;
  if (input.dtype !== "float32") return write({ message: "skip", text: `no ${input.dtype}` });
  const x = new Float32Array(body.buffer, input.offset, input.bytes / 4);
  const y = new Float32Array(x.length);
  const n = input.shape.at(-1);
  for (let row = 0; row < x.length; row += n) {
    let squares = 0;
    for (let i = row; i < row + n; i++) squares += x[i] * x[i];
    const scale = 1 / Math.sqrt(squares / n + request.parameters.eps);
    for (let i = row; i < row + n; i++) y[i] = x[i] * scale;
  }
  write({ message: "result" }, new Uint8Array(y.buffer));
}

for (;;) {
  const prefix = new DataView(read(16).buffer);
  const request = JSON.parse(new TextDecoder().decode(read(prefix.getUint32(4, true))));
  const body = read(Number(prefix.getBigUint64(8, true)));
  if (request.message === "describe") write({ message: "describe", protocol: 1, operations: ["rmsnorm"] });
  else if (request.message === "run") run(request, body);
  else write({ message: "error", text: `no message ${request.message}` });
}
