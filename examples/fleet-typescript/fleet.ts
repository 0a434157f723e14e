// A whole fleet from proto/leeway/v1/rollout.proto alone: `node fleet.js GATEWAY TOKEN [PROTO_DIRECTORY]`.
// Put your own engine and judge into `sample`; this one "generates" random tokens.
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const [address, token, protos = "../../proto"] = process.argv.slice(2);
const options = { includeDirs: [protos], keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
const loaded = loadSync("leeway/v1/rollout.proto", options);
const { RolloutService } = (grpc.loadPackageDefinition(loaded) as any).leeway.v1;
const client = new RolloutService(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${token}`);

let version: number | undefined; // of the weights that the engine runs
let finished = false;
const away = new Set([grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED, grpc.status.CANCELLED]);
const jitter = (ms: number) => sleep(ms * (1 + Math.random() / 2));

// Calls until there is an answer; only for calls that may be repeated.
async function call(method: string, request: object): Promise<any> {
  for (;;) {
    try {
      return await new Promise((resolve, reject) =>
        client[method](request, metadata, { deadline: Date.now() + 10_000 },
          (error: grpc.ServiceError | null, reply: any) => (error ? reject(error) : resolve(reply))));
    } catch (error: any) {
      const limited = Number(error.metadata?.get("retry-after-ms")[0] ?? 0);
      if (!away.has(error.code) && !limited) throw error;
      await jitter(Math.max(200, limited));
    }
  }
}

// Follows the published versions until the run has finished.
async function watch(): Promise<void> {
  while (!finished) {
    await new Promise<void>((resolve) => {
      const known = version === undefined ? {} : { known_version: version };
      const stream = client.WatchPolicy(known, metadata, { deadline: Date.now() + 300_000 });
      stream.on("data", (message: any) => {
        if (message.policy) version = message.policy.version; // a real engine loads the weights at message.policy.uri first
        finished ||= message.finished;
      });
      stream.on("error", () => resolve());
      stream.on("end", () => resolve());
    });
    if (!finished) await jitter(200);
  }
}

interface Pending { group: any; leaseId: string; done: (ack: any) => void }

// Keeps every group until its final ack, over as many streams as it takes.
class Submitter {
  private pending = new Map<number, Pending>();
  private stream: any;
  private sequence = 0;

  submit(group: any, leaseId: string): Promise<any> {
    return new Promise((done) => this.send({ group, leaseId, done }));
  }

  private send(one: Pending): void {
    this.pending.set(++this.sequence, one);
    this.open().write({ sequence: this.sequence, group: one.group, lease_id: one.leaseId });
  }

  private open(): any {
    if (this.stream) return this.stream;
    this.stream = client.Submit(metadata);
    this.stream.on("data", (message: any) => message.acks.forEach((ack: any) => this.onAck(ack)));
    this.stream.on("end", () => undefined);
    this.stream.on("error", (error: any) => {
      if (error.code === grpc.status.UNAUTHENTICATED) throw error;
      this.stream = undefined; // what has no ack is sent again, under the same ids
      const again = [...this.pending.values()];
      this.pending.clear();
      if (!finished) void jitter(200).then(() => again.forEach((one) => this.send(one)));
    });
    return this.stream;
  }

  private onAck(ack: any): void {
    const one = this.pending.get(ack.sequence);
    this.pending.delete(ack.sequence);
    if (!one) return;
    if (ack.outcome === "OUTCOME_RETRY" && ack.reason !== "run_finished") void jitter(ack.retry_after_ms).then(() => this.send(one));
    else one.done(ack);
  }

  close(): void {
    this.stream?.end();
  }
}

// UUID version 7: Unix milliseconds, then random bits.
function groupId(): string {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(Date.now(), 0, 6);
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

const ids = (count: number, size: number) => Array.from({ length: count }, () => Math.floor(Math.random() * size));
const encode = (tokens: number[]) => Buffer.from(Int32Array.from(tokens).buffer); // little-endian on every machine with Node.js

function sample(run: any): object {
  const tokens = ids(8, run.vocab_size);
  const reward = Math.min(Math.max(Number(tokens[0] < tokens[1]), run.min_reward), run.max_reward);
  const spans = [{ version, start: 0, end: tokens.length }];
  return { tokens: encode(tokens), reward, finish_reason: "FINISH_REASON_STOP", spans };
}

async function produce(): Promise<void> {
  const run = await call("DescribeRun", {});
  const submitter = new Submitter();
  while (!finished) {
    if (version === undefined) { await sleep(50); continue; }
    const lease = await call("Lease", { groups: 4, worker: "typescript", running_version: version });
    if (!lease.groups) { await sleep(lease.retry_after_ms); continue; }
    const acks = Array.from({ length: lease.groups }, () => submitter.submit({
      group_id: groupId(), prompt_id: "random", task: "random", prompt_tokens: encode(ids(4, run.vocab_size)), temperature: 1,
      responses: Array.from({ length: Math.max(2, run.min_group_size) }, () => sample(run)),
    }, lease.lease_id));
    for (const ack of await Promise.all(acks))
      if (ack.outcome === "OUTCOME_REJECTED") console.error(`rejected: ${ack.reason} ${ack.field} ${ack.value}`);
  }
  submitter.close();
}

const produced = produce();
await watch();
await Promise.race([produced, sleep(2_000)]); // groups that are on their way have two seconds
process.exit(0);
