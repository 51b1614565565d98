// The TypeScript SDK's client against our server: every kind of thing it can list, a call, a refusal, and progress.
// usage: node typescript.mjs 1|2 stdio COMMAND ARG...   or   node typescript.mjs 1|2 http URL     prints one line of JSON
// 1 is @modelcontextprotocol/sdk; 2 is @modelcontextprotocol/client, which asks for the newest protocol first.

import { createRequire } from "node:module";
import { join } from "node:path";

const [version, kind, where, ...args] = process.argv.slice(2);
const require = createRequire(join(process.env.NODE_FOLDER, "package.json"));
const parts =
  version === "1"
    ? ["index", "stdio", "streamableHttp"].map((name) => `@modelcontextprotocol/sdk/client/${name}.js`)
    : ["@modelcontextprotocol/client", "@modelcontextprotocol/client/stdio"];
const { Client, StdioClientTransport, StreamableHTTPClientTransport } = Object.assign({}, ...parts.map((part) => require(part)));

const transport = kind === "http" ? new StreamableHTTPClientTransport(new URL(where)) : new StdioClientTransport({ command: where, args });
const client = new Client({ name: "typescript", version: "1" }, version === "1" ? {} : { versionNegotiation: { mode: "auto" } });
await client.connect(transport);

const call = async (name, given = {}, ...options) =>
  client.callTool({ name, arguments: given }, ...(version === "1" ? [undefined, ...options] : options));
const edits = [{ path: "train.py", search: "DEPTH = 2", replace: "DEPTH = 3" }];
const proposed = await call("propose_patch", { hypothesis: "A third layer is worth its time.", edits, author: "typescript" });
const launched = await call("launch_training", { commit: "champion" });
let progress = 0;
const waiting = { ids: launched.structuredContent.experiments, timeout_s: 1 };
const waited = await call("wait_for_experiments", waiting, { onprogress: () => progress++ });
const picture = await call("plot_progress");
const refused = await call("get_status", { verbose: true });
const prompt = await client.getPrompt({ name: "worker", arguments: { name: "typescript" } });
const status = await client.readResource({ uri: "lab://status" });

console.log(
  JSON.stringify({
    server: client.getServerVersion().name,
    protocol: version === "1" ? transport.protocolVersion : client.getNegotiatedProtocolVersion(),
    tools: (await client.listTools()).tools.map((tool) => tool.name),
    prompts: (await client.listPrompts()).prompts.map((each) => each.name),
    resources: (await client.listResources()).resources.map((resource) => resource.uri),
    proposed: proposed.structuredContent,
    waited: waited.structuredContent,
    progress,
    picture: picture.content[1].mimeType,
    refused: [refused.isError, refused.content[0].text],
    prompt: prompt.messages[0].content.text,
    status: JSON.parse(status.contents[0].text),
  }),
);
await client.close();
