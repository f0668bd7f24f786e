// node build.mjs <source.js> <wit directory> <out.wasm>: makes a component of a JS handler.
import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const [sourcePath, witPath, out] = process.argv.slice(2);
const source = await readFile(sourcePath, "utf8");

// The tool works in a directory whose random name stays in the component. Drawn from the source instead, the same source
// gives the same bytes, and a changed one differs by as much as it would in anyone's hands.
const digest = createHash("sha256").update(source).digest();
Math.random = () => digest.readUInt32BE() / 2 ** 32;

const { component } = await componentize(source, { sourceName: "handler.js", witPath, worldName: "handler" });
await writeFile(out, component);
