// Compiles variants of one contract in one process: loading solcjs costs more than compiling.
// Arguments: the contracts folder, and the compiler's settings as JSON. In, one JSON per line: {file, content}: that source with this text
// in place of its own, or {} for the sources as they are. Out, one JSON per line: {bytecode} of
// Escrow, or {error}.
'use strict';
const fs = require('fs');
const path = require('path');
const readline = require('readline');
const root = process.argv[2];
const solc = require(path.join(root, 'node_modules', 'solc'));

const settings = JSON.parse(process.argv[3]);
settings.outputSelection = { 'src/Escrow.sol': { Escrow: ['evm.bytecode.object'] } };
const sources = {};

function read(name) {
  return fs.readFileSync(path.join(root, name), 'utf8');
}

function compile(changed) {
  const input = { language: 'Solidity', sources: {}, settings };
  for (const name of Object.keys(sources)) input.sources[name] = { content: sources[name] };
  if (changed.file) input.sources[changed.file] = { content: changed.content };
  else input.sources['src/Escrow.sol'] = { content: read('src/Escrow.sol') };
  const found = (name) => ({ contents: (sources[name] = read(name)) });
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: found }));
  const error = (output.errors || []).find((e) => e.severity === 'error');
  if (error) return { error: error.message };
  return { bytecode: '0x' + output.contracts['src/Escrow.sol'].Escrow.evm.bytecode.object };
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  process.stdout.write(JSON.stringify(compile(JSON.parse(line))) + '\n');
});
