// Answers what forge asks of a native solc: --version, and --standard-json on stdin.
'use strict';
const fs = require('fs');
const path = require('path');
const solc = require(path.join(__dirname, '..', 'node_modules', 'solc'));

const VALUED = new Set(['--base-path', '--include-path', '--allow-paths']);

function parse(argv) {
  const options = { roots: [], json: false, version: false };
  for (let i = 0; i < argv.length; i++) {
    if (argv[i] === '--version') options.version = true;
    else if (argv[i] === '--standard-json') options.json = true;
    else if (VALUED.has(argv[i])) {
      const value = argv[++i];
      if (argv[i - 1] !== '--allow-paths') options.roots.push(value);
    } else if (argv[i] !== '-') throw new Error(`unsupported argument ${argv[i]}`);
  }
  return options;
}

// forge sends every source in the JSON; this answers for callers that send only the roots.
function reader(roots) {
  return (name) => {
    for (const root of roots) {
      try {
        return { contents: fs.readFileSync(path.join(root, name), 'utf8') };
      } catch (error) {
        if (error.code !== 'ENOENT') return { error: String(error) };
      }
    }
    return { error: `File not found: ${name}` };
  };
}

const options = parse(process.argv.slice(2));
if (options.version) {
  process.stdout.write(
    `solc, the solidity compiler commandline interface\nVersion: ${solc.version()}\n`);
} else if (options.json) {
  const input = fs.readFileSync(0, 'utf8');
  process.stdout.write(solc.compile(input, { import: reader(options.roots) }));
} else {
  process.stderr.write('solc-wrap: only --version and --standard-json are supported\n');
  process.exitCode = 1;
}
