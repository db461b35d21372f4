"""Our small model as a server has it."""

from node.adapters import model_folder
from node.adapters.openai.served import Served
from node.adapters.text import ChatText
from tests.adapters.openai.server import NAME


def tiny(name: str = NAME) -> Served:
    folder = model_folder.load(model_folder.shipped())
    text = ChatText.of(folder.client_files())
    return Served(
        name=name,
        manifest=folder.manifest,
        encode=text.encode,
        decode=text.decode,
        count=text.count,
        renders=text.has_template,
    )
