// Exported files in a browser's ONNX runtime: the engine's answers at every level of optimisation.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const CLOSE = 1e-5;
const [environment, folder] = process.argv.slice(2).map((path) => resolve(path));
const ort = createRequire(join(environment, "package.json"))("onnxruntime-web/wasm");
ort.env.wasm.numThreads = 1;

async function check(file, level) {
  const model = readFileSync(join(folder, `${file.name}.onnx`));
  const session = await ort.InferenceSession.create(model, { graphOptimizationLevel: level });
  const rows = new ort.Tensor("float32", Float32Array.from(file.rows), file.shape);
  const answers = await session.run({ [file.input]: rows });
  for (const [name, wanted] of Object.entries(file.wanted)) {
    const found = answers[name];
    if (JSON.stringify(found.dims) !== JSON.stringify(wanted.shape)) {
      throw new Error(`${name} has shape ${found.dims}, not ${wanted.shape}`);
    }
    const far = wanted.values.findIndex((value, at) => !(Math.abs(found.data[at] - value) <= CLOSE * Math.max(1, Math.abs(value))));
    if (far >= 0) throw new Error(`${name} is ${found.data[far]} at ${far}, not ${wanted.values[far]}`);
  }
}

let failed = 0;
for (const file of JSON.parse(readFileSync(join(folder, "exported.json"), "utf8"))) {
  for (const level of ["disabled", "basic", "extended", "all"]) {
    try {
      await check(file, level);
      console.log(`passed ${file.name} at level ${level}`);
    } catch (error) {
      failed += 1;
      console.log(`failed ${file.name} at level ${level}: ${error.message}`);
    }
  }
}
process.exit(failed > 0 ? 1 : 0);
