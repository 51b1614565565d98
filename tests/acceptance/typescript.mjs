// The TypeScript SDK's client against our server: every kind of thing it can list, a call, a refusal, and progress.
// usage: node typescript.mjs stdio COMMAND ARG...   or   node typescript.mjs http URL     prints one line of JSON

import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.env.NODE_FOLDER, "package.json"));
const load = (name) => import(pathToFileURL(require.resolve(`@modelcontextprotocol/sdk/client/${name}.js`)));
const { Client } = await load("index");
const { StdioClientTransport } = await load("stdio");
const { StreamableHTTPClientTransport } = await load("streamableHttp");

const [kind, where, ...args] = process.argv.slice(2);
const transport = kind === "http" ? new StreamableHTTPClientTransport(new URL(where)) : new StdioClientTransport({ command: where, args });
const client = new Client({ name: "typescript", version: "1" });
await client.connect(transport);

const call = async (name, given = {}, options) => client.callTool({ name, arguments: given }, undefined, options);
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
