// Classify a photograph, ask why it was done so, and say what it really shows: node node.mjs TASK IMAGE [LABEL]
import { readFile } from "node:fs/promises";
import http from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

const socketPath = process.env.PATCHD_SOCKET ?? `${process.env.XDG_RUNTIME_DIR}/patchd/patchd.sock`;
const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });

// One request; the parsed answer. `type` is the Content-Type of `body`.
function once(method, path, body, type) {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { "Content-Type": type, "Content-Length": body.length };
    const request = http.request({ socketPath, agent, method, path, headers }, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part));
      response.on("end", () => resolve({ status: response.statusCode, answer: JSON.parse(Buffer.concat(parts)) }));
    });
    request.on("error", reject);
    request.end(body);
  });
}

// What the daemon refused for now, or lost with a worker, is sent again after the time it asks for.
async function ask(method, path, body, type) {
  for (let attempt = 0; ; attempt++) {
    const { status, answer } = await once(method, path, body, type);
    if (status < 300) return answer;
    const again = answer.code === "busy" || answer.code === "worker_crashed";
    if (!again || attempt === 2) throw new Error(answer.hint ? `${answer.error} ${answer.hint}` : answer.error);
    await sleep(1000 * (answer.retry_after_s ?? 0.2));
  }
}

async function main(task, file, label) {
  const path = `/v1/tasks/${encodeURIComponent(task)}`;
  const answer = await ask("POST", `${path}/infer?top_k=3`, await readFile(file), "image/jpeg");
  for (const { label, probability } of answer.predictions) console.log(`${(100 * probability).toFixed(1)} %  ${label}`);
  console.log(`${answer.base} at ${answer.resolution} px in ${answer.timing.total_ms.toFixed(1)} ms: ${answer.why}`);
  const told = await ask("GET", `/v1/explain?request=${answer.request_id}`);
  for (const { heading, sentences, items } of told.sections) console.log([`${heading}:`, ...sentences, ...items].join("\n"));
  if (label !== undefined && answer.predictions[0].label !== label) {
    const body = Buffer.from(JSON.stringify({ label, request: answer.request_id }));
    const example = await ask("POST", `${path}/corrections`, body, "application/json");
    console.log(`corrected: example ${example.id} shows '${label}'`);
  }
}

try {
  await main(...process.argv.slice(2));
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
agent.destroy();
