"""Errors as OpenAI's clients expect them."""

from collections.abc import Sequence

import orjson

from node.errors import NodeError

RETRY_S = 1
"""After what will pass: SDKs wait exactly as long as they are told, and then try again."""

Headers = Sequence[tuple[bytes, bytes]]


class ApiError(NodeError):
    """A request that gets a status and a body instead of an answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        headers: Headers = (),
    ) -> None:
        """
        Args:
            status: Of HTTP.
            message: A sentence for people; never any of the prompt.
            code: For programs.
            kind: The body's `type`.
            param: The field that is wrong.
            headers: To be sent with it.
        """
        super().__init__(message)
        self.status = status
        self.code = code
        self.kind = kind
        self.param = param
        self.headers = headers

    def body(self) -> bytes:
        """JSON."""
        return orjson.dumps(
            {
                "error": {
                    "message": str(self),
                    "type": self.kind,
                    "param": self.param,
                    "code": self.code,
                }
            }
        )


def bad_field(param: str, why: str) -> ApiError:
    """A field that can't be taken as it is."""
    return ApiError(400, f"{param}: {why}", code="invalid_value", param=param)


def unsupported(param: str, why: str) -> ApiError:
    """A field that means something, which nobody here can do."""
    return ApiError(400, f"{param}: {why}", code="unsupported_parameter", param=param)


def not_found(message: str, *, code: str = "not_found") -> ApiError:
    """What is asked for is not there."""
    return ApiError(404, message, code=code)


def model_not_found(message: str) -> ApiError:
    """Nobody sells the model."""
    return ApiError(404, message, code="model_not_found", param="model")


def unpaid(message: str, *, code: str = "insufficient_quota") -> ApiError:
    """The deposit, or the key's limit, does not cover it.  SDKs do not try again on 402."""
    return ApiError(402, message, code=code, kind="insufficient_quota")


def busy(message: str, *, code: str = "no_bids") -> ApiError:
    """Nobody can do it now; in a moment somebody may."""
    retry = (b"retry-after", b"%d" % RETRY_S)
    return ApiError(503, message, code=code, kind="server_error", headers=(retry,))


def failed(message: str) -> ApiError:
    """It was begun, and a worker did not end it."""
    return ApiError(502, message, code="worker_failed", kind="server_error")
