"""Why an attempt to deliver got no complete answer."""


class Failure(Exception):
    """The network or the receiver did not do its part; `code` is what the delivery log shows."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
