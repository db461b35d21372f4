"""Text to token ids and back, by the tokenizer and chat template of a model's manifest."""

from node.adapters.text.chat import ChatText, Message

__all__ = ["ChatText", "Message"]
