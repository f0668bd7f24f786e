// node build.mjs makes handler.wasm: the handler and its glue are bundled, and become a component with QuickJS inside.
import { cp, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { build } from "esbuild";
import { componentize } from "componentize-qjs";

// componentize-qjs 0.4.5 starts the engine with WASI of its own, and takes no world that names WASI's streams as well. So
// the world goes through it under a name of the same length, and gets its own back in the finished component.
const hide = (text) => text.replaceAll("wasi:", "wasx:");

await rm("build", { recursive: true, force: true });
await mkdir("build");
await cp("wit", "build/wit", { recursive: true });
for (const entry of await readdir("build/wit", { recursive: true, withFileTypes: true })) {
  if (!entry.isFile()) continue;
  const file = join(entry.parentPath, entry.name);
  await writeFile(file, hide(await readFile(file, "utf8")));
}

const bundle = await build({
  entryPoints: ["glue/entry.js"],
  bundle: true,
  write: false,
  format: "esm",
  target: "es2022",
  // QuickJS would leave them pending: see glue/engine.js.
  supported: { "async-await": false, "async-generator": false, "for-await": false, "top-level-await": false },
  external: ["wasi:*", "dunlin:*"],
});
const { component } = await componentize({ witPath: "build/wit", jsSource: hide(bundle.outputFiles[0].text), sync: true, optSize: true });

const bytes = Buffer.from(component);
for (let at = 0; (at = bytes.indexOf("wasx:", at)) >= 0; ) bytes.write("wasi:", at);
await writeFile("handler.wasm", bytes);
