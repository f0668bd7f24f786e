// node build.mjs <source.js> <wit directory> <out.wasm>: makes a component of a JS handler.
// The engine is started and stopped on the way, with random seeds that stay inside: no two builds have the same bytes.
import { readFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const [sourcePath, witPath, out] = process.argv.slice(2);
const source = await readFile(sourcePath, "utf8");

const { component } = await componentize(source, { sourceName: "handler.js", witPath, worldName: "handler" });
await writeFile(out, component);
