// Reads an ONNX file with netron's own parser, and the weights as netron shows them; prints a digest of each as JSON.
// node netron_read.mjs FOLDER_OF_NETRON MODEL
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { dirname, join, basename } from 'node:path';
import { pathToFileURL } from 'node:url';

const [, , folder, file] = process.argv;
const load = (id) => import(pathToFileURL(join(folder, `${id.replace('./', '')}.js`)));
const base = await load('./base');
const { ModelFactoryService } = await load('./view');

const fail = (error) => { throw error; };
const stream = (name) => new base.BinaryStream(new Uint8Array(readFileSync(join(dirname(file), name))));
const host = { require: load, event: () => {}, exception: fail, environment: () => null };
const context = {
    identifier: basename(file),
    stream: stream(basename(file)),
    container: null,
    entries: new Map(),
    require: load,
    fetch: async (name) => stream(name),
    asset: async (name) => readFileSync(join(folder, name), 'utf-8'),
    error: fail,
};

const model = await new ModelFactoryService(host).open(context);
const [graph] = model.modules;
const weights = {};
for (const value of graph.nodes.flatMap((node) => node.inputs).flatMap((input) => input.value)) {
    const tensor = value.initializer;
    if (tensor && !(tensor.name in weights) && !tensor.peek()) {
        await tensor.read();
        weights[tensor.name] = createHash('sha256').update(tensor.values).digest('hex');
    }
}
console.log(JSON.stringify({ format: model.format, nodes: graph.nodes.length, weights }));
